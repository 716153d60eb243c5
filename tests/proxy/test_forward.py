"""Streams on their way: whole events, in order, and a worker's death told in a well-formed way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import orjson
import pytest

from hugind.proxy.dialects.anthropic import MessageStream
from hugind.proxy.dialects.openai import ChatAssembler
from hugind.proxy.errors import ApiError
from hugind.proxy.forward import TAIL_CHUNKS, assemble, engine_error, relay_stream, relay_translated, timings_at_end
from hugind.supervisor.errors import StreamCut
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn
from tests.proxy.exchanges import FakeClient

HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'


async def test_what_comes_is_what_the_client_gets(tmp_path: Path) -> None:
    """However the engine cuts its events, the client gets the same bytes, whole events at a time."""
    stream = HELLO + STOP + DONE
    client = FakeClient()
    async with answering(tmp_path, *(stream[i : i + 7] for i in range(0, len(stream), 7))) as (spawn, response):
        await relay_stream(client.exchange, spawn, response)

    assert stream == client.body
    assert client.is_answered
    assert all(message["body"].endswith(b"\n\n") for message in client.got[1:] if message["body"])
    assert len(stream) == spawn.bytes_relayed


async def test_an_event_of_nothing_is_left_out(tmp_path: Path) -> None:
    """The engine sends `null` for half a character, and clients trip over it."""
    client = FakeClient()
    async with answering(tmp_path, b"data: null\n\n" + HELLO, b"data: null\n\n", DONE) as (spawn, response):
        await relay_stream(client.exchange, spawn, response)

    assert HELLO + DONE == client.body


async def test_half_an_event_is_held_back(tmp_path: Path) -> None:
    """If the worker dies inside an event, the client has only whole ones, and an error can follow."""
    client = FakeClient()
    with pytest.raises(StreamCut):
        async with answering(tmp_path, HELLO, HELLO[:20], dies=True) as (spawn, response):
            await relay_stream(client.exchange, spawn, response)

    assert HELLO == client.body
    assert not client.is_answered


@pytest.mark.parametrize("is_relayed", [True, False])
async def test_figures_with_every_token_count_once(tmp_path: Path, is_relayed: bool) -> None:
    """A client may have the engine tell them each time; and why it ended is told before the end."""
    client = FakeClient()
    events = [
        b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"timings":{"prompt_n":7,"predicted_n":%d}}\n\n' % count
        for count in (1, 2, 3)
    ]
    async with answering(tmp_path, *events, STOP, DONE) as (spawn, response):
        if is_relayed:
            await relay_stream(client.exchange, spawn, response)
        else:
            await assemble(client.exchange, spawn, response, ChatAssembler())

    assert (7, 3) == (client.exchange.prompt_tokens, client.exchange.completion_tokens)
    assert "stop" == client.exchange.finish_reason
    assert 3 <= client.exchange.events <= 5


async def test_a_translated_stream_tells_of_a_death(tmp_path: Path) -> None:
    """The other dialects notice a worker that died, too."""
    client = FakeClient()
    with pytest.raises(StreamCut):
        async with answering(tmp_path, HELLO, dies=True) as (spawn, response):
            await relay_translated(client.exchange, spawn, response, MessageStream("m"))

    assert b"message_start" in client.body
    assert b"message_stop" not in client.body


async def test_an_engines_error_ends_a_translated_stream(tmp_path: Path) -> None:
    """An error inside the stream keeps its status and its words."""
    with pytest.raises(ApiError, match="Compute error") as broken:
        async with answering(tmp_path, HELLO, ERROR) as (spawn, response):
            await relay_translated(FakeClient().exchange, spawn, response, MessageStream("m"))

    assert (500, "server_error") == (broken.value.status, broken.value.kind)


async def test_a_stream_becomes_an_answer(tmp_path: Path) -> None:
    """Who did not ask for a stream gets one object."""
    async with answering(tmp_path, HELLO + STOP[:9], STOP[9:], DONE) as (spawn, response):
        answer = await assemble(FakeClient().exchange, spawn, response, ChatAssembler())

    assert "hello" == answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(("events", "dies"), [((HELLO,), True), ((HELLO,), False), ((HELLO, ERROR), False)])
async def test_an_unfinished_stream_is_no_answer(tmp_path: Path, events: tuple[bytes, ...], dies: bool) -> None:
    """Half an answer is an error, whether the worker died, stopped short or said so."""
    with pytest.raises(StreamCut if dies else ApiError):
        async with answering(tmp_path, *events, dies=dies) as (spawn, response):
            await assemble(FakeClient().exchange, spawn, response, ChatAssembler())


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        (b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}',
         "too long", "exceed_context_size_error"),
        (b"<html>", "<html>", None),
        (b"", "the engine refused the request", None),
        (b'{"error":"text"}', '{"error":"text"}', None),
    ],
)  # fmt: skip
async def test_a_refusal_keeps_its_words(tmp_path: Path, body: bytes, message: str, kind: str | None) -> None:
    """What the engine said reaches the client, whatever form it has."""
    async with answering(tmp_path, body, status=b"400 Bad Request") as (_, response):
        error = await engine_error(response)

    assert (400, message, kind) == (error.status, error.message, error.kind)


# ---- what is learned on the way

TIMINGS = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1},"timings":{"cache_n":7,"prompt_n":2}}\n\n'
)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n'


@pytest.mark.parametrize("end", [TIMINGS + DONE, TIMINGS + USAGE + DONE, TIMINGS])
@pytest.mark.parametrize("cut", [10_000, 50, 30])
async def test_figures_are_read_from_the_end(tmp_path: Path, end: bytes, cut: int) -> None:
    """The engine's own, however it cuts its stream; the client gets the same bytes as ever."""
    client, stream = FakeClient(), HELLO * 20 + STOP + end
    chunks = [stream[: len(stream) - len(end)]] + [end[at : at + cut] for at in range(0, len(end), cut)]
    async with answering(tmp_path, *chunks) as (spawn, response):
        await relay_stream(client.exchange, spawn, response)
    told = client.exchange.timings

    assert stream == client.body
    assert {"cache_n": 7, "prompt_n": 2} == told or len(chunks) > TAIL_CHUNKS + 1


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        DONE,
        HELLO + DONE,
        b'"timings":{"cache_n":7}}\n\n' + DONE,
        b'data: {"timings":{"cache_n":\n\n',
        b'data: {"timings":{"cache_n":7}\n\n',
        b'data: ["timings":{}]\n\n',
        b'data: {"x":{"timings":{"cache_n":7}}}\n\n',
    ],
)
def test_figures_that_are_not_there(tail: bytes) -> None:
    """Nothing is made up, and nothing breaks."""
    assert timings_at_end(tail) is None


def test_words_are_no_figures() -> None:
    """An answer may talk about timings as much as it likes: it is text, and the figures come after it."""
    said = b'data: {"choices":[{"delta":{"content":"\\"timings\\":{\\"cache_n\\":1}"}}]}\n\n'

    assert timings_at_end(said + DONE) is None
    assert {"cache_n": 7, "prompt_n": 2} == timings_at_end(said + TIMINGS + DONE)


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_stream_is_recorded_where_it_is_wanted(tmp_path: Path, is_wanted: bool) -> None:
    """As the engine sent it, whether the client gets it as it is, translated or put together."""
    stream = b"data: null\n\n" + HELLO + STOP + TIMINGS + DONE
    chunks = [stream[at : at + 11] for at in range(0, len(stream), 11)]
    for number, way in enumerate(("relayed", "translated", "assembled")):
        exchange = FakeClient().exchange
        exchange.recorded = [] if is_wanted else None
        folder = tmp_path / str(number)
        folder.mkdir()
        async with answering(folder, *chunks) as (spawn, response):
            if way == "relayed":
                await relay_stream(exchange, spawn, response)
            elif way == "translated":
                await relay_translated(exchange, spawn, response, MessageStream("m"))
            else:
                await assemble(exchange, spawn, response, ChatAssembler())

        assert (stream if is_wanted else None) == (None if exchange.recorded is None else b"".join(exchange.recorded))
        assert way == "relayed" or exchange.timings == {"cache_n": 7, "prompt_n": 2}


@asynccontextmanager
async def answering(
    folder: Path, *chunks: bytes, dies: bool = False, status: bytes = b"200 OK"
) -> AsyncIterator[tuple[Spawn, EngineStream]]:
    """A worker that answers with `chunks`, each in a packet of its own, and then ends well or not."""
    path = folder / "w.sock"
    server = await asyncio.start_unix_server(_answer(chunks, dies, status), path)
    async with server:
        client = WorkerClient(UnixEndpoint(path), "key")
        spawn = cast(Spawn, SimpleNamespace(bytes_relayed=0, client=client))
        async with client.post("/v1/chat/completions", orjson.dumps({})) as response:
            yield spawn, response
        client.close()


def _answer(
    chunks: tuple[bytes, ...], dies: bool, status: bytes
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            if chunk:
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
                await asyncio.sleep(0)
        if not dies:
            writer.write(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    return answer
