from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.retention import BATCH_ROWS, keep_to, remove_older
from hugind.proxy.records.schema import contents, requests
from hugind.proxy.records.usage import report, write
from hugind.supervisor import tasks
from tests.eventually import eventually
from tests.proxy.records.turns import MIDNIGHT, count, daily, mixed, recorded, sums_by_day, sums_of, turn

DAY_S = 86400


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


@asynccontextmanager
async def keeping(database: Database, days: int, now: float) -> AsyncIterator[None]:
    task = tasks.start(keep_to(partial(remove_older, database), "usage", days, lambda: now), "retention")
    try:
        yield
    finally:
        await tasks.cancel(task)


async def test_sums_stay(database: Database) -> None:
    """Rows and contents from before go, to the microsecond; what is told of whole days does not change."""
    turns = mixed(2 * BATCH_ROWS + 300)
    await write(database, [(row, ("q", "a")) for row in turns])
    before = await report(database, by="day")
    moment = MIDNIGHT + 3 * DAY_S
    left = {row.request_id for row in turns if row.created_at >= moment}
    assert 0 < len(left) < len(turns) - BATCH_ROWS

    assert await remove_older(database, at(moment)) == len(turns) - len(left)

    assert set(await recorded(database)) == left
    assert await count(database, contents) == len(left)
    assert await daily(database) == sums_by_day(turns)
    assert await report(database, by="day") == before
    assert await report(database) == [sums_of(turns)]
    assert await remove_older(database, at(moment)) == 0


async def test_two_at_once(database: Database) -> None:
    """Gateways that share a database do not trip over each other."""
    await write(database, [(turn(str(number)), ("q", "a")) for number in range(BATCH_ROWS + 500)])
    removed = await asyncio.gather(*(remove_older(database, at(MIDNIGHT + 1)) for _ in range(3)))
    assert sum(removed) == BATCH_ROWS + 500
    assert await count(database, requests) == await count(database, contents) == 0


async def test_as_many_days_as_asked_for(sqlite_database: Database) -> None:
    """At the start already; by the clock that is given."""
    turns = [turn(str(day), MIDNIGHT + day * DAY_S) for day in range(10)]
    await write(sqlite_database, [(row, None) for row in turns])
    async with keeping(sqlite_database, 4, MIDNIGHT + 9 * DAY_S):
        deadline = asyncio.get_running_loop().time() + 10
        while set(await recorded(sqlite_database)) != {"5", "6", "7", "8", "9"}:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)


async def test_without_a_database(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and tried again later."""
    caplog.set_level(logging.WARNING)
    database = Database(parse_address("postgresql://u:secret@127.0.0.1:1/x", Path("unused")))
    try:
        async with keeping(database, 1, MIDNIGHT):
            await eventually(lambda: "not removed" in caplog.text)
    finally:
        await database.aclose()
    assert "secret" not in caplog.text
