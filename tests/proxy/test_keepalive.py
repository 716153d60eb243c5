"""A stream that has nothing to say yet says so, once in a while, and never in the middle of something."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from hugind.proxy.keepalive import COMMENT, KeepAlive, keep_alive
from tests.eventually import eventually
from tests.proxy.exchanges import FakeClient
from tests.proxy.serving import Served, chat, serving, standin_config

OFTEN_S = 0.001
NEVER_S = 3600.0
FIRST = b"data: first\n\n"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class SlowReader(FakeClient):
    """Takes nothing in until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()
        self.offered = 0

    async def hear(self, message: Message) -> None:
        self.offered += 1
        await self.reads.wait()
        await super().hear(message)


def told(client: FakeClient) -> int:
    """How many signs have come."""
    return client.body.count(COMMENT)


async def test_a_stream_that_waits_begins_and_says_so() -> None:
    """Head first, then a sign, again and again; what the engine says comes behind that, and begins nothing anew."""
    client = FakeClient()
    client.exchange.keep_alive = KeepAlive(client.exchange, OFTEN_S, COMMENT)
    async with client.exchange.keep_alive:
        await eventually(lambda: told(client) > 2)
        await client.exchange.keep_alive.quiet()
        signs = told(client)
        await client.exchange.start(200, [])
        await client.exchange.send(FIRST, more=False)

    assert (200, b"text/event-stream; charset=utf-8") == (
        client.got[0]["status"],
        dict(client.got[0]["headers"])[b"content-type"],
    )
    assert ["http.response.start"] + ["http.response.body"] * (signs + 1) == [said["type"] for said in client.got]
    assert signs * COMMENT + FIRST == client.body


async def test_who_does_not_wait_is_told_nothing() -> None:
    """Before it is due nothing is sent, and after the block nothing is left that would."""
    client = FakeClient()
    async with KeepAlive(client.exchange, NEVER_S, COMMENT) as alive:
        await alive.quiet()

    assert [] == client.got
    assert not client.exchange.is_started


async def test_a_client_that_does_not_read_is_told_once() -> None:
    """Nothing piles up."""
    client = SlowReader()
    async with KeepAlive(client.exchange, OFTEN_S, COMMENT):
        await eventually(lambda: client.offered)
        for _ in range(20):
            await eventually(lambda: True)

            assert 1 == client.offered
        client.reads.set()
        await eventually(lambda: told(client) > 1)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_sign_is_sent_whole(is_cancelled: bool) -> None:
    """Whatever ends the wait while one is under way."""
    client = SlowReader()

    heard = []

    async def wait() -> None:
        try:
            async with KeepAlive(client.exchange, OFTEN_S, COMMENT) as alive:
                await eventually(lambda: client.offered)
                if is_cancelled:
                    await asyncio.Event().wait()
                await alive.quiet()
        finally:
            heard.append(client.body)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait())
        await eventually(lambda: client.offered)
        if is_cancelled:
            waiting.cancel()
        asyncio.get_running_loop().call_soon(client.reads.set)
        await asyncio.wait([waiting])

    assert is_cancelled == waiting.cancelled()
    assert [COMMENT] == heard


async def test_another_wait_of_the_same_request() -> None:
    """It is kept alive as well, and the answer does not begin again."""
    client = FakeClient()
    alive = KeepAlive(client.exchange, OFTEN_S, COMMENT)
    for _ in "ab":
        before = told(client)
        async with alive:
            await eventually(lambda before=before: told(client) > before)  # type: ignore[misc]

    assert 1 == sum(said["type"] == "http.response.start" for said in client.got)


@pytest.mark.parametrize(
    ("request_", "every_s", "is_kept"),
    [({"stream": True}, 1.0, True), ({"stream": True}, 0.0, False), ({"stream": False}, 1.0, False), ({}, 1.0, False)],
)
async def test_only_streams_and_only_where_it_is_wanted(
    request_: dict[str, Any], every_s: float, is_kept: bool
) -> None:
    """Whoever waits for a whole answer gets its status first."""
    exchange = FakeClient().exchange
    keep_alive(exchange, request_, every_s)

    assert is_kept == (exchange.keep_alive is not None)


# ---- over HTTP


async def test_waiting_for_a_slot(tmp_path: Path) -> None:
    """The client hears of it, in its dialect, and then gets its answer."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"keepalive_s": 0.01})
    for path, sign in ((CHAT, ": waiting\n\n"), (MESSAGES, 'event: ping\ndata: {"type":"ping"}\n\n')):
        async with serving(tmp_path / path[4:], {"chat": config}) as served:
            lease = await served.leases().acquire()
            async with served.client.stream("POST", path, json=chat(stream=True, max_tokens=4)) as answer:
                lines = answer.aiter_text()
                heard = await anext(lines)
                served.leases().release(lease)
                heard += "".join([more async for more in lines])

            assert 200 == answer.status_code
            assert float(answer.headers["x-hugind-queue-ms"]) > 0
            assert heard.startswith(sign)
            assert ("[DONE]" if path == CHAT else "message_stop") in heard


async def test_waiting_for_the_engine_the_session_and_the_prompt(tmp_path: Path) -> None:
    """Each of them is a wait, and the answer comes whole behind it."""
    config = standin_config(tmp_path, limits={"keepalive_s": 0.01}, engine={"extra_args": ["--slow-load", "0.3"]})
    body = chat(stream=True, max_tokens=4, standin={"prefill_ms": 100})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served, asyncio.TaskGroup() as group:
        answers = [group.create_task(_stream(served, body)) for _ in "ab"]
        await eventually(lambda: all(row["for"] == "loading" for row in served.leases().waiting_list()))

    for answer in answers:
        text = answer.result()
        assert text.startswith(COMMENT.decode())
        assert text.endswith("data: [DONE]\n\n")
        assert COMMENT.decode() not in text[text.index("data: ") :]


async def test_an_error_after_waiting(tmp_path: Path) -> None:
    """The status is out: it is the last event of the stream. Who did not stream gets it as ever."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"keepalive_s": 0.01, "max_wait_s": 0.2})
    async with serving(tmp_path, {"chat": config}) as served:
        lease = await served.leases().acquire()
        streamed = await served.client.post(CHAT, json=chat(stream=True))
        plain = await served.client.post(CHAT, json=chat())
        served.leases().release(lease)

    assert 200 == streamed.status_code
    assert streamed.text.startswith(COMMENT.decode())
    assert '"code":"queue_timeout"' in streamed.text.strip().split("\n\n")[-1]
    assert (503, "queue_timeout") == (plain.status_code, plain.json()["error"]["code"])


async def _stream(served: Served, body: dict[str, Any]) -> str:
    answer = await served.client.post(CHAT, json=body, headers={"X-Hugind-Session": "main"})
    return answer.text
