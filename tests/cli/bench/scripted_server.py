"""A server that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hugind.cli.bench.target import Target


@asynccontextmanager
async def scripted_server(*parts: bytes, then_close: bool = False) -> AsyncIterator[Target]:
    """A TCP server that says the same to every request, part by part."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _until_blank_line(reader):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01 if len(parts) > 1 else 0)
                if then_close:
                    break
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target("scripted", server.sockets[0].getsockname()[:2])


async def _until_blank_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
