"""The `context` of `/api/generate`: a conversation that the client carries from answer to question. Pure.

Ollama's is a list of token ids, of its own template's making. Clients treat it as opaque, so here it is the messages
themselves, as numbers: the engine need not be asked for tokens, and the next prompt begins as the last one did, so that
its KV is found again. One that comes from elsewhere says nothing, and is ignored.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

MAX_BYTES = 8 * 1024 * 1024
"""Of the messages in it; a larger one is ignored."""

_MARK = 0x68756769
"""The first number: no token of any vocabulary."""
_BYTES = 3
"""Of a number: clients keep token ids in 32 bits."""
_LEVEL = 1
_TEXTS = ("role", "content")


def write_context(messages: list[dict[str, Any]], answer: str) -> list[int]:
    """What was said, the answer included, as numbers. Only texts: images would make it as large as they are."""
    said = [
        {"role": message["role"], "content": _text_of(message.get("content"))}
        for message in [*messages, {"role": "assistant", "content": answer}]
    ]
    packed = zlib.compress(orjson.dumps(said), _LEVEL)
    numbers = [int.from_bytes(packed[at : at + _BYTES], "big") for at in range(0, len(packed), _BYTES)]
    return [_MARK, len(packed), *numbers]


def read_context(numbers: object) -> list[dict[str, Any]]:
    """The messages of a `context`, none where it is not ours."""
    if not isinstance(numbers, list) or len(numbers) < 3 or numbers[0] != _MARK:
        return []
    mark_and_size, rest = numbers[:2], numbers[2:]
    size = mark_and_size[1]
    try:
        if -(-size // _BYTES) != len(rest):
            return []
        packed = b"".join(number.to_bytes(min(_BYTES, size - at * _BYTES), "big") for at, number in enumerate(rest))
        unpacker = zlib.decompressobj()
        said = orjson.loads(unpacker.decompress(packed, MAX_BYTES))
    except (AttributeError, OverflowError, TypeError, ValueError, zlib.error):
        return []
    if not unpacker.eof or not isinstance(said, list) or not all(map(_is_message, said)):
        return []
    return said


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == set(_TEXTS)
        and all(isinstance(message[key], str) for key in _TEXTS)
        and message["role"] in ("system", "user", "assistant")
    )


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""
