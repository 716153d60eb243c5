"""The queue of changes: what comes together is done together, in order, and outlives the database's absence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from hugind.proxy.access.limit_ledger import BATCH, Change, Do, Ledger
from hugind.proxy.access.limit_rows import change_accounts
from hugind.proxy.access.limits import Account
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.schema import limit_accounts
from hugind.supervisor import tasks
from tests.databases import PostgresServer
from tests.eventually import eventually

ANN = ["user:ann"]


@asynccontextmanager
async def opened(database: Database, *, answer_s: float = 30, renew_s: float = 600) -> AsyncIterator[Ledger]:
    """A ledger that has nothing to renew."""
    async with Ledger(database, list, renew_s=renew_s, retry_s=0.02, answer_s=answer_s) as ledger:
        yield ledger


@pytest.fixture
def postgres_address(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database that can be sent away."""
    address = postgres_server.create()
    try:
        yield address
    finally:
        postgres_server.drop(address)


@pytest.fixture
async def postgres(postgres_address: str) -> AsyncIterator[Database]:
    """That database."""
    database = Database(parse_address(postgres_address, Path("unused")))
    await database.upgrade()
    try:
        yield database
    finally:
        await database.aclose()


def add(amount: int) -> Do:
    """Counts so many requests, and tells how many there are then."""

    def do(accounts: Mapping[str, Account], now: float) -> int:
        account = accounts["user:ann"]
        account.advance(now)
        account.requests.length_s = 3600
        account.requests.add(amount, now)
        return account.requests.total

    return do


async def test_in_order(database: Database) -> None:
    """Each sees what came before it, whether somebody waits for that or not."""
    async with opened(database) as ledger:
        ledger.post(ANN, add(1))
        results = await asyncio.gather(*(ledger.ask(ANN, add(10)) for _ in range(3 * BATCH)))
        ledger.post(ANN, add(1))

        assert [1 + 10 * number for number in range(1, 3 * BATCH + 1)] == results
        assert 3 * BATCH * 10 + 2 == await ledger.ask(ANN, add(0))


async def test_what_was_posted_is_written_before_the_end(database: Database) -> None:
    """However much it is."""
    async with opened(database) as ledger:
        for _ in range(2 * BATCH + 1):
            ledger.post(ANN, add(1))
    async with opened(database) as ledger:
        assert 2 * BATCH + 1 == await ledger.ask(ANN, add(0))


async def test_who_leaves_is_undone(database: Database) -> None:
    """If it leaves in the very moment."""

    def do(accounts: Mapping[str, Account], now: float) -> int:
        asking.cancel()
        return int(add(7)(accounts, now))

    async with opened(database) as ledger:
        asking = tasks.start(ledger.ask(ANN, do, undo=add(-7)), "ask and leave")
        with pytest.raises(asyncio.CancelledError):
            await asking

        assert 0 == await ledger.ask(ANN, add(0))


async def test_what_nobody_waits_for_any_more_is_not_begun(database: Database) -> None:
    """Unless nobody ever did."""
    async with opened(database) as ledger:
        asking = tasks.start(ledger.ask(ANN, add(7)), "ask and leave")
        await asyncio.sleep(0)
        await tasks.cancel(asking)

        assert 0 == await ledger.ask(ANN, add(0))


async def test_a_change_that_breaks(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Is told and dropped; the ones after it are made."""

    def breaks(_: Mapping[str, Account], __: float) -> None:
        raise ZeroDivisionError

    async with opened(database) as ledger:
        ledger.post(ANN, breaks)
        with pytest.raises(DatabaseAway):
            await ledger.ask(ANN, breaks)
        assert 1 == await ledger.ask(ANN, add(1))
        assert not ledger.is_away
    assert "ZeroDivisionError" in caplog.text


async def test_the_database_goes_away_and_comes_back(
    postgres: Database, postgres_address: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks is refused at once, what is posted is made later; both ends are logged, once."""
    caplog.set_level(logging.INFO, "hugind.proxy.access.limit_ledger")
    async with opened(postgres) as ledger:
        assert 1 == await ledger.ask(ANN, add(1))
        postgres_server.allow(postgres_address, is_allowed=False)
        for _ in range(3):
            with pytest.raises(DatabaseAway):
                await ledger.ask(ANN, add(100))
        assert ledger.is_away
        ledger.post(ANN, add(10))
        postgres_server.allow(postgres_address, is_allowed=True)
        await eventually(lambda: not ledger.is_away)

        assert 11 == await ledger.ask(ANN, add(0))
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


async def test_the_end_while_it_is_away(
    postgres: Database, postgres_address: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Does not wait for it, and says what is lost."""
    async with opened(postgres) as ledger:
        postgres_server.allow(postgres_address, is_allowed=False)
        with pytest.raises(DatabaseAway):
            await ledger.ask(ANN, add(100))
        ledger.post(ANN, add(1))
        ledger.post(ANN, add(1))

    assert "2 turns that ended are not counted" in caplog.text


async def test_somebody_holds_the_rows(postgres: Database) -> None:
    """Who asks does not wait longer than it wants to, and what was asked is undone once it was done after all."""
    held, is_enough = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with postgres.begin() as connection:
            await connection.exec_driver_sql("SELECT * FROM limit_accounts FOR UPDATE")
            held.set()
            await is_enough.wait()

    await change_accounts(postgres, ANN, add(1))
    async with opened(postgres, answer_s=0.1) as ledger, asyncio.TaskGroup() as group:
        group.create_task(hold())
        await held.wait()
        with pytest.raises(DatabaseAway, match="does not answer"):
            await ledger.ask(ANN, add(10), undo=add(-10))
        is_enough.set()
        await eventually(lambda: not ledger.is_away)  # it was done

        async with asyncio.timeout(10):
            while await total(postgres) != 1:
                pass


async def total(database: Database) -> int:
    """What is counted, as it is written."""
    async with database.read() as connection:
        state = await connection.scalar(select(limit_accounts.c.state))
    return Account.from_json(str(state)).requests.total


async def test_renewals(database: Database) -> None:
    """Are made again and again, with nothing else to do."""
    moments: list[float] = []

    def renewals() -> list[Change]:
        return [Change(ANN, lambda accounts, now: moments.append(now))]

    async with Ledger(database, renewals, renew_s=0.01):
        await eventually(lambda: len(moments) >= 3)
    assert sorted(moments) == moments
