"""Notice a client that leaves while we do something else, and stop doing it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from hugind.proxy.errors import ClientGone
from hugind.proxy.exchange import Exchange
from hugind.supervisor import tasks


class DisconnectWatch:
    """Cancels the block that it surrounds when the client goes away; the block then raises `ClientGone`.

    To be entered when the request body has been read: from then on `receive` has only the disconnect to tell. Without
    this nobody listens while a turn is queued or waits for its first token (measured: every stock server lets the
    engine compute on until then, reference page gateways, section d).
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_gone = False

    async def __aenter__(self) -> DisconnectWatch:
        task = asyncio.current_task()
        assert task is not None
        self._surrounded = task
        self._watcher = tasks.start(self._watch(), "disconnect watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_gone:
            if self._surrounded.uncancel() == 0 and kind is asyncio.CancelledError:
                raise ClientGone from error
            return
        await tasks.cancel(self._watcher)

    async def _watch(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        if self._exchange.is_complete:
            return  # servers say "disconnect" after the last byte of an answer, too
        self._is_gone = True
        self._surrounded.cancel()
