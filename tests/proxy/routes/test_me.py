"""What a key may know of itself and do: its limits, its usage, its sessions; and of nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from hugind.proxy.access.principal import Allowance
from hugind.proxy.books import Rules
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.usage import write
from tests.databases import PostgresServer
from tests.proxy.people import add_key, add_user, bearer
from tests.proxy.records.turns import turn
from tests.proxy.serving import KEY, Served, chat, serving, standin_config

CHAT = "/v1/chat/completions"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine; every user may ask a hundred times a minute."""
    config = standin_config(tmp_path, sessions={"min_tokens": 8})
    async with serving(tmp_path, {"chat": config}, rules=Rules(Allowance(requests=100))) as gateway:
        yield gateway


async def me(served: Served, secret: str, **headers: str) -> dict[str, Any]:
    """What a key is told."""
    answer = await served.client.get("/v1/me", headers=bearer(secret, **headers))
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ask(served: Served, secret: str, text: str, **headers: str) -> str:
    """One turn; the id of its session."""
    answer = await served.client.post(CHAT, json=chat(text, max_tokens=4), headers=bearer(secret, **headers))
    assert 200 == answer.status_code, answer.text
    return str(answer.headers["x-hugind-session-id"])


async def test_a_key_knows_itself(served: Served) -> None:
    """Who it is, what it may and what is left of it, as far as there are limits."""
    accounts = served.gateway.books.accounts
    ends = datetime.now(UTC) + timedelta(days=1)
    await add_user(accounts, "alice", {"tokens_per_day": 9000})
    secret = await add_key(accounts, "alice", models=["chat"], limits={"concurrent": 2}, expires_at=ends)
    await ask(served, secret, "hello")
    about = await me(served, secret)

    assert ("alice", ["inference", "sessions"], ["chat"]) == (
        about["user"], about["key"]["scopes"], about["key"]["models"],
    )  # fmt: skip
    assert secret.split("_")[1] == about["key"]["id"]
    assert abs(datetime.fromisoformat(about["key"]["expires_at"]) - ends) < timedelta(seconds=1)
    assert {"user": {"requests": 100, "window_s": 60, "tokens_per_day": 9000}, "key": {"concurrent": 2}} == about[
        "limits"
    ]
    assert (99, 2) == (
        about["remaining"]["user"]["requests"]["remaining"],
        about["remaining"]["key"]["concurrent"]["remaining"],
    )
    assert "end_user" not in about
    assert 1 == about["sessions"]["count"]


async def test_a_configured_key_has_no_id(served: Served) -> None:
    """It is not one out of the database."""
    about = await me(served, KEY)

    assert ("tester", None) == (about["user"], about["key"])
    assert 0 == about["usage"]["days30"]["requests"]


async def test_what_was_used(served: Served) -> None:
    """Today and in thirty days, by all keys of the user and by nobody else's."""
    books = served.gateway.books
    secret = await add_user(books.accounts, "alice")
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    turns = [
        turn("a", midnight, prompt_tokens=5),
        turn("b", midnight - 1, prompt_tokens=50, key_id="other"),
        turn("c", midnight - 29 * 86400, prompt_tokens=500),
        turn("d", midnight - 29 * 86400 - 1, prompt_tokens=5000),
        turn("e", midnight, username="bob", prompt_tokens=50000),
    ]
    await write(books.database, [(row, None) for row in turns])
    usage = (await me(served, secret))["usage"]

    assert (1, 5) == (usage["today"]["requests"], usage["today"]["prompt_tokens"])
    assert (3, 555) == (usage["days30"]["requests"], usage["days30"]["prompt_tokens"])


async def test_a_person_behind_a_key(served: Served) -> None:
    """Sees and forgets only what is theirs; without a name, the key has all of it."""
    books = served.gateway.books
    await add_user(books.accounts, "webui")
    secret = await add_key(books.accounts, "webui", delegates=True)
    await write(
        books.database,
        [(turn(name, datetime.now(UTC).timestamp(), username="webui", end_user=name), None) for name in ("eve", "bob")],
    )
    hers = await ask(served, secret, "hello", X_Hugind_User="eve")
    his = await ask(served, secret, "hello", X_Hugind_User="bob")
    await books.usage.flush()
    eve = await me(served, secret, X_Hugind_User="eve")
    everybody = await me(served, secret)
    listed = await served.client.get("/v1/sessions", headers=bearer(secret, X_Hugind_User="eve"))
    narrowed = await served.client.get("/v1/sessions?user=bob", headers=bearer(secret, X_Hugind_User="eve"))
    foreign = await served.client.delete(f"/v1/sessions/{his}", headers=bearer(secret, X_Hugind_User="eve"))
    forgotten = await served.client.delete("/v1/me/sessions", headers=bearer(secret, X_Hugind_User="eve"))
    rest = await served.client.delete("/v1/me/sessions", headers=bearer(secret))

    assert ("webui", "eve", 2, 1) == (
        eve["user"], eve["end_user"], eve["usage"]["today"]["requests"], eve["sessions"]["count"],
    )  # fmt: skip
    assert (4, 2) == (everybody["usage"]["today"]["requests"], everybody["sessions"]["count"])
    assert [hers] == [row["id"] for row in listed.json()["data"]] == [row["id"] for row in narrowed.json()["data"]]
    assert 404 == foreign.status_code
    assert ({"forgotten": [hers]}, {"forgotten": [his]}) == (forgotten.json(), rest.json())


async def test_forgetting_leaves_others_alone(served: Served) -> None:
    """All of one user's, with whatever key; nothing of another's."""
    accounts = served.gateway.books.accounts
    alice, bob = await add_user(accounts, "alice"), await add_user(accounts, "bob")
    mine = {await ask(served, alice, "one"), await ask(served, await add_key(accounts, "alice"), "two")}
    theirs = await ask(served, bob, "one")
    forgotten = (await served.client.delete("/v1/me/sessions", headers=bearer(alice))).json()["forgotten"]

    assert mine == set(forgotten)
    assert [theirs] == list(served.gateway.keeper(served.engine()).store.sessions)


async def test_without_a_key_nobody_is_told(served: Served) -> None:
    """401, as everywhere."""
    answers: list[httpx.Response] = [
        await served.client.get("/v1/me", headers={"Authorization": ""}),
        await served.client.delete("/v1/me/sessions", headers={"Authorization": "Bearer wrong"}),
    ]

    assert [401, 401] == [answer.status_code for answer in answers]


async def test_the_database_is_away(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """What only it knows is null; the rest is told to whoever was known before."""
    address = postgres_server.create()
    database = Database(parse_address(address, tmp_path))
    await database.upgrade()
    await database.aclose()
    try:
        async with serving(tmp_path, {"chat": standin_config(tmp_path)}, database_address=address) as served:
            secret = await add_user(served.gateway.books.accounts, "alice")
            before = await me(served, secret)
            postgres_server.allow(address, is_allowed=False)
            after = await me(served, secret)
            postgres_server.allow(address, is_allowed=True)

        assert 0 == before["usage"]["today"]["requests"]
        assert None is after["usage"]
        assert before["key"] == after["key"]
        assert before["sessions"] == after["sessions"]
    finally:
        postgres_server.drop(address)
