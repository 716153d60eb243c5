"""What the shell offers when Tab is pressed behind a command that takes a model."""

from __future__ import annotations

from collections.abc import Iterator


def complete_model(incomplete: str) -> Iterator[str]:
    """Names of this home that begin so. Nothing where the home cannot be read: Tab is no place for errors."""
    from hugind.cli.shelf import entries
    from hugind.supervisor.errors import HugindError
    from hugind.supervisor.settings import read_environment

    try:
        names = [entry.name for entry in entries(read_environment().home)]
    except (HugindError, OSError):
        return
    yield from (name for name in names if name.startswith(incomplete))
