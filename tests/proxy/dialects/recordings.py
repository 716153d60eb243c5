"""Answers of a real llama-server (b11549, a random model, grammars), each asked for twice: streamed and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from hugind.proxy.sse import EventParser

_FOLDER = Path(__file__).with_name("recorded")
# What differs between two runs of the same request.
_VOLATILE = {"id", "id_slot", "created", "created_at", "completed_at", "timings", "cached_tokens", "tokens_cached"}


def load_stream(name: str) -> list[dict[str, Any] | None]:
    """The decoded payloads of a recorded stream, without `[DONE]`."""
    events = EventParser().feed((_FOLDER / f"{name}.sse").read_bytes())
    return [orjson.loads(event.data) for event in events if not event.is_done]


def load_answer(name: str) -> Any:
    return orjson.loads((_FOLDER / f"{name}.json").read_bytes())


def strip_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: strip_volatile(inner) for key, inner in value.items() if key not in _VOLATILE}
    return [strip_volatile(inner) for inner in value] if isinstance(value, list) else value
