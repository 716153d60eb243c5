"""Exchanges without a server: a scope, what the client sends, and what it got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Message, Scope

from hugind.proxy.exchange import Exchange

DISCONNECT: Message = {"type": "http.disconnect"}


def body_message(body: bytes, *, more: bool = False) -> Message:
    """Some of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


class FakeClient:
    """The other side of one exchange. `says` holds what it sends; an empty queue means that it is silent."""

    def __init__(
        self, *messages: Message, headers: Iterable[tuple[bytes, bytes]] = (), path: str = "/x", method: str = "POST"
    ) -> None:
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.says.put_nowait(message)
        self.got: list[Message] = []
        scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "headers": list(headers),
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "extensions": {},
        }
        self.exchange = Exchange(scope, self.says.get, self.hear)

    @property
    def body(self) -> bytes:
        """All of the answer's body."""
        return b"".join(message["body"] for message in self.got if message["type"] == "http.response.body")

    @property
    def is_answered(self) -> bool:
        """The last of the answer has come."""
        return bool(self.got) and self.got[-1].get("more_body") is False

    async def hear(self, message: Message) -> None:
        """As ASGI's `send`."""
        self.got.append(message)
