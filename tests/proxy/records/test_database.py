from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.records.database import HEAD, Database, open_database, parse_address
from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.migrations.run import migrate
from hugind.proxy.records.responses import Past, Responses
from hugind.proxy.records.schema import metadata, responses, revisions, users
from hugind.proxy.records.usage import write
from hugind.proxy.sessions.record import Owner
from tests.databases import PostgresServer, access_revision
from tests.proxy.records.turns import count, recorded, turn

UNUSED = Path("unused")
MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_fresh_database_has_every_table(database: Database) -> None:
    assert (await database.status()).is_current
    async with database.read() as connection:
        for table in metadata.tables.values():
            assert await connection.scalar(select(func.count()).select_from(table)) == (table is revisions)
    assert await access_revision(database) == 0


async def test_preparing_twice_changes_nothing(database: Database) -> None:
    await database.prepare()
    await database.upgrade()
    assert await access_revision(database) == 0


async def test_the_migrations_lead_to_the_same_tables(database_address: str) -> None:
    database = Database(parse_address(database_address, UNUSED))

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    try:
        async with database.begin() as connection:
            await connection.run_sync(migrate)
        async with database.begin() as connection:
            assert await connection.run_sync(differences) == []
        assert (await database.status()).revision == HEAD
        assert await access_revision(database) == 0
    finally:
        await database.aclose()


async def make_first_tables(database: Database) -> None:
    """As the first release left them, in use: a user, a key, a turn."""
    async with database.begin() as connection:
        await connection.run_sync(migrate, "0001")
    accounts = Accounts(database)
    async with database.begin() as connection:
        person = {"id": "u1", "username": "alice", "is_enabled": True, "priority": 0, "limits": {}, "note": "ä"}
        await connection.execute(users.insert(), {**person, "created_at": MOMENT})
    await accounts.create_key(Actor("root"), "alice")
    await write(database, [(turn("one"), ("wie?", "so"))])


async def test_older_tables_are_brought_up_to_date(database_address: str) -> None:
    """SQLite by itself, PostgreSQL when it is told to; nothing of what is there changes."""
    old = Database(parse_address(database_address, UNUSED))
    try:
        await make_first_tables(old)
        assert ("0001", False) == ((await old.status()).revision, (await old.status()).is_current)
    finally:
        await old.aclose()
    url = parse_address(database_address, UNUSED)
    if url.get_backend_name() == "postgresql":
        with pytest.raises(DatabaseError, match="older release") as refused:
            await open_database(url)
        assert "hugind db upgrade" == refused.value.hint
        told = Database(url)
        await told.upgrade()
        await told.aclose()
    new = await open_database(url)
    try:
        assert ["alice"] == [user.username for user in await Accounts(new).users()]
        assert {"one"} == set(await recorded(new))
        await Responses(new).add(Owner("alice"), {"id": "resp_1", "output": []}, [], Past())
        await Accounts(new).delete_user(Actor("root"), "alice")
        assert 0 == await count(new, responses)
    finally:
        await new.aclose()


async def test_an_upgrade_is_all_or_nothing(database_address: str) -> None:
    """What stands in its way leaves the older tables as they were, and usable by the older release."""
    database = Database(parse_address(database_address, UNUSED))
    try:
        await make_first_tables(database)
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE conversation_items (id INTEGER PRIMARY KEY)"))
        with pytest.raises((SQLAlchemyError, DatabaseError)):
            await database.upgrade()
        async with database.read() as connection:
            names = await connection.run_sync(lambda bound: inspect(bound).get_table_names())
        assert "responses" not in names
        assert "0001" == (await database.status()).revision
    finally:
        await database.aclose()


async def test_two_that_make_the_tables_at_once(database_address: str) -> None:
    databases = [Database(parse_address(database_address, UNUSED)) for _ in range(4)]
    try:
        await asyncio.gather(*(database.upgrade() for database in databases))
        assert (await databases[0].status()).is_current
    finally:
        for database in databases:
            await database.aclose()


async def test_a_newer_database_is_left_alone(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer release"):
        await database.prepare()
    with pytest.raises(DatabaseError, match="newer release"):
        await database.upgrade()


async def test_somebody_elses_tables_are_left_alone(database_address: str) -> None:
    database = Database(parse_address(database_address, UNUSED))
    try:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE users (id INTEGER PRIMARY KEY)"))
        with pytest.raises(DatabaseError, match="not hugind's: users"):
            await database.upgrade()
    finally:
        await database.aclose()


async def test_an_empty_postgresql_is_not_filled_unasked(postgres_server: PostgresServer) -> None:
    address = postgres_server.create()
    try:
        with pytest.raises(DatabaseError, match="no tables") as refused:
            await open_database(parse_address(address, UNUSED))
        assert refused.value.hint == "hugind db init"
    finally:
        postgres_server.drop(address)


async def test_the_embedded_one_is_private(tmp_path: Path) -> None:
    file = tmp_path / "home" / "hugind.db"
    database = await open_database(parse_address(None, file))
    try:
        assert {path.stat().st_mode & 0o077 for path in file.parent.iterdir()} == {0}
    finally:
        await database.aclose()


async def test_a_database_that_goes_away_and_comes_back(postgres_server: PostgresServer) -> None:
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    try:
        await database.upgrade()
        postgres_server.allow(address, is_allowed=False)
        with pytest.raises(DatabaseAway):
            await access_revision(database)
        postgres_server.allow(address, is_allowed=True)
        assert await access_revision(database) == 0
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def test_no_value_is_in_an_error(sqlite_database: Database) -> None:
    """Whoever logs it. (PostgreSQL itself tells the row that it refused.)"""
    with pytest.raises(SQLAlchemyError) as failed:
        async with sqlite_database.begin() as connection:
            await connection.execute(revisions.insert(), [{"name": "secret-value", "value": None}])
    assert "secret-value" not in str(failed.value)


async def test_nobody_there(tmp_path: Path) -> None:
    database = Database(parse_address("postgresql://u:secret@127.0.0.1:1/x", UNUSED))
    try:
        with pytest.raises(DatabaseAway) as away:
            await database.status()
        assert "secret" not in away.value.message
    finally:
        await database.aclose()


async def test_reading_does_not_wait_for_who_writes(sqlite_database: Database) -> None:
    async with sqlite_database.begin() as connection:
        await connection.execute(revisions.update().values(value=7))
        assert await access_revision(sqlite_database) == 0
    assert await access_revision(sqlite_database) == 7


@pytest.mark.parametrize("address", ["mysql://x", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_addresses_that_will_not_do(address: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        parse_address(address, UNUSED)
    assert refused.value.message


def test_the_head_is_the_newest_migration() -> None:
    folder = Path(__file__).parents[3] / "proxy/records/migrations/versions"
    numbers = [found[1] for path in folder.glob("*.py") if (found := re.match(r"v(\d+)_", path.name))]
    assert max(numbers) == HEAD
