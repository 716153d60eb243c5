"""Signs of life in a stream that has nothing to say yet: proxies and clients give up on a silent one."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import STREAM_HEADERS
from hugind.supervisor import tasks

COMMENT = b": waiting\n\n"
"""Readers of event streams skip it."""


class KeepAlive:
    """Starts the answer of a turn that waits, and says so again and again. Inside its block, until `quiet`.

    The block may be entered again, for what else the request waits for. A client that does not read is told once, and
    again only when it has read that.
    """

    def __init__(self, exchange: Exchange, every_s: float, sign: bytes) -> None:
        """`sign`: a whole event, or a comment. To be made inside a running loop."""
        self._exchange = exchange
        self._every_s = every_s
        self._sign = sign
        self._loop = asyncio.get_running_loop()
        self._due_at = self._loop.time() + every_s
        self._timer: asyncio.TimerHandle | None = None
        self._saying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> KeepAlive:
        self._timer = self._loop.call_at(self._due_at, self._say)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def quiet(self) -> None:
        """The engine has the word. Blocks while a sign is being sent: what follows comes behind it."""
        await self._stop()
        self._due_at = self._loop.time() + self._every_s

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._saying is not None:
            saying, self._saying = self._saying, None
            await tasks.finish(_end(saying), "last sign of life")  # half of it would break the stream

    def _say(self) -> None:
        self._saying = tasks.start(self._send(), "sign of life")

    async def _send(self) -> None:
        if not self._exchange.is_started:
            await self._exchange.start(200, STREAM_HEADERS)
        await self._exchange.send(self._sign)
        self._due_at = self._loop.time() + self._every_s
        if self._timer is not None:  # else it was told to stop meanwhile
            self._timer = self._loop.call_at(self._due_at, self._say)


async def _end(saying: asyncio.Task[None]) -> None:
    await saying


def keep_alive(exchange: Exchange, request: dict[str, Any], every_s: float, sign: bytes = COMMENT) -> None:
    """Have a streamed answer to `request` kept alive while its turn waits. `every_s` 0: not at all."""
    if every_s and request.get("stream") is True:
        exchange.keep_alive = KeepAlive(exchange, every_s, sign)
