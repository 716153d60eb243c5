"""OpenAI's embeddings: `dimensions`, which the engine ignores. Pure.

A vector is cut and brought back to length 1, as OpenAI does it. What it is worth then depends on the model: those made
for it (Matryoshka) lose little.
"""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import orjson

from hugind.proxy.dialects.errors import DialectError


class EmbeddingForm:
    """One request. Lives as long as it."""

    def __init__(self) -> None:
        self._dimensions: int | None = None
        self._is_base64 = False

    def take(self, request: dict[str, Any]) -> None:
        """Put a request into the engine's words, in place.

        Raises:
            DialectError: `dimensions` is no number of dimensions.
        """
        dimensions = request.pop("dimensions", None)
        if dimensions is None:
            return
        if type(dimensions) is not int or dimensions < 1:
            raise DialectError("dimensions: a number of at least 1", "dimensions")
        self._dimensions = dimensions
        if request.get("encoding_format") == "base64":
            self._is_base64 = True
            request["encoding_format"] = "float"

    @property
    def is_plain(self) -> bool:
        """The engine's answer is the client's as it is. Known after `take`."""
        return self._dimensions is None

    def answer(self, body: bytes) -> bytes:
        """The engine's answer as the client wants it.

        Raises:
            DialectError: the model has fewer dimensions than were asked for.
        """
        if self._dimensions is None:
            return body
        parsed = orjson.loads(body)
        for entry in parsed["data"]:
            vector = self._cut(entry["embedding"], self._dimensions)
            if self._is_base64:
                entry["encoding_format"] = "base64"
            entry["embedding"] = to_base64(vector) if self._is_base64 else vector
        return orjson.dumps(parsed)

    def _cut(self, vector: list[Any], dimensions: int) -> list[float]:
        if vector and isinstance(vector[0], list):
            raise DialectError.unsupported("dimensions: this model gives a vector for every token", "dimensions")
        if dimensions > len(vector):
            raise DialectError(f"dimensions: the model has {len(vector)}", "dimensions", "invalid_value")
        cut = vector[:dimensions]
        length = math.sqrt(sum(value * value for value in cut))
        return [value / length for value in cut] if length else cut


def to_base64(vector: list[float]) -> str:
    """Little-endian floats of 32 bits, as OpenAI's clients read them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
