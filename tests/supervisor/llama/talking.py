"""A server on loopback TCP that is no llama-server: what it says is up to the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from hugind.supervisor.llama.command import Endpoint, TcpEndpoint
from tests.eventually import eventually

Talk = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
"""What happens on one connection after the head of its request has come."""


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[Endpoint]:
    """A server that talks so to each connection, and ends with all of them closed by their clients."""
    open_connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await talk(head, reader, writer)
        finally:
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()
            open_connections -= 1

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        try:
            yield TcpEndpoint(server.sockets[0].getsockname()[1])
        finally:
            await eventually(lambda: open_connections == 0)
