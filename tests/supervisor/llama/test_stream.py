"""One request and its answer: in any pieces, cut anywhere, faster than it is read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint
from hugind.supervisor.llama.stream import HIGH_WATER_BYTES, EngineStream
from hugind.supervisor.spawn import free_port
from tests.eventually import eventually
from tests.supervisor.llama.talking import talking

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def _server(talk: Talk) -> AsyncIterator[Endpoint]:
    """A server that talks so to each connection, whatever it asks."""

    async def after_any_head(_: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)

    async with talking(after_any_head) as endpoint:
        yield endpoint


def _say(*pieces: bytes) -> Talk:
    """Send these pieces, one at a time."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return talk


def _stream(endpoint: Endpoint) -> EngineStream:
    return EngineStream(endpoint, _REQUEST, set())


async def test_length() -> None:
    """A body of a given length, and its status."""
    async with (
        _server(_say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello")) as endpoint,
        _stream(endpoint) as stream,
    ):
        body = await stream.read()

    assert (stream.status, body) == (404, b"hello")


async def test_chunks_cut_anywhere() -> None:
    """A chunked body arrives whole, wherever the network cuts it."""
    whole = _CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    async with _server(_say(*(whole[i : i + 1] for i in range(len(whole))))) as endpoint, _stream(endpoint) as stream:
        chunks = [chunk async for chunk in stream.chunks()]

    assert b"".join(chunks) == b"hello world"
    assert len(chunks) > 1


async def test_an_answer_that_ends_at_once() -> None:
    """What came before the connection closed is read, also when it closed first."""
    async with (
        _server(_say(_CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")) as endpoint,
        _stream(endpoint) as stream,
    ):
        await eventually(lambda: stream._is_over)
        body = await stream.read()

    assert body == b"hello"


@pytest.mark.parametrize("rest", [b"", b"5\r\nhel", b"5\r\nhello\r\n"])
async def test_cut_in_the_body(rest: bytes) -> None:
    """A body that ends too early is not taken for a whole one."""
    async with _server(_say(_CHUNKED, rest)) as endpoint, _stream(endpoint) as stream:
        with pytest.raises(StreamCut):
            await stream.read()


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"hello\r\n\r\n"])
async def test_no_status(reply: bytes) -> None:
    """A connection that ends without a status, or speaks no HTTP, is cut."""
    async with _server(_say(reply)) as endpoint:
        with pytest.raises(StreamCut):
            await _enter(endpoint)


async def test_nobody_listens() -> None:
    """Without a connection nothing was sent, and the error says so by its class."""
    with pytest.raises(WorkerUnreachable, match="ConnectionRefusedError"):
        await _enter(TcpEndpoint(free_port()))


async def test_a_slow_reader_holds_the_worker_up() -> None:
    """What is not read does not pile up here: the worker has to wait."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        writer.write(_CHUNKED)
        for _ in range(1000):
            writer.write(block)
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with _server(flood) as endpoint, _stream(endpoint) as stream:
        await eventually(lambda: stream._is_paused)
        unread = stream._waiting
        early = sent
        size = 0
        async for chunk in stream.chunks():
            size += len(chunk)

    assert unread <= HIGH_WATER_BYTES + 1024 * 1024
    assert early < size
    assert size == 1000 * 65536


async def test_leaving_closes() -> None:
    """Leaving early closes the connection: the worker sees its end."""
    seen = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_CHUNKED + b"5\r\nhello\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        seen.set()

    async with _server(talk) as endpoint:
        async with _stream(endpoint) as stream:
            await anext(stream.chunks())
        async with asyncio.timeout(10):
            await seen.wait()


async def test_cancelled_while_it_waits_for_the_status() -> None:
    """Who is cancelled on entering leaves no connection behind."""
    closed = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    streams: set[EngineStream] = set()
    async with _server(talk) as endpoint:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(EngineStream(endpoint, _REQUEST, streams).__aenter__(), 0.05)
        async with asyncio.timeout(10):
            await closed.wait()

    assert streams == set()


async def _enter(endpoint: Endpoint) -> None:
    async with _stream(endpoint):
        pass
