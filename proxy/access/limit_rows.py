"""Changes what several gateways share of their limits: one transaction on some rows of `limit_accounts`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Double, bindparam, cast, delete, extract, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.access.limits import Account
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.schema import limit_accounts

logger = logging.getLogger(__name__)

ATTEMPTS = 5

_SUBJECT, _STATE = limit_accounts.c.subject, limit_accounts.c.state

# Always locked in the same order, so that two gateways never wait for each other. And the clock is read behind the
# locks: a moment from before them would be earlier than what the one who held them has written.
_locked = (
    select(_SUBJECT, _STATE)
    .where(_SUBJECT.in_(bindparam("subjects", expanding=True)))
    .order_by(_SUBJECT)
    .with_for_update()
    .cte("locked")
)
_LOCK = select(_locked.c.subject, _locked.c.state)
_LOCK_AND_CLOCK = _LOCK.add_columns(cast(extract("epoch", func.clock_timestamp()), Double).label("now"))
_WRITE = (
    limit_accounts.update()
    .where(_SUBJECT == bindparam("of_subject"))
    .values(state=bindparam("new_state"), updated_at=bindparam("at"))
)


async def change_accounts(
    database: Database,
    subjects: Collection[str],
    change: Callable[[Mapping[str, Account], float], None],
    clock: Callable[[], float] | None = None,
) -> None:
    """Have `change` change the accounts of `subjects`, which nobody else sees or changes meanwhile.

    It is told the time, too: the database's on PostgreSQL, or `clock`'s.

    Raises:
        DatabaseAway: the database cannot be reached, or somebody else holds the accounts for too long. Nothing has
            changed, unless the connection broke in the very moment of the commit.
    """
    wanted = sorted(set(subjects))
    for _ in range(ATTEMPTS):
        async with database.begin() as connection:
            states, now = await _lock(connection, wanted, clock)
            if len(states) == len(wanted):
                accounts = {subject: _account(subject, state) for subject, state in states.items()}
                change(accounts, now)
                await _write(connection, accounts, states, now)
                return
        await _create(database, [subject for subject in wanted if subject not in states])
    raise DatabaseAway(f"rows of limit_accounts go as fast as they come in {database.address}")


async def forget_accounts(database: Database, before: datetime) -> None:
    """Drop the accounts that did not change since. Those that somebody holds just now are left.

    Raises:
        DatabaseAway: the database cannot be reached.
    """
    old = select(_SUBJECT).where(limit_accounts.c.updated_at < before).order_by(_SUBJECT)
    async with database.begin() as connection:
        await connection.execute(delete(limit_accounts).where(_SUBJECT.in_(old.with_for_update(skip_locked=True))))


async def _lock(
    connection: AsyncConnection, subjects: list[str], clock: Callable[[], float] | None
) -> tuple[dict[str, str], float]:
    has_clock = connection.dialect.name == "postgresql" and clock is None
    rows = (await connection.execute(_LOCK_AND_CLOCK if has_clock else _LOCK, {"subjects": subjects})).all()
    now = max((row.now for row in rows), default=0.0) if has_clock else (clock or time.time)()
    return {row.subject: row.state for row in rows}, now


async def _create(database: Database, subjects: list[str]) -> None:
    """On its own, because who has locked rows already must not wait for another's."""
    rows = [{"subject": subject, "state": "", "updated_at": datetime.now(UTC)} for subject in subjects]
    async with database.begin() as connection:
        await connection.execute(database.insert(limit_accounts).on_conflict_do_nothing(), rows)


async def _write(
    connection: AsyncConnection, accounts: Mapping[str, Account], states: Mapping[str, str], now: float
) -> None:
    changed: list[dict[str, Any]] = []
    for subject, account in accounts.items():
        state = account.to_json()
        if state != states[subject]:
            changed.append({"of_subject": subject, "new_state": state, "at": datetime.fromtimestamp(now, UTC)})
    if changed:
        await connection.execute(_WRITE, changed)


def _account(subject: str, state: str) -> Account:
    if not state:
        return Account()
    try:
        return Account.from_json(state)
    except ValueError as error:
        logger.warning("what %s has used is lost, its row cannot be read: %s", subject, error)
        return Account()
