"""The client of one worker, against the stand-in, the real thing's oddities, and servers that are neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.llama.client import SlotState, WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from tests.supervisor.llama.talking import talking
from tests.supervisor.watched import Watched, quick_config

Answer = Callable[[bytes], bytes | None]


@pytest.fixture
async def worker(tmp_path: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> AsyncIterator[Watched]:
    """A ready stand-in with slow tokens."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    async with Watched(quick_config(model, "--token-ms", "20"), standin, home, folder) as watched:
        await watched.gets_ready()
        yield watched


@asynccontextmanager
async def _serve(answer: Answer) -> AsyncIterator[WorkerClient]:
    """A server that answers each request with these bytes and closes; None: never."""

    async def talk(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = answer(head)
        if reply is None:
            await reader.read()
        else:
            writer.write(reply)

    async with talking(talk) as endpoint:
        client = WorkerClient(endpoint, "key")
        try:
            yield client
        finally:
            client.close()


def _ok(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_worker_is_known(worker: Watched, tmp_path: Path) -> None:
    """Health, identity and slots of a worker."""
    client = worker.spawn.client
    props = await client.props(5)

    assert await client.is_healthy(5)
    assert (props.model_path, props.model_alias, props.total_slots) == (str(tmp_path / "model.gguf"), "tiny", 2)
    assert props.build
    assert await client.slots(5) == [SlotState(0, is_processing=False), SlotState(1, is_processing=False)]


async def test_metrics_are_text(worker: Watched) -> None:
    """As the engine tells them; whatever answers otherwise ends in one kind of error."""
    assert "\nllamacpp:requests_processing 0\n" in await worker.spawn.client.metrics_text(5)
    with pytest.raises(WorkerUnreachable, match="/metrics answered 401"):
        await WorkerClient(worker.spawn.endpoint, "wrong").metrics_text(5)
    async with _serve(lambda _: None) as client:
        with pytest.raises(WorkerUnreachable, match="/metrics: TimeoutError"):
            await client.metrics_text(0.05)
    async with _serve(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{") as client:
        with pytest.raises(WorkerUnreachable, match="/metrics: StreamCut"):
            await client.metrics_text(5)


async def test_a_stream(worker: Watched) -> None:
    """The answer to a POST comes in pieces, whole in the end."""
    body = orjson.dumps({"messages": [], "max_tokens": 4, "stream": True, "id_slot": 1})
    async with worker.spawn.client.post("/v1/chat/completions", body) as answer:
        chunks = [chunk async for chunk in answer.chunks()]

    assert answer.status == 200
    assert len(chunks) > 1
    assert b"".join(chunks).endswith(b"data: [DONE]\n\n")


async def test_leaving_early_frees_the_slot(worker: Watched) -> None:
    """Who leaves a stream closes the connection, and the worker stops."""
    client = worker.spawn.client
    body = orjson.dumps({"messages": [], "max_tokens": 4000, "stream": True, "id_slot": 1})
    async with client.post("/v1/chat/completions", body) as answer:
        await anext(answer.chunks())
        during = await client.slots(5)
    states: list[SlotState] = during

    async with asyncio.timeout(10):
        while states[1].is_processing:
            states = await client.slots(5)

    assert [slot.is_processing for slot in during] == [False, True]


async def test_wrong_key(worker: Watched) -> None:
    """A worker refuses whoever has not its key; its health is open."""
    client = WorkerClient(worker.spawn.endpoint, "wrong")

    assert await client.is_healthy(5)
    with pytest.raises(WorkerUnreachable, match="/props answered 401"):
        await client.props(5)
    with pytest.raises(WorkerUnreachable, match="/slots answered 401"):
        await client.slots(5)


async def test_close_cuts_running_turns(worker: Watched) -> None:
    """Closing drops the connections in use, and opens no other."""
    client = worker.spawn.client
    body = orjson.dumps({"messages": [], "max_tokens": 4000, "stream": True})

    async with client.post("/v1/chat/completions", body) as answer:
        await anext(answer.chunks())
        client.close()
        client.close()
        with pytest.raises(StreamCut):
            await answer.read()

    assert not await client.is_healthy(5)
    with pytest.raises(WorkerUnreachable, match="is being ended"):
        await client.slots(5)


async def test_nobody_there(tmp_path: Path) -> None:
    """Without a listener a worker is not healthy, and a question says why."""
    client = WorkerClient(UnixEndpoint(tmp_path / "no.sock"), "key")

    assert not await client.is_healthy(5)
    with pytest.raises(WorkerUnreachable, match="FileNotFoundError"):
        await client.slots(5)
    with pytest.raises(WorkerUnreachable):
        async with client.post("/x", b"{}"):
            pass


async def test_no_answer() -> None:
    """A server that never answers is given up after the time allowed."""
    async with _serve(lambda _: None) as client:
        assert not await client.is_healthy(0.05)
        with pytest.raises(WorkerUnreachable, match="/slots: TimeoutError"):
            await client.slots(0.05)


async def test_loading() -> None:
    """503 is not healthy."""
    async with _serve(lambda _: _ok("{}", "503 Service Unavailable")) as client:
        assert not await client.is_healthy(5)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        _ok("hello"),
        _ok("{"),
        _ok("[1]"),
        _ok("{}", "404 Not Found"),
        _ok('[{"id": "x", "is_processing": 1}]'),
        _ok('{"total_slots": []}'),
    ],
)
async def test_server_that_is_something_else(reply: bytes) -> None:
    """Whatever answers, it ends in one kind of error."""
    async with _serve(lambda _: reply) as client:
        with pytest.raises(WorkerUnreachable):
            await client.slots(5)
        with pytest.raises(WorkerUnreachable):
            await client.props(5)


@pytest.mark.parametrize(
    ("told", "takes"),
    [
        ('{"chat_template_caps": {"supports_tools": true, "supports_tool_calls": false}}', {"supports_tools"}),
        ('{"chat_template_caps": {}}', set()),
        ("{}", None),
    ],
)
async def test_what_a_template_takes(told: str, takes: set[str] | None) -> None:
    """Is what the engine says that it does; an engine that says nothing has not said no."""
    async with _serve(lambda _: _ok(told)) as client:
        assert takes == (await client.props(5)).template_takes


async def test_key_is_sent() -> None:
    """Every request carries the key of the spawn."""
    heads: list[bytes] = []

    def answer(head: bytes) -> bytes:
        heads.append(head)
        return _ok("[]")

    async with _serve(answer) as client:
        await client.slots(5)
        async with client.post("/x", b"{}"):
            pass

    assert len(heads) == 2
    assert all(b"Authorization: Bearer key\r\n" in head for head in heads)
