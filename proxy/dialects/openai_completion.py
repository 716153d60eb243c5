"""OpenAI's requests for completions of a text as the engine takes them, and its answers with their `logprobs`. Pure.

The engine ignores `echo`, `suffix` and `best_of`, and gives `logprobs` as chat has them; here they are in the form of
completions as well.
"""

from __future__ import annotations

from typing import Any

from hugind.proxy.dialects.errors import DialectError


class CompletionForm:
    """One request. Lives as long as it."""

    def __init__(self) -> None:
        self._alternatives: int | None = None
        self._offsets: dict[int, int] = {}

    def take(self, request: dict[str, Any]) -> None:
        """As `Form.take`."""
        if request.get("echo"):
            raise DialectError.unsupported("echo: the prompt is not repeated here", "echo")
        if request.get("suffix"):
            raise DialectError.unsupported("suffix: ask /infill, with input_prefix and input_suffix", "suffix")
        best_of = request.pop("best_of", None)
        if best_of not in (None, 1, request.get("n")):
            raise DialectError.unsupported("best_of: only as many as n", "best_of")
        wanted = request.get("logprobs")
        if type(wanted) is int and wanted >= 0:
            self._alternatives = wanted
            request["logprobs"] = max(wanted, 1)  # for 0 the engine gives none at all

    @property
    def is_plain(self) -> bool:
        """As `Form.is_plain`."""
        return self._alternatives is None

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """As `Form.event`."""
        for choice in event.get("choices") or ():
            self._add_logprobs(choice)
            if choice.get("finish_reason") is not None:
                self._offsets.pop(choice.get("index", 0), None)  # with `n`, the next answer has the same index
        return event

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """As `Form.body`."""
        return self.event(body)

    def _add_logprobs(self, choice: dict[str, Any]) -> None:
        content = (choice.get("logprobs") or {}).get("content")
        if self._alternatives is None or not content:
            return
        index = choice.get("index", 0)
        offset = self._offsets.get(index, 0)
        offsets: list[int] = []
        for token in content:
            offsets.append(offset)
            offset += len(token["token"])
        self._offsets[index] = offset
        choice["logprobs"] |= {
            "tokens": [token["token"] for token in content],
            "token_logprobs": [token["logprob"] for token in content],
            "top_logprobs": [_alternatives(token) for token in content] if self._alternatives else None,
            "text_offset": offsets,
        }


def _alternatives(token: dict[str, Any]) -> dict[str, float]:
    return {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()}
