"""Where the engine's answer has another form than the client asked for: one object a request that knows both. Pure."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from hugind.proxy.dialects.errors import EngineStreamError, raise_if_error
from hugind.proxy.sse import format_event

DONE = b"data: [DONE]\n\n"


class Form(Protocol):
    """What a request becomes on its way to the engine, and its answer on the way back. Lives as long as the request."""

    def take(self, request: dict[str, Any]) -> None:
        """Put a request into the engine's words, in place.

        Raises:
            DialectError: it says something that cannot be honoured.
        """

    @property
    def is_plain(self) -> bool:
        """The engine's answer is the client's as it is. Known after `take`."""

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event of the engine's stream as the client wants it; the given one may be changed."""

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer as the client wants it; the given one may be changed.

        Raises:
            EngineStreamError: it is not what was asked for.
        """


class PlainForm:
    """Nothing differs."""

    is_plain = True

    def take(self, request: dict[str, Any]) -> None:
        """As `Form.take`."""

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """As `Form.event`."""
        return event

    def body(self, body: Any) -> Any:
        """As `Form.body`."""
        return body


class FormStream:
    """A stream of chat or completions in the client's form; lives as long as that stream."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._is_finished = False

    def feed(self, event: dict[str, Any] | None) -> bytes:
        """One event for the client, if any.

        Raises:
            EngineStreamError: the event is an error.
        """
        if event is None:
            return b""
        raise_if_error(event)
        self._is_finished = self._is_finished or any(
            choice.get("finish_reason") is not None for choice in event.get("choices") or ()
        )
        return format_event(orjson.dumps(self._form.event(event)))

    def finish(self) -> bytes:
        """The end mark.

        Raises:
            EngineStreamError: the engine's stream ended before its answer did.
        """
        if not self._is_finished:
            raise EngineStreamError.cut_off()
        return DONE
