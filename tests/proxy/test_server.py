"""One connection: what it may cost before a request is whole, behind it, and when its client does not read."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from hugind.proxy.server import BoundedConnection, bind
from hugind.supervisor.errors import HugindError
from tests.eventually import eventually
from tests.proxy.serving import KEY, Served, chat, connect, endless, http_request, serving, standin_config

HEALTH = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Hasty(BoundedConnection):
    """Patient for a moment only."""

    head_timeout_s = 0.2
    body_timeout_s = 0.2
    write_timeout_s = 0.2


class HastyForHeads(BoundedConnection):
    """Bodies may take their time."""

    head_timeout_s = 0.2


@pytest.mark.parametrize("said", [b"", b"POST /v1/chat", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_slow_head_is_cut(tmp_path: Path, said: bytes) -> None:
    """Who connects and does not ask is not waited for."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=Hasty) as served,
        connect(served.port) as client,
    ):
        await client.send(said)

        assert b"" == await client.rest()


async def test_a_slow_second_head_is_cut(tmp_path: Path) -> None:
    """A connection that was useful once has no longer patience."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=Hasty) as served,
        connect(served.port) as client,
    ):
        await client.send(HEALTH)
        status, _, _ = await client.response()
        await client.send(b"GET /li")

        assert 200 == status
        assert b"" == await client.rest()


@pytest.mark.parametrize("headers", [(), ("Transfer-Encoding: chunked",)])
async def test_a_slow_body_is_cut_with_408(tmp_path: Path, headers: tuple[str, ...]) -> None:
    """A body that does not come whole gets an answer in the route's dialect, and the end."""
    length = "Content-Length: 500" if not headers else headers[0]
    head = f"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: {KEY}\r\n{length}\r\n\r\n"
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=Hasty) as served,
        connect(served.port) as client,
    ):
        await client.send(head.encode() + b"5\r\n{")
        status, answered, body = await client.response()

        assert 408 == status
        assert "close" == answered["connection"]
        assert "error" == json.loads(body)["type"]
        assert b"" == await client.rest()


async def test_a_large_head_is_refused(tmp_path: Path) -> None:
    """128 KB of headers get 431 in JSON; an endless head gets it before its end."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for filler, ending in ((128 * 1024, b"\r\n\r\n"), (600 * 1024, b"")):
            async with connect(served.port) as client:
                await client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * filler + ending)
                status, _, body = await client.response()

                assert 431 == status
                assert "error" in json.loads(body)
                assert b"" == await client.rest()


async def test_many_headers_are_refused(tmp_path: Path) -> None:
    """Small ones count, too."""
    headers = tuple(f"X-{i}: {i}" for i in range(200))
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request(chat(), headers=headers))

        assert 431 == (await client.response())[0]


async def test_a_large_body_is_not_taken_for_a_head(tmp_path: Path) -> None:
    """Bytes of a body do not count against the next request's head."""
    body = json.dumps(chat("x" * 200, filler="y" * 300_000, max_tokens=1)).encode()
    request = http_request(body)
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        for _ in range(3):
            await client.send(request[:40])
            await client.send(request[40:])

            assert 200 == (await client.response())[0]


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
async def test_what_is_not_http_is_refused(tmp_path: Path, garbage: bytes) -> None:
    """400 and the end."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(garbage)
        answer = await client.rest()

        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"error"' in answer


async def test_a_client_that_never_reads_is_cut(tmp_path: Path) -> None:
    """It may not keep a slot, nor a connection."""
    body = chat(stream=True, max_tokens=4000, standin={"token_ms": 0.01, "reply": "x" * 60_000})
    config = standin_config(tmp_path, context={"ctx_size": 100_000})
    async with serving(tmp_path, {"chat": config}, connection=Hasty) as served:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", served.port))
        with lazy:
            for _ in range(8):
                lazy.sendall(http_request(body))
            await eventually(lambda: served.leases().free == 1)
            await eventually(lambda: not served.server.server_state.connections, 30)
            await served.until_free(2)


async def test_a_stray_byte_behind_a_request_does_not_cost_its_answer(tmp_path: Path) -> None:
    """Old clients send a line break after a body; the head's clock must not end the answer to it."""
    body = chat(stream=True, max_tokens=12, standin={"token_ms": 50})
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=HastyForHeads) as served,
        connect(served.port) as client,
    ):
        await client.send(http_request(body) + b"G")
        status, _, answer = await client.response()

        assert 200 == status
        assert answer.endswith(b"data: [DONE]\n\n")
        assert b"" == await client.rest()


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Three at once on one connection, three answers."""
    requests = [http_request(chat(f"n{i}", standin={"reply": f"reply {i}"})) for i in range(3)]
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(b"".join(requests))
        answers = [json.loads((await client.response())[2]) for _ in range(3)]

        assert [f"reply {i}" for i in range(3)] == [a["choices"][0]["message"]["content"] for a in answers]


@pytest.mark.parametrize("window", [endless(), endless(prefill_ms=60_000)])
async def test_a_client_that_pipelines_and_leaves_is_noticed(tmp_path: Path, window: dict[str, object]) -> None:
    """The answer under way ends although a later request is the newest."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request(window))
        await eventually(lambda: served.leases().free == 1)
        await client.send(http_request(chat()) * 2)
        await eventually(lambda: _pipelined(served) == 2)
        client.leave()
        await served.until_free(2)


async def test_too_many_pipelined_requests_are_cut(tmp_path: Path) -> None:
    """Nobody stores requests here."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request(endless()))
        await eventually(lambda: served.leases().free == 1)
        await client.send(http_request(chat()) * 20)
        await client.rest()
        await served.until_free(2)


async def test_a_connection_is_used_again_after_an_error(tmp_path: Path) -> None:
    """The unread body of a refused request is skipped, and the next request is served."""
    refused = http_request(chat("x" * 100_000)).replace(KEY.encode(), b"wrong")
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        for _ in range(2):
            await client.send(refused[:2000])
            status = (await client.response())[0]
            await client.send(refused[2000:])
            await client.send(http_request(chat()))

            assert (401, 200) == (status, (await client.response())[0])


async def test_a_body_behind_its_answer_is_bounded(tmp_path: Path) -> None:
    """A refused client may not go on sending, nor stay when it is done."""
    refused = http_request(chat("x" * 1000)).replace(KEY.encode(), b"wrong")
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=Hasty) as served:
        for rest in (refused[500:-1], refused[500:]):
            async with connect(served.port) as client:
                await client.send(refused[:500])
                status = (await client.response())[0]
                await client.send(rest)

                assert 401 == status
                assert b"" == await client.rest()


async def test_expect_100_continue(tmp_path: Path) -> None:
    """A client that asks first is told to go on, or why not."""
    request = http_request(chat(), headers=("Expect: 100-continue",))
    head, _, body = request.partition(b"\r\n\r\n")
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        async with connect(served.port) as client:
            await client.send(head + b"\r\n\r\n")
            go_on = await client.reader.readuntil(b"\r\n\r\n")
            await client.send(body)

            assert b"HTTP/1.1 100 Continue\r\n\r\n" == go_on
            assert 200 == (await client.response())[0]
        async with connect(served.port) as client:
            await client.send(head.replace(KEY.encode(), b"wrong") + b"\r\n\r\n")

            assert 401 == (await client.response())[0]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_http_1_0_clients_are_served(tmp_path: Path, is_stream: bool) -> None:
    """Their answer ends with the connection."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request(chat(stream=is_stream, standin={"reply": "hello"}), version="1.0"))
        answer = await client.rest()

        assert b" 200 OK\r\n" in answer
        assert b"hell" in answer


async def test_an_upgrade_is_ignored(tmp_path: Path) -> None:
    """`curl --http2` asks for one, and is served as it is."""
    headers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request(chat(), headers=headers))

        assert 200 == (await client.response())[0]


def test_a_busy_port_names_its_owner() -> None:
    """The error says which process is in the way, and what to do."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            HugindError, match=rf"port {port} on 127.0.0.1 is already in use.*pid {os.getpid()}"
        ) as busy:
            bind("127.0.0.1", port)

        assert "--port" in (busy.value.hint or "")


def test_an_address_of_another_machine_is_refused() -> None:
    """With the system's own reason."""
    with pytest.raises(HugindError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind("192.0.2.1", 0)


def test_ipv6_is_listened_on() -> None:
    """`::1` is loopback, too."""
    with bind("::1", 0) as listener:
        assert socket.AF_INET6 == listener.family


def _pipelined(served: Served) -> int:
    """Requests that wait behind another on their connection."""
    connections = served.server.server_state.connections
    return sum(len(connection.pipeline) for connection in connections if isinstance(connection, BoundedConnection))
