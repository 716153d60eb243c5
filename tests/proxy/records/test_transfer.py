from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, insert, select, update

from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.responses import Past, Responses
from hugind.proxy.records.retention import remove_older
from hugind.proxy.records.schema import audit, contents, keys, requests, revisions, usage_daily, users
from hugind.proxy.records.transfer import BATCH_ROWS, TABLES, transfer
from hugind.proxy.records.usage import write
from hugind.proxy.sessions.record import Owner
from tests.databases import PostgresServer, access_revision
from tests.proxy.records.test_usage import START
from tests.proxy.records.turns import count, daily, mixed, sums_by_day, turn

TURNS = 1200
UNUSED = Path("unused")
REVISION = 41


async def fill(database: Database, turns: int) -> None:
    """Have it look as if it had been in use for a while."""
    people = [
        {
            "id": f"u{number}",
            "username": f"user{number}",
            "is_enabled": number % 2 == 0,
            "priority": number,
            "limits": {"requests": None, "queued": number},
            "note": "naïve “quotes”\n",
            "created_at": START + timedelta(microseconds=number),
            "deleted_at": START if number == 3 else None,
        }
        for number in range(20)
    ]
    secrets: list[dict[str, Any]] = [
        {
            "id": f"key{number}",
            "user_id": f"u{number % 20}",
            "digest": f"{number:064x}",
            "scopes": ["inference"],
            "models": None if number % 2 else ["small"],
            "networks": ["10.0.0.0/8"],
            "limits": {},
            "delegates": number % 3 == 0,
            "note": "",
            "created_at": START,
            "expires_at": None,
            "revoked_at": START if number == 7 else None,
            "replaced_by": "key1" if number == 7 else None,
            "last_used_at": None,
        }
        for number in range(40)
    ]
    changes = [
        {"created_at": START, "actor": "root", "action": "user.create", "target": f"user{number}", "detail": {"n": [1]}}
        for number in range(20)
    ]
    async with database.begin() as connection:
        for table, lines in ((users, people), (keys, secrets), (audit, changes)):
            await connection.execute(insert(table), lines)
        await connection.execute(update(revisions).values(value=REVISION))
    rows = mixed(turns)
    await write(database, [(row, ("wie?", "so") if index % 2 else None) for index, row in enumerate(rows)])
    await remove_older(database, START + timedelta(hours=1))
    kept, owner = Responses(database), Owner("user1", "ä")
    talk = await kept.conversations.create(owner, {"ä": "ö"}, [{"id": "msg_1", "said": "\0“"}])
    await kept.add(owner, {"id": "resp_1", "output": []}, [{"id": "msg_2"}], Past([], 7, None, talk.id, 1))


@pytest.fixture
async def source(sqlite_database: Database) -> Database:
    """An embedded database that was in use for a while."""
    await fill(sqlite_database, TURNS)
    return sqlite_database


@pytest.fixture
async def target(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A PostgreSQL that was just initialised."""
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    try:
        await database.upgrade()
        yield database
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def lines_of(database: Database, table: Table) -> list[dict[str, Any]]:
    """In the order of their keys, as Python sorts: databases differ in that."""
    async with database.read() as connection:
        lines = [dict(line) for line in (await connection.execute(select(table))).mappings()]
    return sorted(lines, key=lambda line: [line[column.name] for column in table.primary_key])


def silent(table: str, done: int, total: int) -> None:
    pass


async def test_everything_arrives(sqlite_database: Database, target: Database) -> None:
    """5,000 turns, less those that were removed; and the sums, which know of all of them."""
    source = sqlite_database
    await fill(source, 5000)
    told: dict[str, list[tuple[int, int]]] = {}

    counts = await transfer(source, target, lambda table, done, total: told.setdefault(table, []).append((done, total)))

    assert list(counts) == [table.name for table in TABLES]
    for table in TABLES:
        lines = await lines_of(source, table)
        assert lines
        assert lines == await lines_of(target, table)
        assert counts[table.name] == (len(lines), len(lines))
        steps = [*range(0, len(lines), BATCH_ROWS), len(lines)]
        assert told[table.name] == [(done, len(lines)) for done in steps]
    assert await daily(target) == sums_by_day(mixed(5000))
    assert 3 * BATCH_ROWS < counts["llama_requests"][0] < 5000
    assert await access_revision(target) == REVISION + 1
    assert await access_revision(source) == REVISION


async def test_life_goes_on_there(source: Database, target: Database) -> None:
    """New rows get new numbers, and what was written before does not count again."""
    await transfer(source, target, silent)
    known = [row for row in mixed(TURNS) if row.created_at >= START.timestamp() + 3600]
    sums = await daily(target)
    assert await write(target, [(turn("new", username="new"), None)]) == 1
    newest = (await lines_of(target, requests))[-1]
    assert newest["request_id"] == "new"
    assert newest["id"] == TURNS + 1
    assert await write(target, [(row, None) for row in known]) == 0
    assert {key: line for key, line in (await daily(target)).items() if key[1] != "new"} == sums
    async with target.begin() as connection:
        change = {"created_at": START, "actor": "root", "action": "a", "target": "b", "detail": {}}
        done = await connection.execute(insert(audit).returning(audit.c.id), change)
        assert done.scalar_one() == 21


async def test_without_any_rows(sqlite_database: Database, target: Database) -> None:
    """The numbers begin at 1."""
    assert set((await transfer(sqlite_database, target, silent)).values()) == {(0, 0)}
    await write(target, [(turn("first"), None)])
    assert (await lines_of(target, requests))[0]["id"] == 1


async def test_interrupted_and_run_again(source: Database, target: Database) -> None:
    """Nothing has happened; then everything does."""

    def stop(table: str, done: int, total: int) -> None:
        if table == usage_daily.name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await transfer(source, target, stop)
    for table in TABLES:
        assert await count(target, table) == 0
    assert (await transfer(source, target, silent))["api_keys"] == (40, 40)


@pytest.mark.parametrize("table", [users, requests, contents])
async def test_a_target_that_is_in_use(source: Database, target: Database, table: Table) -> None:
    """It stays as it is."""
    async with source.read() as there:
        line = dict((await there.execute(select(table).limit(1))).mappings().one())
    async with target.begin() as here:
        await here.execute(insert(table), line)
    with pytest.raises(DatabaseError, match=f"something in {table.name}") as refused:
        await transfer(source, target, silent)
    assert "db init" in str(refused.value.hint)
    assert await count(target, table) == 1
    assert await count(target, audit) == 0


async def test_twice(source: Database, target: Database) -> None:
    await transfer(source, target, silent)
    with pytest.raises(DatabaseError, match="in use already"):
        await transfer(source, target, silent)
    assert await count(target, users) == 20


async def test_only_one_way(source: Database, target: Database, tmp_path: Path) -> None:
    other = Database(parse_address(None, tmp_path / "other.db"))
    try:
        await other.upgrade()
        for one, two in ((target, source), (source, other), (target, target)):
            with pytest.raises(DatabaseError, match="nothing can be copied"):
                await transfer(one, two, silent)
    finally:
        await other.aclose()


async def test_a_target_without_tables(source: Database, postgres_server: PostgresServer) -> None:
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    try:
        with pytest.raises(DatabaseError) as refused:
            await transfer(source, database, silent)
        assert refused.value.hint == "hugind db init"
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def test_what_the_target_refuses(source: Database, target: Database) -> None:
    """SQLite keeps what does not fit; it is said where it is, and nothing is copied."""
    async with source.begin() as connection:
        await connection.execute(update(users).where(users.c.id == "u1").values(username="x" * 100))
    with pytest.raises(DatabaseError, match="in users: value too long"):
        await transfer(source, target, silent)
    assert await count(target, users) == 0


async def test_a_target_that_somebody_writes_to(source: Database, target: Database) -> None:
    """What a gateway adds meanwhile waits; it is not counted as copied."""
    writing: list[asyncio.Task[int]] = []

    def write_too(table: str, done: int, total: int) -> None:
        if table == requests.name and done == total:
            writing.append(asyncio.get_running_loop().create_task(write(target, [(turn("meanwhile"), None)])))

    counts = await transfer(source, target, write_too)
    assert await writing[0] == 1
    assert await count(target, requests) == counts["llama_requests"][0] + 1


async def test_a_target_that_is_away(source: Database, target: Database, postgres_server: PostgresServer) -> None:
    address = target.address
    postgres_server.allow(address, is_allowed=False)
    with pytest.raises(DatabaseAway):
        await transfer(source, target, silent)
    postgres_server.allow(address, is_allowed=True)
    assert (await transfer(source, target, silent))["users"] == (20, 20)
