from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.records.database import HEAD, Database, open_database, parse_address
from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.migrations.run import migrate
from hugind.proxy.records.schema import metadata, revisions
from tests.databases import PostgresServer, access_revision

UNUSED = Path("unused")


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
