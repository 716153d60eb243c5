"""Accounts in a database: changed by one at a time, by the clock of the database."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from hugind.proxy.access.limit_rows import change_accounts, forget_accounts
from hugind.proxy.access.limits import Account
from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import limit_accounts

SUBJECTS = ("key:ab12", "user:ann", "user:bob")


def count_one(accounts: Mapping[str, Account], now: float) -> None:
    """One request of everybody who is concerned."""
    for account in accounts.values():
        account.advance(now)
        account.requests.length_s = 3600
        account.requests.add(1, now)


async def counted(database: Database) -> dict[str, int]:
    """How many requests are in each account."""
    async with database.read() as connection:
        rows = (await connection.execute(select(limit_accounts))).all()
    return {row.subject: Account.from_json(row.state).requests.total for row in rows}


async def test_many_at_once(database: Database) -> None:
    """None is lost, and none waits for another for ever, whatever each of them is about."""
    wishes = [subjects for size in (1, 2, 3) for subjects in itertools.permutations(SUBJECTS, size)]
    await asyncio.gather(*(change_accounts(database, subjects, count_one) for subjects in wishes))

    assert dict.fromkeys(SUBJECTS, 11) == await counted(database)


async def test_the_moment_never_goes_back(database: Database) -> None:
    """Each change sees a moment that is no earlier than what it finds was changed at: it is taken behind the lock."""
    late: list[float] = []

    def change(accounts: Mapping[str, Account], now: float) -> None:
        late.append(now - accounts["user:ann"].latest)
        count_one(accounts, now)

    await asyncio.gather(*(change_accounts(database, ["user:ann"], change) for _ in range(30)))

    assert 30 == len(late)
    assert min(late) >= 0
    async with database.read() as connection:
        state = await connection.scalar(select(limit_accounts.c.state))
    assert abs(Account.from_json(str(state)).latest - time.time()) < 3600


async def test_a_change_that_breaks_changes_nothing(database: Database) -> None:
    """Not even the half that it had done."""
    await change_accounts(database, SUBJECTS, count_one)

    def change(accounts: Mapping[str, Account], now: float) -> None:
        count_one(accounts, now)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_accounts(database, SUBJECTS, change)
    assert dict.fromkeys(SUBJECTS, 1) == await counted(database)


async def test_looking_writes_nothing(database: Database) -> None:
    """So that a look costs no more than a look."""
    await change_accounts(database, ["user:ann"], count_one, lambda: 1000.0)
    await change_accounts(database, ["user:ann"], lambda accounts, now: None, lambda: 2000.0)
    async with database.read() as connection:
        written_at = await connection.scalar(select(limit_accounts.c.updated_at))

    assert datetime.fromtimestamp(1000, UTC) == written_at


async def test_nobody(database: Database) -> None:
    """It was reached, though."""
    moments: list[float] = []
    await change_accounts(database, [], lambda accounts, now: moments.append(now))

    assert 1 == len(moments)


async def test_a_row_that_cannot_be_read(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Is started afresh, and told."""
    async with database.begin() as connection:
        row = {"subject": "user:ann", "state": "{nonsense", "updated_at": datetime.now(UTC)}
        await connection.execute(limit_accounts.insert(), row)
    with caplog.at_level(logging.WARNING):
        await change_accounts(database, ["user:ann"], count_one)

    assert {"user:ann": 1} == await counted(database)
    assert "user:ann" in caplog.text


async def test_old_ones_are_forgotten(database: Database) -> None:
    """Those that nothing has changed since."""
    await change_accounts(database, ["user:ann"], count_one, lambda: 1000.0)
    await change_accounts(database, ["user:bob"], count_one, lambda: 3000.0)
    await forget_accounts(database, datetime.fromtimestamp(2000, UTC))

    async with database.read() as connection:
        assert 1 == await connection.scalar(select(func.count()).select_from(limit_accounts))
    assert {"user:bob": 1} == await counted(database)
