"""Reranking as Jina and Cohere have it: documents may be objects, and come back where asked for. Pure.

The engine takes strings only, sorts and cuts to `top_n` itself, and ignores `return_documents`.
"""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.errors import DialectError


class RerankForm:
    """One request. Lives as long as it."""

    def __init__(self) -> None:
        self._documents: list[str] | None = None

    def take(self, request: dict[str, Any]) -> None:
        """Put a request into the engine's words, in place.

        Raises:
            DialectError: a document has no text, or `top_n` is no number of documents.
        """
        top_n = request.get("top_n")
        if top_n is not None and (type(top_n) is not int or top_n < 1):
            raise DialectError("top_n: a number of at least 1", "top_n")
        returns = request.pop("return_documents", None)
        documents = request.get("documents")
        if not isinstance(documents, list):
            return  # the engine will say what is wrong
        request["documents"] = [_text(document, f"documents[{at}]") for at, document in enumerate(documents)]
        if returns:
            self._documents = request["documents"]

    @property
    def is_plain(self) -> bool:
        """The engine's answer is the client's as it is. Known after `take`."""
        return self._documents is None

    def answer(self, body: bytes) -> bytes:
        """The engine's answer as the client wants it."""
        if self._documents is None:
            return body
        parsed = orjson.loads(body)
        for result in parsed["results"]:
            result["document"] = {"text": self._documents[result["index"]]}
        return orjson.dumps(parsed)


def _text(document: Any, param: str) -> str:
    match document:
        case str(text) | {"text": str(text)}:
            return text
    raise DialectError(f"{param}: a string, or an object with a text", param)
