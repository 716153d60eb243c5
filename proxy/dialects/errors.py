"""What translation can refuse.

    Exception
    +-- DialectError        the client's request says something that cannot be honoured: its fault, a 400
    +-- EngineStreamError   the engine broke off its answer, or reported an error inside it

Both carry what a dialect needs to render them, and neither knows a dialect.
"""

from __future__ import annotations

from typing import Any

import orjson

_MALFORMED = {"code": 502, "message": "The engine sent an error without a message.", "type": "server_error"}
_CUT_OFF = {"code": 502, "message": "The engine's answer ended before it was complete.", "type": "server_error"}


class DialectError(Exception):
    """A request that cannot be translated; `param` names the offending field, such as `messages.0.content`.

    `code`: a word for programs, where the dialect has any.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code

    @classmethod
    def unsupported(cls, message: str, param: str) -> DialectError:
        """What is right in the dialect, and cannot be had here."""
        return cls(message, param, "unsupported_value")


def write_json(value: object, param: str) -> str:
    """What a client sent inside its request, as text.

    Raises:
        DialectError: it is nested too deeply: more can be read than written.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise DialectError(f"{param}: nested too deeply", param) from None


class EngineStreamError(Exception):
    """The engine's `error` object, whole, in `payload`."""

    def __init__(self, payload: dict[str, Any]) -> None:
        self.payload = payload
        self.message = str(payload.get("message") or _MALFORMED["message"])
        self.type: str | None = payload.get("type")
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """The HTTP status that the engine would have answered with, had it known in time; 502 where it names none."""
        code = self.payload.get("code")
        return code if isinstance(code, int) and 400 <= code <= 599 else 502

    @classmethod
    def cut_off(cls) -> EngineStreamError:
        """The stream ended without its last chunk: the worker died, or closed the connection."""
        return cls(dict(_CUT_OFF))


def raise_if_error(event: dict[str, Any]) -> None:
    """Raise EngineStreamError if this decoded payload reports an error rather than part of an answer."""
    error = event.get("error")
    if error is None:
        return
    if isinstance(error, dict):
        raise EngineStreamError(error)
    raise EngineStreamError({**_MALFORMED, "message": str(error)})
