"""What keys must not do: outlive their user, reach further than their scopes, show up anywhere."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from hugind.proxy.access.principal import ALL_SCOPES
from hugind.proxy.access.scopes import needed_scope
from hugind.proxy.books import Rules
from tests.proxy.people import TESTER, add_key, add_user, bearer, own_logs
from tests.proxy.serving import ADMIN_KEY, Served, chat, connect, endless, http_request, serving, standin_config

CHAT = "/v1/chat/completions"

INFERENCE = (
    CHAT, "/v1/completions", "/v1/responses", "/infill", "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings",
    "/v1/rerank", "/tokenize", "/detokenize",
)  # fmt: skip

INJECTIONS = (
    "' OR '1'='1", "'; DROP TABLE users; --", "hgk_' UNION SELECT 1 --", "hgk_%00", "\u202e", "hgk_" + "A" * 57,
    "hgk_AAAAAAAA_" + "A" * 49, "x\ty", "${jndi:ldap://x}", "%0d%0aset-cookie: a=b",
)  # fmt: skip


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine of two slots; nobody comes in without a key, and keys may be in the path."""
    config = standin_config(tmp_path)
    async with serving(tmp_path, {"chat": config}, drain_s=1, rules=Rules(path_keys=True), needs_key=True) as gateway:
        yield gateway


async def _stream(served: Served, secret: str, started: asyncio.Event) -> bytes:
    """A stream of an hour; returns what came of it once it has ended."""
    async with connect(served.port) as client:
        await client.send(http_request(endless(token_ms=20), headers=("Connection: close",), key=secret))
        head = await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readuntil(b"\n\n")
        started.set()
        return head + await client.rest()


async def test_the_streams_of_a_deleted_user_are_cut(served: Served) -> None:
    """Theirs, at once, with a word; nobody else's. And the key is refused."""
    accounts = served.gateway.books.accounts
    alice, bob = await add_user(accounts, "alice"), await add_user(accounts, "bob")
    started = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        hers = group.create_task(_stream(served, alice, started[0]))
        his = group.create_task(_stream(served, bob, started[1]))
        for event in started:
            await event.wait()
        await accounts.delete_user(TESTER, "alice")
        async with asyncio.timeout(10):
            cut = await hers
        refused = await served.client.post(CHAT, json=chat(), headers=bearer(alice))
        assert not his.done()
        await accounts.delete_user(TESTER, "bob")
        await his

    assert cut.startswith(b"HTTP/1.1 200")
    assert b'"code":"key_revoked"' in cut
    assert refused.status_code == 401
    await served.until_free(2)


@pytest.mark.parametrize("how", ["revoke", "disable", "rotate"])
async def test_a_key_that_is_taken_away_opens_nothing_more(served: Served, how: str) -> None:
    accounts = served.gateway.books.accounts
    secret = await add_user(accounts, "alice")
    before = await served.client.get("/v1/models", headers=bearer(secret))
    (key,) = await accounts.keys("alice")
    fresh = None
    if how == "revoke":
        await accounts.revoke_key(TESTER, key.id)
    elif how == "disable":
        await accounts.update_user(TESTER, "alice", {"is_enabled": False})
    else:
        _, fresh = await accounts.rotate_key(TESTER, key.id, 0)
    await served.gateway.books.keys.refresh()
    after = await served.client.get("/v1/models", headers=bearer(secret))

    assert (before.status_code, after.status_code) == (200, 401)
    if fresh is not None:
        assert (await served.client.get("/v1/models", headers=bearer(fresh))).status_code == 200


async def test_a_key_of_another_process_is_refused_soon_after(served: Served) -> None:
    """What another process changes is seen here without a word from it."""
    accounts = served.gateway.books.accounts
    secret = await add_user(accounts, "alice")
    assert (await served.client.get("/v1/models", headers=bearer(secret))).status_code == 200
    await accounts.update_user(TESTER, "alice", {"is_enabled": False})
    async with asyncio.timeout(10):
        while (await served.client.get("/v1/models", headers=bearer(secret))).status_code == 200:
            pass


async def _routes(served: Served) -> list[tuple[str, str]]:
    """Every route there is: method and path, with something in place of its parameters."""
    routes = [("POST", path) for path in INFERENCE]
    routes += [("GET", path) for path in ("/v1/models", "/v1/models/chat", "/v1/me", "/v1/sessions", "/version")]
    routes += [("DELETE", "/v1/sessions/none"), ("DELETE", "/v1/me/sessions"), ("GET", "/metrics"), ("GET", "/admin")]
    routes += [("GET", "/admin/v1/nothing"), ("GET", "/admin/v1/openapi.json"), ("POST", "/admin/v1/reload")]
    answer = await served.client.get("/admin/v1/openapi.json", headers=bearer(ADMIN_KEY))
    for path, operations in answer.json()["paths"].items():
        routes += [(method.upper(), re.sub(r"\{.*?\}", "none", path)) for method in operations]
    return routes


async def test_every_route_with_every_scope(served: Served) -> None:
    """A key with one scope opens what needs that one, or none; with none it opens only what any key does."""
    accounts = served.gateway.books.accounts
    await add_user(accounts, "alice")
    wrong: list[tuple[str, str, str, int]] = []
    routes = await _routes(served)
    assert len(routes) > 45
    for scope in sorted(ALL_SCOPES):
        secret = await add_key(accounts, "alice", scopes=(scope,))
        for method, path in routes:
            answer = await served.client.request(method, path, headers=bearer(secret), json={})
            may = needed_scope(path) in (None, scope)
            if (answer.status_code == 403) == may or answer.status_code in (401, 500):
                wrong.append((scope, method, path, answer.status_code))
            keyless = await served.client.request(method, path, headers={"Authorization": ""}, json={})
            if keyless.status_code != 401:
                wrong.append(("none", method, path, keyless.status_code))

    assert wrong == []


async def test_a_key_for_some_models_sees_no_others(served: Served) -> None:
    accounts = served.gateway.books.accounts
    await add_user(accounts, "alice")
    secret = await add_key(accounts, "alice", models=("other",))
    models = await served.client.get("/v1/models", headers=bearer(secret))
    asked = await served.client.post(CHAT, json=chat(), headers=bearer(secret))

    assert models.json()["data"] == []
    assert asked.status_code == 404


async def test_a_key_for_some_networks(served: Served) -> None:
    accounts = served.gateway.books.accounts
    await add_user(accounts, "alice")
    here = await add_key(accounts, "alice", networks=("127.0.0.0/8", "::1/128"))
    elsewhere = await add_key(accounts, "alice", networks=("10.0.0.0/8",))

    assert (await served.client.get("/v1/models", headers=bearer(here))).status_code == 200
    refused = await served.client.get("/v1/models", headers=bearer(elsewhere))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "network_refused")


@pytest.mark.parametrize("text", INJECTIONS)
async def test_strings_that_mean_something_elsewhere(served: Served, text: str) -> None:
    """In every place that a key, a user or a chat can be named: an error of ours, or nothing at all."""
    await add_user(served.gateway.books.accounts, "alice")
    raw = text.encode()
    delegate = await add_key(served.gateway.books.accounts, "alice", delegates=True)
    heads: list[dict[bytes, bytes]] = [
        {b"authorization": b"Bearer " + raw},
        {b"x-api-key": raw, b"authorization": b"Bearer " + raw},
        {b"authorization": f"Bearer {delegate}".encode(), b"x-hugind-user": raw, b"x-openwebui-chat-id": raw},
    ]
    for headers in heads:
        answer = await served.client.post(CHAT, json=chat(text, max_tokens=1, user=text), headers=list(headers.items()))
        assert answer.status_code in (200, 400, 401)
        assert "set-cookie" not in answer.headers
    path = await served.client.get(f"/k/{quote(text, safe='%')}/v1/models", headers={"Authorization": ""})
    assert path.status_code in (401, 404)
    assert [user.username for user in await served.gateway.books.accounts.users()] == ["alice"]


async def test_only_a_delegating_key_speaks_for_others(served: Served) -> None:
    accounts = served.gateway.books.accounts
    plain = await add_user(accounts, "alice")
    webui = await add_key(accounts, "alice", delegates=True)
    refused = await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(plain, x_hugind_user="bob"))
    ignored = await served.client.post(
        CHAT, json=chat(max_tokens=1), headers=bearer(plain, X_OpenWebUI_User_Id="bob", X_OpenWebUI_Chat_Id="c")
    )
    for person in ("bob", "carol"):
        head = bearer(webui, X_OpenWebUI_User_Id=person, X_OpenWebUI_Chat_Id="c1")
        answer = await served.client.post(CHAT, json=chat(max_tokens=300), headers=head)
        assert answer.headers["x-hugind-session"] == "new"
    again = await served.client.post(
        CHAT, json=chat(max_tokens=1), headers=bearer(webui, X_OpenWebUI_User_Id="bob", X_OpenWebUI_Chat_Id="c1")
    )
    sessions = served.gateway.keeper(served.engine()).store.sessions.values()
    owners = {(session.owner.principal, session.owner.user) for session in sessions}

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_delegating")
    assert (ignored.status_code, again.status_code) == (200, 200)
    assert {("alice", "bob"), ("alice", "carol")} == owners - {("alice", None)}


async def test_no_key_is_written_anywhere(tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is asked with it, right or wrong: not in a log, a file, an answer."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "aiosqlite")
    accounts = served.gateway.books.accounts
    secret = await add_user(accounts, "alice", {"requests": 8})
    paths = (CHAT, "/v1/messages", "/v1/nothing", "/admin/v1/users", f"/k/{secret}{CHAT}", f"/k/{secret}/x")
    answers = [await served.client.post(path, json=chat(max_tokens=1), headers=bearer(secret)) for path in paths]
    answers += [await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(secret)) for _ in range(10)]
    answers.append(await served.client.post(CHAT, json=chat(), headers=bearer(secret + "x")))
    both = {"x-api-key": secret, "Authorization": "Bearer x"}
    answers.append(await served.client.post(CHAT, json=chat(), headers=both))
    await accounts.delete_user(TESTER, "alice")
    await served.gateway.books.keys.refresh()
    answers.append(await served.client.post(CHAT, json=chat(), headers=bearer(secret)))
    await served.gateway.books.usage.flush()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    body = secret.rpartition("_")[2]

    assert {200, 401, 403, 404, 429} <= {answer.status_code for answer in answers}
    assert body not in own_logs(caplog)
    assert not any(body in answer.text or body in str(answer.headers) for answer in answers)
    assert not [path for path in files if body.encode() in path.read_bytes()]
    assert len(files) > 3
