"""`n` above 1: answers that were made one after another, joined into one as if side by side. Pure.

The engine makes them on further slots, whoever those belong to, and wipes these (engine facts, "Slots").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from hugind.proxy.dialects.errors import raise_if_error
from hugind.proxy.sse import format_event


class Choices:
    """The answers of one request. Lives as long as it; `begin` before each of them."""

    def __init__(self, wanted: int, shape: Callable[[dict[str, Any]], dict[str, Any]] = lambda event: event) -> None:
        """`shape`: puts an event into the form that the client asked for (`Form.event`)."""
        self._wanted = wanted
        self._shape = shape
        self._index = -1
        self._id: Any = None
        self._usage: dict[str, Any] = {}
        self._bodies: list[dict[str, Any]] = []

    @property
    def is_last(self) -> bool:
        """Whether the answer that began last is the last one."""
        return self._index == self._wanted - 1

    def begin(self) -> int:
        """The next answer begins; returns its index."""
        self._index += 1
        return self._index

    def feed(self, event: dict[str, Any] | None) -> bytes:
        """An event of the answer's stream, for the client; may be nothing.

        Raises:
            EngineStreamError: the event is an error.
        """
        if event is None:
            return b""
        raise_if_error(event)
        self._id = self._id or event.get("id")
        event = {**event, "id": self._id}
        if usage := event.get("usage"):
            event["usage"] = self._add_usage(usage)
            if not self.is_last:
                del event["usage"]
                if not event.get("choices"):
                    return b""
        for choice in event.get("choices") or ():
            choice["index"] = self._index
        return format_event(orjson.dumps(self._shape(event)))

    def add(self, body: dict[str, Any]) -> None:
        """A whole answer."""
        self._bodies.append(body)
        if usage := body.get("usage"):
            self._add_usage(usage)

    def result(self) -> dict[str, Any]:
        """All answers in one. The prompt counts once, and is said to be cached as far as it was for the first."""
        choices = [
            {**choice, "index": index} for index, body in enumerate(self._bodies) for choice in body.get("choices", ())
        ]
        return {**self._bodies[0], "choices": choices, **({"usage": self._usage} if self._usage else {})}

    def _add_usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        if self._usage:
            completion = self._usage.get("completion_tokens", 0) + usage.get("completion_tokens", 0)
            self._usage["completion_tokens"] = completion
            self._usage["total_tokens"] = self._usage.get("prompt_tokens", 0) + completion
        else:
            self._usage = dict(usage)
        return self._usage
