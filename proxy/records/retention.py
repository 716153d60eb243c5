"""Removes what is older than somebody wants to keep it. Of usage, the sums of its days stay."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, Table, delete, select
from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.schema import contents, requests

logger = logging.getLogger(__name__)

BATCH_ROWS = 1000
PAUSE_S = 0.05
"""Between two batches, so that others can write."""
INTERVAL_S = 86400.0
RETRY_S = 60.0


Remove = Callable[[datetime], Awaitable[int]]
"""Removes what is from before a moment; returns how many rows there were."""


async def keep_to(remove: Remove, what: str, days: int, clock: Callable[[], float] = time.time) -> None:
    """Remove what is older than so many days, now and every day from now on. Returns only when it is cancelled."""
    while True:
        try:
            removed = await remove(datetime.fromtimestamp(clock(), UTC) - timedelta(days=days))
        except (DatabaseAway, SQLAlchemyError) as error:
            logger.warning("not removed, %s older than %d days: %s", what, days, error)
            await asyncio.sleep(RETRY_S)
            continue
        if removed:
            logger.info("removed %d rows of %s that were older than %d days", removed, what, days)
        await asyncio.sleep(INTERVAL_S)


async def remove_older(database: Database, moment: datetime) -> int:
    """Remove rows and contents from before `moment`, in short transactions. Returns how many rows there were.

    Raises:
        DatabaseAway: it cannot be reached; some may be removed.
    """
    await _remove(database, contents, contents.c.request_id, moment)
    return await _remove(database, requests, requests.c.id, moment)


async def _remove(database: Database, table: Table, key: Column[object], moment: datetime) -> int:
    # In an order that all gateways keep to, or two of them could wait for each other.
    oldest = select(key).where(table.c.created_at < moment).order_by(table.c.created_at, key).limit(BATCH_ROWS)
    removed = 0
    while True:
        async with database.begin() as connection:
            count = (await connection.execute(delete(table).where(key.in_(oldest)))).rowcount
        removed += count
        if count < BATCH_ROWS:
            return removed
        await asyncio.sleep(PAUSE_S)
