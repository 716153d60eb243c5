"""The database: SQLite in the hugind home, or PostgreSQL. Opens it, brings its tables up to date, says how it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Table, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.schema import metadata, revisions
from hugind.supervisor.paths import FILE_MODE

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 5
"""How long a change waits for another process's."""
KEEPALIVE_S = 15
"""A connection whose other end says nothing for so long is looked after, and given up as long after that."""
POOL_SIZE = 5

HEAD = "0002"
"""The newest migration; a test compares it with `migrations/versions`."""

_READS = "hugind_reads"

_POSTGRES_NAMES = ("postgres", "postgresql", "postgresql+psycopg")


@dataclass(frozen=True)
class DatabaseStatus:
    """How a database is."""

    kind: str
    """`sqlite` or `postgresql`."""
    address: str
    """Where it is, without its password."""
    revision: str | None
    """Of its tables; None: there are none yet."""
    head: str
    """The revision that this release of hugind works with."""

    @property
    def is_current(self) -> bool:
        """Whether it can be used."""
        return self.revision == self.head


def parse_address(address: str | None, home_file: Path) -> URL:
    """The URL of a database as people write it; None: SQLite in the home.

    Raises:
        DatabaseError: it is no URL, or of a database that hugind cannot use.
    """
    if address is None:
        return URL.create("sqlite+aiosqlite", database=str(home_file))
    try:
        url = make_url(address)
    except ArgumentError:
        raise DatabaseError(
            "the database's address is no URL", hint="postgresql://user:password@host:5432/name, or sqlite:////path"
        ) from None
    if url.drivername in _POSTGRES_NAMES:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+aiosqlite"):
        if not url.database or url.database == ":memory:":
            raise DatabaseError("an SQLite database needs a file", hint="sqlite:////path/to/hugind.db")
        return url.set(drivername="sqlite+aiosqlite")
    raise DatabaseError(f"'{url.drivername}' is not supported", hint="PostgreSQL or SQLite")


class Database:
    """Connections to one database, opened as they are needed. Closed with `aclose`; belongs to one event loop."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._engine = _make_engine(url)

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def address(self) -> str:
        """Where it is, without its password."""
        if (file := self._file) is not None:
            return str(file)
        return self._url.set(drivername="postgresql").render_as_string(hide_password=True)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, undone if that raises.

        On SQLite it is a writing one from its start: two that read before they write would refuse each other.

        Raises:
            DatabaseAway: it cannot be reached, or another process held it for `LOCK_TIMEOUT_S`.
        """
        with _translated(self.address):
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only looks, and never waits for who writes.

        Raises:
            DatabaseAway: it cannot be reached.
        """
        with _translated(self.address):
            async with self._engine.execution_options(**{_READS: True}).begin() as connection:
                yield connection

    def insert(self, table: Table) -> Any:
        """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`, as both databases spell it."""
        return sqlite.insert(table) if self.kind == "sqlite" else postgresql.insert(table)

    async def status(self) -> DatabaseStatus:
        """How it is.

        Raises:
            DatabaseAway: it cannot be reached.
        """
        file = self._file
        if file is not None and not file.exists():
            return DatabaseStatus(self.kind, self.address, None, HEAD)
        async with self.read() as connection:
            return DatabaseStatus(self.kind, self.address, await connection.run_sync(_revision), HEAD)

    async def prepare(self) -> None:
        """Make sure that it can be used: SQLite is made or brought up to date, PostgreSQL must have been.

        Raises:
            DatabaseError: PostgreSQL has no tables, or older ones; or it is newer than this release.
            DatabaseAway: it cannot be reached.
        """
        status = await self.status()
        if status.is_current:
            return
        if self.kind == "sqlite":
            await self.upgrade()
        elif status.revision is None:
            raise DatabaseError(f"there are no tables in {self.address} yet", hint="hugind db init")
        else:
            raise self._other_release(status.revision)

    async def upgrade(self) -> None:
        """Make its tables, or bring them up to date. What is there is kept.

        Raises:
            DatabaseError: it was made by a newer release, or holds somebody else's tables.
            DatabaseAway: it cannot be reached.
        """
        if (file := self._file) is not None:
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(file, os.O_WRONLY | os.O_CREAT, FILE_MODE))
            except OSError as error:
                raise DatabaseError(f"{file} cannot be made: {error.strerror or error}") from error
        async with self.begin() as connection:
            if self.kind == "postgresql":  # two that make the tables at once would trip over each other
                await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('hugind.upgrade'))"))
            revision = await connection.run_sync(_revision)
            if revision is None:
                await connection.run_sync(_create)
            elif revision != HEAD:
                await connection.run_sync(self._migrate)

    def _migrate(self, connection: Connection) -> None:
        from alembic.util import CommandError

        from hugind.proxy.records.migrations.run import migrate

        try:
            migrate(connection)
        except CommandError as error:
            raise self._other_release(str(_revision(connection))) from error

    def _other_release(self, revision: str) -> DatabaseError:
        if revision > HEAD:
            return DatabaseError(f"{self.address} was made by a newer release of hugind", hint="update hugind")
        return DatabaseError(f"{self.address} was made by an older release of hugind", hint="hugind db upgrade")

    @property
    def _file(self) -> Path | None:
        return Path(self._url.database) if self.kind == "sqlite" and self._url.database else None


async def open_database(url: URL) -> Database:
    """A database that can be used. The caller closes it.

    Raises:
        DatabaseError: as `Database.prepare`.
    """
    database = Database(url)
    try:
        await database.prepare()
    except BaseException:
        await database.aclose()
        raise
    return database


def _make_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(
            url, pool_size=POOL_SIZE, hide_parameters=True, connect_args={"timeout": LOCK_TIMEOUT_S}
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    timeouts = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": KEEPALIVE_S,
        "tcp_user_timeout": 1000 * KEEPALIVE_S,
        "options": f"-c lock_timeout={LOCK_TIMEOUT_S}s -c timezone=UTC",
    }
    return create_async_engine(
        url, pool_size=POOL_SIZE, pool_pre_ping=True, hide_parameters=True, connect_args=timeouts
    )


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # its own way of beginning transactions would come too late for us
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")


class _translated:  # noqa: N801 - used as a function
    """What the drivers say of a database that is away, as ours."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DBAPIError) and _is_away(error):
            words = str(error.orig).strip().splitlines()
            raise DatabaseAway(f"{self._address} cannot be used just now: {words[0] if words else kind}") from error
        if isinstance(error, (PoolTimeout, ConnectionError, TimeoutError)):
            raise DatabaseAway(f"{self._address} cannot be reached: {error}") from error


def _is_away(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _create(connection: Connection) -> None:
    """The tables as they are now. A test checks that the migrations lead to the same."""
    taken = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if taken:
        raise DatabaseError(f"there are tables of these names already, and not hugind's: {', '.join(sorted(taken))}")
    metadata.create_all(connection, checkfirst=False)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    connection.execute(revisions.insert(), [{"name": "access", "value": 0}])
