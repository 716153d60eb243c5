"""Notice a client that leaves while we do something else, and stop doing it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from starlette.types import Scope

from hugind.proxy.errors import ClientGone
from hugind.proxy.exchange import Exchange
from hugind.supervisor import tasks

EXTENSION = "hugind.connection"
"""Where a server that can call back puts its `Connection`, among the scope's extensions."""


class Connection(Protocol):
    """A client's connection, as `server.py` has it."""

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves, at once if it has left; None: do not."""

    def expect_long_body(self) -> None:
        """The request's body is a large file: it may take as long as it likes, while it comes."""


def connection_of(scope: Scope) -> Connection | None:
    """The connection of a request; None under a server that is not ours."""
    connection: Connection | None = scope.get("extensions", {}).get(EXTENSION)
    return connection


class DisconnectWatch:
    """Cancels the block that it surrounds when the client goes away; the block then raises `ClientGone`.

    To be entered when the request body has been read: from then on `receive` has only the disconnect to tell. Without
    this nobody listens while a turn is queued or waits for its first token (measured: every stock server lets the
    engine compute on until then, reference page gateways, section d). Our own server calls back, which costs nothing;
    under any other a task listens.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._connection = connection_of(exchange.scope)
        self._listener: asyncio.Task[None] | None = None
        self._is_gone = False

    async def __aenter__(self) -> DisconnectWatch:
        task = asyncio.current_task()
        assert task is not None
        self._surrounded = task
        if self._connection is not None:
            self._connection.watch(self._leave)
        else:
            self._listener = tasks.start(self._listen(), "disconnect watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exchange.end_wait()
        if self._connection is not None:
            self._connection.watch(None)
        if self._is_gone:
            if self._surrounded.uncancel() == 0 and kind is asyncio.CancelledError:
                raise ClientGone from error
        elif self._listener is not None:
            await tasks.cancel(self._listener)

    async def _listen(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self._exchange.is_complete:  # servers say "disconnect" after the last byte of an answer, too
            self._is_gone = True
            self._surrounded.cancel()
