"""The stand-in's connections: keys, keep-alive, chunks."""

from __future__ import annotations

import socket

import pytest

from tests.fakes.standin import StandinProcess, StartStandin

BODY = b'{"messages":[],"max_tokens":2,"stream":true}'


def send(connection: socket.socket, start: str, body: bytes = b"", headers: str = "") -> None:
    connection.sendall(f"{start} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def connect(standin: StandinProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(standin.socket))
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_connection_serves_many_requests(start_standin: StartStandin) -> None:
    """A connection lives on after an answer that does not stream."""
    standin = start_standin()
    with connect(standin) as connection:
        for _ in range(3):
            send(connection, "GET /health")

            assert connection.recv(4096).endswith(b'{"status":"ok"}')


def test_connection_ends_when_asked(start_standin: StartStandin) -> None:
    """`Connection: close` is obeyed."""
    standin = start_standin()
    with connect(standin) as connection:
        send(connection, "GET /health", headers="Connection: close\r\n")

        assert read_to_end(connection).endswith(b'{"status":"ok"}')


def test_stream_closes_a_connection_that_it_promised_to_keep(start_standin: StartStandin) -> None:
    """After a stream the connection is closed, although its headers speak of keep-alive: so does llama-server."""
    standin = start_standin()
    with connect(standin) as connection:
        send(connection, "POST /v1/chat/completions", BODY)
        answer = read_to_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"\r\nKeep-Alive: timeout=5, max=100" in head
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"Connection: close" not in head
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_each_event_is_a_chunk(start_standin: StartStandin) -> None:
    """Every event goes out as a chunk of its own."""
    standin = start_standin()
    with connect(standin) as connection:
        send(connection, "POST /v1/chat/completions", BODY)
        rest = read_to_end(connection).partition(b"\r\n\r\n")[2]
    chunks = []
    while rest != b"0\r\n\r\n":
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]

    assert len(chunks) == 5  # role, two tokens, the end, [DONE]
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)


def test_error_closes_the_connection(start_standin: StartStandin) -> None:
    """An answer that is not 200 says that it closes, and closes."""
    standin = start_standin()
    with connect(standin) as connection:
        send(connection, "GET /nowhere")
        answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nConnection: close\r\n" in answer


def test_idle_connection_is_closed(start_standin: StartStandin) -> None:
    """After 5 idle seconds the connection ends."""
    standin = start_standin()
    with connect(standin) as connection:
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": ""}])
def test_key_is_required(start_standin: StartStandin, headers: dict[str, str]) -> None:
    """Without the key there is /health and nothing else."""
    standin = start_standin(env={"LLAMA_API_KEY": "secret"})
    statuses = {path: standin.client.get(path, headers=headers).status_code for path in ("/health", "/props", "/none")}

    assert statuses == {"/health": 200, "/props": 401, "/none": 401}


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer b"}, {"X-Api-Key": "b"}])
def test_key_opens(start_standin: StartStandin, headers: dict[str, str]) -> None:
    """Any of the keys does, in either header."""
    standin = start_standin("--api-key", "a,b")

    assert standin.client.get("/props", headers=headers).status_code == 200


def test_client_that_does_not_read_stops_the_tokens(start_standin: StartStandin) -> None:
    """A client that does not read lets tokens pile up to a bound; when it reads, all of them come."""
    standin = start_standin("--ctx-size", "100000")
    body = b'{"messages":[],"max_tokens":20000,"stream":true,"standin":{"token_ms":0.01}}'
    with connect(standin) as connection:
        send(connection, "POST /v1/chat/completions", body)
        answer = read_to_end(connection)

    assert answer.count(b'"content":" tok"') == 20_000
