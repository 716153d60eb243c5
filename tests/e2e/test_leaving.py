"""Clients that leave: in whatever window, nothing is computed for them, and no slot stays busy."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hugind.supervisor.config import Config
from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import running
from tests.eventually import eventually, eventually_sync
from tests.proxy.serving import RawConnection, Served, chat, connect, endless, http_request, serving, standin_config

CLIENTS = 20
PREFILL = endless(prefill_ms=3_600_000)
UNSTREAMED = {**endless(), "stream": False}


@pytest.mark.parametrize("is_half_closed", [False, True])
@pytest.mark.parametrize("window", ["queued", "prefill", "streaming", "unstreamed"])
async def test_no_window_keeps_a_slot(tmp_path: Path, window: str, is_half_closed: bool) -> None:
    """Twenty who leave while they wait, during prefill, in mid-stream, or before an unstreamed answer."""
    config = standin_config(tmp_path, server={"max_slots": CLIENTS})
    async with serving(tmp_path, {"chat": config}) as served, AsyncExitStack() as stack:
        holders = await _arrive(stack, served, endless(token_ms=5)) if window == "queued" else []
        body = {"queued": endless(), "prefill": PREFILL, "streaming": endless(token_ms=5), "unstreamed": UNSTREAMED}
        clients = await _arrive(stack, served, body[window])
        leases = served.leases()
        if window == "queued":
            await eventually(lambda: leases.waiting == CLIENTS)
        else:
            await eventually(lambda: leases.free == 0)
        if window == "streaming":
            await asyncio.gather(*(client.reader.readuntil(b"data: ") for client in clients))
        for client in clients:
            _leave(client, is_half_closed)
        await eventually(lambda: leases.waiting == 0)
        for client in holders:
            _leave(client, is_half_closed)
        await served.until_free(CLIENTS)

        assert 200 == (await served.client.post("/v1/chat/completions", json=chat())).status_code


async def test_a_large_request_may_be_left_too(tmp_path: Path) -> None:
    """A body that filled the server's buffer must not leave it deaf to its client's end."""
    head, end, body = http_request({**PREFILL, "filler": "x" * 200_000}).partition(b"\r\n\r\n")
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path)}) as served,
        connect(served.port) as busy,
        connect(served.port) as client,
    ):
        await busy.send(http_request(endless(token_ms=5)))
        await eventually(lambda: served.leases().free == 1)
        await client.send(head + end)
        await busy.reader.readuntil(b"data: ")  # by now the app waits for the body
        await client.send(body)
        await eventually(lambda: served.leases().free == 0)
        client.leave()
        await eventually(lambda: served.leases().free == 1)


async def test_a_request_without_a_slot_may_be_left_too(tmp_path: Path) -> None:
    """Who waits for a loading engine is forgotten when it leaves."""
    config = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "60"]})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served, connect(served.port) as client:
        await client.send(http_request({"model": "chat", "content": "a"}, "/tokenize"))
        await eventually(lambda: served.leases().waiting == 1)
        client.leave()
        await eventually(lambda: served.leases().waiting == 0)


@pytest.mark.e2e
@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("words", [2, 2000])
async def test_the_real_engine_stops_computing(tmp_path: Path, is_stream: bool, words: int) -> None:
    """After a short prompt or within a long one, streamed or not: abandoned work ends long before its limit."""
    config = Config.model_validate(chat_config(tmp_path, context={"ctx_size": 16_384}))
    body = chat("w " * words, stream=is_stream, max_tokens=12_000)
    async with serving(tmp_path, {"chat": config}) as served:
        for _ in range(CLIENTS // 4):
            async with connect(served.port) as one, connect(served.port) as other:
                for client in (one, other):
                    await client.send(http_request(body))
                await eventually(lambda: served.leases().free == 0)
                if is_stream and words == 2:
                    await one.reader.readuntil(b"data: ")
                one.leave()
                other.leave()
                await eventually(lambda: served.leases().free == 2)
                async with asyncio.timeout(10):  # it ends at a batch boundary; twelve thousand tokens take longer
                    while await served.busy_slots():
                        pass
        async with served.spawn().client.post("/completion", b'{"prompt":"a","n_predict":1}') as answer:
            assert 200 == answer.status


@pytest.mark.e2e
def test_leaving_at_once(tmp_path: Path) -> None:
    """The end of a client may be read together with its request, before anybody has begun to listen for it."""
    with running(tmp_path, {"chat": chat_config(tmp_path, context={"ctx_size": 200_000})}) as gateway:
        for _ in range(CLIENTS):
            with socket.create_connection(("127.0.0.1", gateway.port)) as hasty:
                hasty.sendall(http_request(chat(stream=True, max_tokens=100_000)).replace(b"test-key", b"e2e-key"))
                hasty.shutdown(socket.SHUT_WR)
                while hasty.recv(65536):
                    pass
        eventually_sync(lambda: gateway.engine("chat")["free_slots"] == 2)

        assert 200 == gateway.client.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code


async def _arrive(stack: AsyncExitStack, served: Served, body: dict[str, Any]) -> list[RawConnection]:
    clients = [await stack.enter_async_context(connect(served.port)) for _ in range(CLIENTS)]
    for client in clients:
        await client.send(http_request(body))
    return clients


def _leave(client: RawConnection, is_half_closed: bool) -> None:
    if is_half_closed:
        client.writer.write_eof()
    else:
        client.leave()
