"""Copies everything from SQLite to PostgreSQL, when one machine becomes several or several people operate it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import RowMapping, Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.records.schema import (
    audit,
    contents,
    conversation_items,
    conversations,
    keys,
    requests,
    responses,
    revisions,
    usage_daily,
    users,
)

TABLES = (users, keys, requests, contents, usage_daily, audit, responses, conversations, conversation_items)
"""What is copied, in an order that foreign keys allow."""
BATCH_ROWS = 1000

_NUMBERED = (requests, audit)

Progress = Callable[[str, int, int], None]
"""Called with a table's name, how many of its rows are copied, and how many there are."""


async def transfer(source: Database, target: Database, progress: Progress) -> dict[str, tuple[int, int]]:
    """Copy users, keys, usage, audit and responses; returns how many rows each table has, there and here.

    The source is read as it is at the start, and not changed; what others write to it meanwhile is not copied. The
    target is written in one transaction, with its tables locked against other writers: if this is interrupted, nothing
    has happened, and it can be run again. Gateways that use the target notice within their next look at it.

    Raises:
        DatabaseError: it is not from SQLite to PostgreSQL, one of the two is not of this release, the target holds
            something already, will not take what the source has, or ends up with another number of rows.
        DatabaseAway: one of the two cannot be reached.
    """
    await _check(source, target)
    async with source.read() as there, target.begin() as here:
        await _claim(target, here)
        counts = {}
        for table in TABLES:
            counts[table.name] = await _copy(table, there, here, progress)
        await _count_on(here)
        await _move_revision(there, here)
    return counts


async def _check(source: Database, target: Database) -> None:
    if (source.kind, target.kind) != ("sqlite", "postgresql"):
        raise DatabaseError(
            f"from {source.kind} to {target.kind} nothing can be copied", hint="from SQLite to PostgreSQL it can"
        )
    for database, hint in ((source, "hugind db upgrade"), (target, "hugind db init")):
        status = await database.status()
        if not status.is_current:
            raise DatabaseError(f"the tables in {status.address} are not of this release, or not there", hint=hint)


async def _claim(target: Database, here: AsyncConnection) -> None:
    """Nobody else writes to the target until the end of the transaction, and there is nothing in it.

    Raises:
        DatabaseError: there is.
    """
    names = ", ".join(table.name for table in TABLES)
    await here.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
    taken = [table.name for table in TABLES if await _count(table, here)]
    if taken:
        raise DatabaseError(
            f"{target.address} is in use already, there is something in {', '.join(taken)}",
            hint="name a database that is empty but for `hugind db init`",
        )


async def _copy(table: Table, there: AsyncConnection, here: AsyncConnection, progress: Progress) -> tuple[int, int]:
    total = await _count(table, there)
    progress(table.name, 0, total)
    copied = 0
    async with there.stream(select(table)) as lines:
        async for batch in lines.mappings().partitions(BATCH_ROWS):
            await _insert(table, batch, here)
            copied += len(batch)
            progress(table.name, copied, total)
    arrived = await _count(table, here)
    if arrived != total:
        raise DatabaseError(f"{table.name} has {total} rows, and {arrived} have arrived; nothing was copied")
    return total, arrived


async def _insert(table: Table, batch: Sequence[RowMapping], here: AsyncConnection) -> None:
    try:
        await here.execute(insert(table), [dict(line) for line in batch])
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        why = str(error.orig).strip().splitlines()[0]
        raise DatabaseError(f"PostgreSQL refuses something that is in {table.name}: {why}") from error


async def _count(table: Table, connection: AsyncConnection) -> int:
    return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def _count_on(here: AsyncConnection) -> None:
    """Rows that come next get numbers that none has."""
    for table in _NUMBERED:
        newest = select(func.max(table.c.id)).scalar_subquery()
        sequence = func.pg_get_serial_sequence(table.name, "id")
        await here.execute(select(func.setval(sequence, func.coalesce(newest, 1), newest.is_not(None))))


async def _move_revision(there: AsyncConnection, here: AsyncConnection) -> None:
    of_access = revisions.c.name == "access"
    value = int(await there.scalar(select(revisions.c.value).where(of_access)) or 0)
    await here.execute(update(revisions).where(of_access).values(value=func.greatest(revisions.c.value, value) + 1))
