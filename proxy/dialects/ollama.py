"""The Ollama dialect's answers: a chat completion, streamed or whole, as Ollama's objects; and error bodies. Pure."""

from __future__ import annotations

from typing import Any

import orjson


def render_error(message: str) -> dict[str, Any]:
    """Ollama's error body."""
    return {"error": message}


def error_line(message: str) -> bytes:
    """The last line of a stream that broke: there is no `done` after it."""
    return orjson.dumps(render_error(message)) + b"\n"
