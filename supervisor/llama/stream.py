"""One request to a worker and its answer as it comes: the hot path's own HTTP client, over httptools.

Measured beside aiohttp 3.14 in one run (`benchmarks/upstream_client.py`: a one-token stream over a UNIX socket, a
connection for each, as llama-server demands): 114 us of CPU a request against 239. What is left out is what
llama-server never does: redirects, cookies, compression, keep-alive, answers to more than one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import cast

import httptools

from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint

CONNECT_TIMEOUT_S = 5
HIGH_WATER_BYTES = 256 * 1024
"""More than this unread, and the worker's side has to wait."""


class EngineStream(asyncio.Protocol):
    """One request and its answer. `async with` connects, sends and waits for the status; leaving it closes.

    Closing early is how a worker learns that nobody wants the rest. While entered, it is in `open_streams`, so that its
    client can close what is under way.

    Raises on entering:
        WorkerUnreachable: no connection, so nothing was sent.
        StreamCut: the worker closed the connection without a status.
    """

    def __init__(self, endpoint: Endpoint, request: bytes, open_streams: set[EngineStream]) -> None:
        self.status = 0
        self._endpoint = endpoint
        self._request = request
        self._open_streams = open_streams
        self._transport: asyncio.Transport
        self._loop: asyncio.AbstractEventLoop
        self._is_connected = False
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._is_whole = False
        self._is_over = False
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> EngineStream:
        self._open_streams.add(self)
        try:
            await self._connect()
            while not self.status:
                await self._more()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def close(self) -> None:
        """Drop the connection. Whoever reads gets `StreamCut`, unless all had come."""
        if self._is_connected:
            self._transport.abort()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes.

        Raises:
            StreamCut: the connection ended before the body did.
        """
        while True:
            if self._pieces:
                pieces, self._pieces = self._pieces, []
                self._waiting = 0
                if self._is_paused:
                    self._is_paused = False
                    self._transport.resume_reading()
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            elif self._is_whole:
                return
            else:
                await self._more()

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            StreamCut: as `chunks`.
        """
        return b"".join([chunk async for chunk in self.chunks()])

    async def _connect(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        try:
            match self._endpoint:
                case UnixEndpoint(path):  # connects at once or not at all
                    await loop.create_unix_connection(lambda: self, str(path))
                case TcpEndpoint(port):
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        await loop.create_connection(lambda: self, "127.0.0.1", port)
        except (OSError, TimeoutError) as error:
            raise WorkerUnreachable(f"{type(error).__name__}: {error}") from error

    def _leave(self) -> None:
        self._open_streams.discard(self)
        self.close()

    async def _more(self) -> None:
        if self._is_over:
            raise StreamCut("the worker closed the connection in the middle of its answer")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._is_connected = True
        self._transport.write(self._request)  # here, not after the connect: a turn of the loop earlier

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
            return
        if self._waiting > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._wake()

    # ---- called by the parser

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._waiting += len(body)

    def on_message_complete(self) -> None:
        self._is_whole = True
