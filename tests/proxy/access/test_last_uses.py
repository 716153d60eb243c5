"""When keys were used last is written down in one go, and kept where that fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from hugind.proxy.access import last_uses
from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.access.last_uses import LastUses
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.schema import keys
from tests.databases import PostgresServer, access_revision

ADMIN = Actor("root")


async def make_keys(accounts: Accounts, number: int) -> list[str]:
    await accounts.create_user(ADMIN, "alice")
    return [(await accounts.create_key(ADMIN, "alice"))[0].id for _ in range(number)]


async def used(accounts: Accounts) -> dict[str, float | None]:
    return {key.id: key.last_used_at.timestamp() if key.last_used_at else None for key in await accounts.keys()}


async def test_what_was_noted_is_written(database: Database) -> None:
    """The last time of each; it is no change of access, and one that is gone does no harm."""
    accounts, uses = Accounts(database), LastUses(database)
    a, b, c = await make_keys(accounts, 3)
    revision = await access_revision(database)
    uses.note(a, 100.5)
    uses.note(b, 100.0)
    uses.note(a, 200.25)
    uses.note("nosuchid", 1.0)
    await uses.write()

    assert {a: 200.25, b: 100.0, c: None} == await used(accounts)
    assert datetime.fromtimestamp(100, UTC) == (await accounts.key(b)).last_used_at
    assert revision == await access_revision(database)


async def test_another_gateway_saw_it_later(database: Database) -> None:
    """What is written never goes back."""
    accounts, ours, theirs = Accounts(database), LastUses(database), LastUses(database)
    (key,) = await make_keys(accounts, 1)
    ours.note(key, 100.0)
    theirs.note(key, 200.0)
    await theirs.write()
    await ours.write()

    assert {key: 200.0} == await used(accounts)


async def test_many_write_while_keys_change(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """In whatever order each has them: nobody waits for another in a ring."""
    caplog.set_level(logging.DEBUG, last_uses.__name__)
    accounts = Accounts(database)
    alike = (await make_keys(accounts, 1))[0]
    async with database.begin() as connection:
        row = (await connection.execute(select(keys).where(keys.c.id == alike))).one()._mapping
        ids = [f"{number:08}" for number in range(500)]
        await connection.execute(keys.insert(), [{**row, "id": key, "digest": key} for key in ids])
    writers = [LastUses(database) for _ in range(4)]
    for number, writer in enumerate(writers):
        for key in ids if number % 2 else reversed(ids):
            writer.note(key, 100.0 + number)
    await asyncio.gather(*(writer.write() for writer in writers), accounts.delete_user(ADMIN, "alice"))

    assert [] == [record for record in caplog.records if record.name == last_uses.__name__]
    times = {key.last_used_at for key in await accounts.keys(include_revoked=True) if key.id != alike}
    assert {datetime.fromtimestamp(103, UTC)} == times


async def test_what_could_not_be_written_is_kept(postgres_server: PostgresServer) -> None:
    """Until the database is back; a later use counts."""
    address = postgres_server.create()
    database = Database(parse_address(address, Path("unused")))
    try:
        await database.upgrade()
        accounts, uses = Accounts(database), LastUses(database)
        a, b = await make_keys(accounts, 2)
        uses.note(a, 100.0)
        uses.note(b, 100.0)
        postgres_server.allow(address, is_allowed=False)
        await uses.write()
        uses.note(a, 200.0)
        postgres_server.allow(address, is_allowed=True)
        await uses.write()

        assert {a: 200.0, b: 100.0} == await used(accounts)
    finally:
        await database.aclose()
        postgres_server.drop(address)
