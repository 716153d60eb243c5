"""Which of the engine's failures are the client's doing. Pure.

It answers 500 to some requests that it can never serve; a client that reads 500 asks again, and so for nothing.
Measured with b11549.
"""

from __future__ import annotations

TOO_LONG = "exceed_context_size_error"
"""What the engine calls a prompt that does not fit."""

_BEGINNINGS = ("Failed to parse messages", "Failed to parse tools", "Failed to parse tool_choice")
_PARTS = (
    " input is not supported - hint",  # a picture or a sound, and no projector
    "is too large to process. increase the physical batch size",  # a text to embed
)


def true_status(status: int, message: str) -> int:
    """The status that the client should see."""
    if status == 500 and (message.startswith(_BEGINNINGS) or any(part in message for part in _PARTS)):
        return 400
    return status
