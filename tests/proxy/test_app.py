"""The gateway as clients meet it: what it refuses, in which shape, and that it goes on serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.app import App
from hugind.proxy.books import Rules
from hugind.proxy.gateway import Gateway
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.paths import Home
from tests.eventually import eventually
from tests.proxy.exchanges import FakeClient
from tests.proxy.serving import KEY, Served, chat, connect, endless, http_request, make_books, serving, standin_config

CHAT = "/v1/chat/completions"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine with a small body limit."""
    config = standin_config(tmp_path, limits={"max_body_mb": 1})
    async with serving(tmp_path, {"chat": config}, drain_s=1) as gateway:
        yield gateway


async def test_bodies_that_cannot_be_used(served: Served) -> None:
    """Each gets its status and a sentence, and costs no slot."""
    bodies: list[tuple[bytes, int]] = [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"model": "chat", "messages": "\xff\xfe"}', 400),
        (b'{"a":' * 100_000, 400),
        (b"x" * (2 * 1024 * 1024), 413),
        (b'{"model": "nope"}', 404),
        (b'{"model": ["chat"]}', 400),
        (b'{"model": "chat"}', 400),
        (b'{"model": "chat", "messages": [], "n": 17}', 400),
        (b'{"model": "chat", "messages": [], "n_cmpl": 3}', 400),
    ]
    for path in (CHAT, "/v1/messages"):
        for body, status in bodies:
            answer = await served.client.post(path, content=body)
            error = answer.json()["error"]

            assert status == answer.status_code, body[:50]
            assert error["message"]
    assert 2 == served.leases().free


async def test_a_huge_body_is_refused_in_the_end(served: Served) -> None:
    """50 MB, announced or in pieces, and a body without end: 413, and the connection ends."""

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 65536

    answer = await served.client.post(CHAT, content=pieces(5 * 16))  # within what is read and dropped

    assert (413, "close") == (answer.status_code, answer.headers["connection"])
    for length in ("Content-Length: 52428800", "Transfer-Encoding: chunked"):
        async with connect(served.port) as client:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{length}\r\n\r\n"
            await client.send(head.encode())
            sending = asyncio.get_running_loop().create_task(_send_without_end(client.writer))
            status, _, _ = await client.response()
            await client.rest()
            await asyncio.wait([sending])

            assert 413 == status


async def test_methods_that_do_not_fit(served: Served) -> None:
    """405 with the method that does, also where HEAD may carry no body."""
    for path, fits in ((CHAT, "POST"), ("/v1/messages", "POST"), ("/v1/models", "GET"), ("/v1/me", "GET")):
        for method in {"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"} - {fits}:
            answer = await served.client.request(method, path)

            assert (405, fits) == (answer.status_code, answer.headers.get("allow")), (path, method)
            assert method == "HEAD" or answer.json()["error"]["message"]


async def test_unknown_paths(served: Served) -> None:
    """404 in the shape of the dialect that the path belongs to, with a request id."""
    for path in ("/v1", "/v1/chat", "/v1/chat/completions/x", "/slots", "/props", "/..%2fadmin"):
        answer = await served.client.post(path, json={})

        assert (404, None) == (answer.status_code, answer.json().get("detail"))
        assert path == "/..%2fadmin" or path in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]
    answer = await served.client.get("/v1/messages/nope")

    assert "not_found_error" == answer.json()["error"]["type"]
    for path in ("/api/nope", "/api/chat/nope", "/api"):
        for method in ("GET", "POST", "DELETE"):
            answer = await served.client.request(method, path)

            assert 404 == answer.status_code
            assert path == "/api" or answer.json() == {"error": f"{method} {path}: Not Found"}


async def test_only_what_is_listed_is_served(served: Served) -> None:
    """llama-server's own routes are out of reach."""
    for path in ("/slots/0?action=erase", "/lora-adapters", "/apply-template", "/completion", "/props"):
        assert 404 == (await served.client.post(path, json={"model": "chat"})).status_code


async def test_401_names_the_scheme(served: Served) -> None:
    """So that a browser or a library knows what to send."""
    answer = await served.client.get("/v1/models", headers={"Authorization": "Bearer wrong"})

    assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"])
    assert "invalid_api_key" == answer.json()["error"]["code"]


async def test_a_bug_is_an_error_in_the_right_shape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever breaks, the client gets 500 in its dialect and an id that the log knows."""

    class BrokenKeyring(Keyring):
        @property
        def is_open(self) -> bool:
            raise ZeroDivisionError

    class BrokenFleet(Fleet):
        @property
        def is_ready(self) -> bool:
            raise ZeroDivisionError

    books = make_books(Home(tmp_path))
    doorman = Doorman(BrokenKeyring(), books.keys, needs_key=False)
    app = App(Gateway(BrokenFleet({}), doorman, Stores(Home(tmp_path)), books, Home(tmp_path)))
    for method, path in (("POST", "/v1/messages"), ("POST", CHAT), ("GET", "/readyz")):
        caplog.clear()
        client = FakeClient(path=path, method=method)
        await app(client.exchange.scope, client.says.get, client.hear)
        error = orjson.loads(client.body)["error"]

        assert 500 == client.got[0]["status"]
        assert 2 == len(client.got)
        assert error["message"].rpartition(" ")[2] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert "ZeroDivisionError" not in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_stopping_ends_streams_in_an_error(served: Served, path: str) -> None:
    """A stream that outlives the drain time ends in its dialect's error, not in the middle of nowhere."""
    async with connect(served.port) as client:
        await client.send(http_request(endless(token_ms=20), path))
        await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readuntil(b"data: ")
        served.server.should_exit = True
        rest = await client.rest()

        assert b"the gateway is stopping" in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert b"message_stop" not in rest


async def test_stopping_answers_who_waits(served: Served) -> None:
    """Requests that have not begun get 503 and a time to come back."""
    async with connect(served.port) as client:
        await client.send(http_request({**endless(), "stream": False}))
        await eventually(lambda: served.leases().free == 1)
        served.server.should_exit = True
        status, headers, _ = await client.response()

        assert (503, "5") == (status, headers["retry-after"])


async def _send_without_end(writer: asyncio.StreamWriter) -> None:
    try:
        for _ in _forever():
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
    except ConnectionError:
        pass


def _forever() -> Iterator[None]:
    while True:
        yield


async def test_a_wait_in_vain_counts_as_waiting(tmp_path: Path) -> None:
    """Who waits for a slot until the time is over is told so in the queue header, not as our overhead."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"max_wait_s": 0.3})
    async with serving(tmp_path, {"chat": config}) as served:
        held = await served.leases().acquire()
        answer = await served.client.post("/v1/completions", json={"model": "chat", "prompt": "a"})
        served.leases().release(held)

    assert answer.status_code == 503
    assert float(answer.headers["x-hugind-queue-ms"]) >= 300
    assert float(answer.headers["x-hugind-overhead-ms"]) < float(answer.headers["x-hugind-queue-ms"])


PAGE = "http://localhost:3000"

BROWSERS = {
    CHAT: "authorization, content-type, x-stainless-os, x-stainless-retry-count, openai-organization",
    "/v1/messages": "x-api-key, anthropic-version, anthropic-dangerous-direct-browser-access, content-type",
    "/api/chat": "authorization, content-type",
}
"""What the libraries of each dialect send from a page."""


@pytest.mark.parametrize("path", BROWSERS)
async def test_a_page_asks(served: Served, path: str) -> None:
    """First what it may send, without a key; then it may read the answer, streamed or not, and a refusal, too."""
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": BROWSERS[path], "Origin": PAGE}
    before = await served.client.options(path, headers={**wanted, "Authorization": ""})
    body = {**chat(max_tokens=2), "options": {"num_predict": 2}}
    answers = [
        await served.client.post(path, json={**body, "stream": is_stream}, headers={"Origin": PAGE})
        for is_stream in (False, True)
    ]
    refused = await served.client.post(path, json=body, headers={"Origin": PAGE, "Authorization": "Bearer wrong"})

    assert (204, b"", BROWSERS[path]) == (
        before.status_code, before.content, before.headers["access-control-allow-headers"]
    )  # fmt: skip
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "content-type" not in before.headers
    assert 401 == refused.status_code
    for answer in (before, refused, *answers):
        assert (PAGE, "origin") == (answer.headers["access-control-allow-origin"], answer.headers["vary"])
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    assert [200, 200] == [answer.status_code for answer in answers]


async def test_pages_that_may_not_ask(served: Served) -> None:
    """403 in the shape of the dialect, whatever they ask and with a good key; nothing that lets them read it."""
    foreign = {"Origin": "https://evil.example"}
    asks = {**foreign, "Access-Control-Request-Method": "POST"}
    for path in (CHAT, "/v1/messages", "/api/chat", "/health", "/v1/models", "/admin/v1/users", "/nothing"):
        for method, headers in (("POST", foreign), ("GET", foreign), ("OPTIONS", asks)):
            answer = await served.client.request(method, path, headers=headers)
            error = answer.json()["error"]

            assert 403 == answer.status_code
            assert isinstance(error, str) == path.startswith("/api/")
            assert "access-control-allow-origin" not in answer.headers
            assert path != "/v1/messages" or error["type"] == "permission_error"
            assert path != CHAT or error["code"] == "origin_refused"
    for sandboxed in ("null", ""):
        assert 403 == (await served.client.get("/v1/models", headers={"Origin": sandboxed})).status_code
    assert 2 == served.leases().free
    no_preflight = await served.client.options(CHAT, headers={"Origin": PAGE})
    assert (405, PAGE) == (no_preflight.status_code, no_preflight.headers["access-control-allow-origin"])
    twice = await served.client.get("/v1/models", headers=[("Origin", PAGE), ("Origin", PAGE)])
    assert 400 == twice.status_code


async def test_names_that_are_not_ours(served: Served) -> None:
    """A name that was made to lead to this machine opens nothing, not even what needs no key."""
    for path in ("/health", CHAT, "/api/chat", "/v1/messages", "/"):
        answer = await served.client.get(path, headers={"Host": "rebound.example:8080"})

        assert 403 == answer.status_code
        assert "rebound.example" in answer.text
    for host in ("localhost", "127.0.0.1:1", "host.docker.internal:11434", "10.1.2.3"):
        assert 200 == (await served.client.get("/health", headers={"Host": host})).status_code
    async with connect(served.port) as client:  # none, as HTTP/1.0 may
        await client.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert 200 == (await client.response())[0]


async def test_a_reload_names_other_pages(served: Served) -> None:
    """What the settings say holds at once, and their names are ours then."""
    page = {"Origin": "https://chat.example.org"}
    gateway = served.gateway
    before = await served.client.get("/v1/models", headers=page)
    gateway.books.apply(Rules(origins=("https://chat.example.org",)))
    after = await served.client.get("/v1/models", headers={**page, "Host": "chat.example.org"})
    gateway.books.apply(Rules())
    again = await served.client.get("/v1/models", headers=page)

    assert [403, 200, 403] == [answer.status_code for answer in (before, after, again)]


async def test_without_keys_foreign_pages_may_not_ask(tmp_path: Path) -> None:
    """Nor extensions that nobody named; this machine's own pages may."""
    async with serving(tmp_path, {}, keyring=Keyring()) as served:
        found = {
            origin: (await served.client.get("/v1/models", headers={"Origin": origin})).status_code
            for origin in (PAGE, "app://notes", "chrome-extension://abc", "https://evil.example", "null")
        }

    assert [200, 200, 403, 403, 403] == list(found.values())


async def test_beyond_loopback_any_name_will_do(tmp_path: Path) -> None:
    """There a key is needed, and the names that lead here are many."""
    books = make_books(Home(tmp_path))
    doorman = Doorman(Keyring(), books.keys, needs_key=True)
    gateway = Gateway(Fleet({}), doorman, Stores(Home(tmp_path)), books, Home(tmp_path))
    for is_loopback, status in ((True, 403), (False, 401)):
        client = FakeClient(path="/v1/models", method="GET", headers=[(b"host", b"gpu.example.org")])
        await App(gateway, is_loopback=is_loopback)(client.exchange.scope, client.says.get, client.hear)

        assert status == client.got[0]["status"]


async def test_what_a_client_wrote_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is one line, whatever it is, and shows no key."""
    model = "none\n2026-01-01 INFO forged hgk_AbCd1234_secretsecret"
    with caplog.at_level("INFO", "hugind.proxy.app"):
        async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
            answer = await served.client.post("/v1/chat/completions", json=chat(model=model))
            await served.client.get("/v1/%0Aelsewhere", headers={"authorization": "Bearer wrong"})

    assert not [record for record in caplog.records if "\n" in record.getMessage()]
    (line,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert 404 == answer.status_code
    assert "hgk_AbCd1234_***" in line
