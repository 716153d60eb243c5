"""Ollama's embeddings: what a request asks to be embedded, and the engine's answer as Ollama's. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama import Spent, nanoseconds
from hugind.proxy.dialects.ollama_request import take

_TEXT_OVERHEAD = 8
"""Tokens that a model may put around a text."""


def read_inputs(request: Mapping[str, Any]) -> list[str]:
    """The texts of `/api/embed`; an empty one is none.

    Raises:
        DialectError: it is neither a text nor a list of texts.
    """
    match request.get("input"):
        case None | "":
            return []
        case str(text):
            return [text]
        case list(texts) if all(isinstance(text, str) for text in texts):
            return texts
    raise DialectError("invalid input type", "input")


def read_dimensions(request: Mapping[str, Any]) -> int | None:
    """How many numbers of each vector are wanted; None: all.

    Raises:
        DialectError: it is no whole number of at least 0.
    """
    dimensions: int | None = take(request, "dimensions", int)
    if dimensions is not None and dimensions < 0:
        raise DialectError("dimensions must not be negative", "dimensions")
    return dimensions or None


def may_be_too_long(text: str, limit: int) -> bool:
    """Whether a text may have more than `limit` tokens: each stands for a byte at least."""
    return len(text.encode("utf-8", "surrogatepass")) + _TEXT_OVERHEAD > limit


def cut(text_only: Sequence[int], with_special: Sequence[int], limit: int) -> list[int] | None:
    """A text's tokens, so that they fit into `limit` with what the model puts around it; None: they do as they are.

    Args:
        text_only: the tokens of the text.
        with_special: the same, with what the model puts before and behind.
    """
    if len(with_special) <= limit:
        return None
    around = len(with_special) - len(text_only)
    before = next((at for at in range(around + 1) if with_special[at] == text_only[0]), 0)
    behind = with_special[before + len(text_only) :]
    return [*with_special[:before], *text_only[: max(limit - around, 0)], *behind]


def vectors_of(answer: Mapping[str, Any], dimensions: int | None) -> list[list[float]]:
    """The vectors in the engine's answer, in order and of length 1; cut to `dimensions` first.

    Raises:
        ValueError: some have numbers in them that are none, or there are no vectors.
    """
    entries = sorted(answer.get("data") or (), key=lambda entry: entry.get("index", 0))
    return [_unit(entry.get("embedding"), dimensions) for entry in entries]


def render_embeddings(model: str, vectors: list[list[float]], prompt_tokens: int, spent: Spent) -> dict[str, Any]:
    """The answer of `/api/embed`."""
    return {
        "model": model,
        "embeddings": vectors,
        "total_duration": nanoseconds(spent.total_s),
        "load_duration": nanoseconds(spent.load_s),
        "prompt_eval_count": prompt_tokens,
    }


def _unit(vector: object, dimensions: int | None) -> list[float]:
    if not isinstance(vector, list) or not all(
        isinstance(number, (int, float)) and math.isfinite(number) for number in vector
    ):
        raise ValueError("the engine's answer has no embedding, or one with numbers that are none")
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [number / length for number in kept] if length else [float(number) for number in kept]
