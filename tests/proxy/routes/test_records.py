"""What is on record: the changes, the database, and all of it without a gateway."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.records.audit import entries
from hugind.proxy.records.database import HEAD, Database, parse_address
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.routes.records import Records, records_app, records_router
from tests.proxy.routes.calling import Asking, asking_records

SOMEBODY = Actor("somebody", "key1", "::1", "req_1")


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """An admin."""
    async with asking_records(database) as client:
        yield client


async def test_changes_page_by_page(client: httpx.AsyncClient, database: Database) -> None:
    """The latest first, narrowed by who, what and to whom."""
    accounts = Accounts(database)
    for name in ("a", "b", "c"):
        await accounts.create_user(SOMEBODY, name)
    await Records(database, accounts).note(Actor("control"), "engine.restart", "chat", {"why": "\x00'"})
    first = (await client.get("/audit?limit=3")).json()
    second = (await client.get(f"/audit?limit=3&before={first['next']}")).json()

    async def targets(query: str) -> list[str]:
        return [entry["target"] for entry in (await client.get(f"/audit?{query}")).json()["entries"]]

    assert (["chat", "c", "b"], ["a"]) == tuple([e["target"] for e in page["entries"]] for page in (first, second))
    assert None is second["next"]
    assert ["chat"] == await targets("actor=control")
    assert ["c", "b", "a"] == await targets("action=user")
    assert ["b"] == await targets("action=user.create&target=b")
    assert [] == await targets("since=2200-01-01")
    assert 4 == len(await targets("since=2020-01-01"))
    for query in ("actor=%00", "action=%00", "target=%00", "since=%00", "limit=0", "limit=1001"):
        assert 400 == (await client.get(f"/audit?{query}")).status_code


async def test_the_database_tells_of_itself(client: httpx.AsyncClient, database: Database) -> None:
    """What it is, where, and whether it can be used."""
    about = (await client.get("/database")).json()

    assert (database.kind, database.address, HEAD, HEAD, True) == tuple(
        about[name] for name in ("kind", "address", "revision", "head", "is_current")
    )


async def test_what_was_done_stays_done_without_a_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A note that cannot be written is in the log, whole."""
    database = Database(parse_address("postgresql://u:secret@127.0.0.1:1/x", tmp_path))
    await Records(database, Accounts(database)).note(Actor("control"), "engine.restart", "chat", {"by": "hand"})

    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "engine.restart by control: chat {'by': 'hand'}" in line
    assert "secret" not in line


async def test_a_change_is_made_even_if_nobody_could_be_told(sqlite_database: Database) -> None:
    """The secret of a key that is in the database is not lost for that."""

    async def changed() -> None:
        raise DatabaseAway("just now")

    router = records_router(Records(sqlite_database, Accounts(sqlite_database), changed))
    async with Asking(router).client() as client:
        user = await client.post("/users", json={"username": "alice"})
        key = await client.post("/users/alice/keys")

    assert (201, 201) == (user.status_code, key.status_code)
    assert key.json()["secret"]


async def test_without_a_gateway(database: Database) -> None:
    """A command mounts it on the database: it may do everything, and is on record from nowhere."""
    app = records_app(Records(database, Accounts(database)), "carl@desk")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://home/admin/v1") as client:
        made = await client.post("/users", json={"username": "alice"})
        again = await client.post("/users", json={"username": "alice"})
        key = await client.post("/users/alice/keys", json={"scopes": ["admin"]})
        gone = await client.delete("/users/alice")
        unknown = await client.get("/engines")
    (*_, first) = await entries(database)

    assert (201, 409, 201) == (made.status_code, again.status_code, key.status_code)
    assert {"deleted": "alice", "sessions_forgotten": None} == gone.json()
    assert (404, "username_taken") == (unknown.status_code, again.json()["error"]["code"])
    assert unknown.json()["error"]["message"]
    assert ("carl@desk", None, None, None) == (first.actor, first.actor_key_id, first.client_ip, first.request_id)
