"""Pictures and sounds that a chat names by an address, which the engine would fetch itself. Pure."""

from __future__ import annotations

from typing import Any

_HELD = {"image_url": "url", "input_video": "url", "video_url": "url", "audio_url": "url"}
"""Parts of a message, and where their address is."""


def find_remote(messages: Any) -> str | None:
    """Where the first part is that comes from elsewhere, as `messages.0.content.1`; None: all is in the request."""
    for position, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and _is_remote(part):
                return f"messages.{position}.content.{at}"
    return None


def _is_remote(part: dict[str, Any]) -> bool:
    held = part.get(str(part.get("type")))
    address = held.get(_HELD.get(str(part.get("type")), "")) if isinstance(held, dict) else held
    return str(part.get("type")) in _HELD and isinstance(address, str) and "://" in address[:16]
