"""Which name is meant? Clients write `demo`, `demo:latest`, `demo.gguf`, `Demo`. Pure."""

from __future__ import annotations

from collections.abc import Collection

LATEST = ":latest"


def match_name(given: str, known: Collection[str]) -> str | None:
    """The known name that `given` means: itself, without `:latest` or `.gguf`, else whatever its case. None: none.

    Ollama's rule for tags: `m` and `m:latest` are the same; matching an existing name ignores case.
    """
    for spelled in _spellings(given):
        if spelled in known:
            return spelled
    folded = {name.casefold(): name for name in known}
    for spelled in _spellings(given):
        if (found := folded.get(spelled.casefold())) is not None:
            return found
    return None


def _spellings(given: str) -> list[str]:
    bare = given.removesuffix(LATEST)
    return list(dict.fromkeys((given, bare, bare.removesuffix(".gguf"), bare + LATEST)))
