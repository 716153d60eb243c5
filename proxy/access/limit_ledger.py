"""One gateway's way to the accounts that it shares with others: a queue of changes, and the task that makes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.access.limit_rows import change_accounts, forget_accounts
from hugind.proxy.access.limits import Account
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway
from hugind.supervisor import tasks

logger = logging.getLogger(__name__)

ANSWER_S = 3.0
"""Who has not heard from the database for so long goes on without."""
STUCK_S = 15.0
"""A transaction that takes longer is given up. The database's own time limits are shorter."""
RETRY_S = 1.0
BATCH = 50
"""So many changes go into one transaction at most."""
MAX_UNWRITTEN = 10_000
"""So many changes are kept while the database is away; of more, the oldest are lost."""
FORGET_EVERY_S = 3600.0
FORGET_AFTER = timedelta(days=2)
"""Twice the longest window."""

Do = Callable[[Mapping[str, Account], float], Any]
"""Changes accounts, by subject, at a moment."""


@dataclass(eq=False)
class Change:
    """Something to do in a transaction. Without an answer it is done sooner or later, in the order of coming."""

    subjects: Sequence[str]
    do: Do
    answer: asyncio.Future[Any] | None = None

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for it, or nobody ever did."""
        return self.answer is None or not self.answer.done()

    def tell(self, result: Any) -> None:
        """It was done."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(result)

    def refuse(self, why: str) -> None:
        """It will not be done, if anybody waits for it."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(DatabaseAway(why))


class Ledger:
    """Lives from `async with` to its end; one task makes all changes.

    What comes while a transaction runs goes into the next one together: a crowd costs hardly more than one.
    """

    def __init__(
        self,
        database: Database,
        renewals: Callable[[], Iterable[Change]],
        *,
        renew_s: float,
        retry_s: float = RETRY_S,
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`renewals`: what has to be done every `renew_s`. `clock`: instead of the database's."""
        self._database = database
        self._renewals = renewals
        self._renew_s = renew_s
        self._retry_s = retry_s
        self._answer_s = answer_s
        self._clock = clock
        self._is_away = False
        self._changes: deque[Change] = deque()
        self._woken = asyncio.Event()
        self._renew_at = self._forget_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """The database could not be reached the last time."""
        return self._is_away

    async def __aenter__(self) -> Ledger:
        self._renew_at = time.monotonic() + self._renew_s
        self._task = tasks.start(self._run(), "limits in the database")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.ask((), _change_nothing)  # behind everything that has come
        except DatabaseAway:
            pass
        finally:
            assert self._task is not None
            await tasks.cancel(self._task)
            self._refuse_all("the gateway is stopping")
            if self._changes:
                logger.warning("%d turns that ended are not counted: the database is away", len(self._changes))

    async def ask(self, subjects: Sequence[str], do: Do, undo: Do | None = None) -> Any:
        """What `do` returns in its transaction. `undo` follows it where nobody waits for that any more.

        Raises:
            DatabaseAway: it was not done.
        """
        if self._is_away:
            raise DatabaseAway("the database is away")
        answer = asyncio.get_running_loop().create_future()
        self._add(Change(subjects, do, answer))
        try:
            async with asyncio.timeout(self._answer_s):
                return await answer
        except (TimeoutError, asyncio.CancelledError) as error:
            if undo is not None:
                self.post(subjects, undo)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._went_away(f"no answer in {self._answer_s:g} s")
            raise DatabaseAway("the database does not answer") from None

    def post(self, subjects: Sequence[str], do: Do) -> None:
        """Have something done as soon as the database can be reached. Returns at once."""
        self._add(Change(subjects, do))

    def _add(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > MAX_UNWRITTEN:
            self._changes.popleft().refuse("too much is waiting")
        if not self._is_away:
            self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._wait()
            changes: list[Change] = []
            while self._changes and len(changes) < BATCH:
                change = self._changes.popleft()
                if change.is_wanted:
                    changes.append(change)
            await self._make(changes)

    async def _wait(self) -> None:
        """Until there is something to do."""
        if self._changes and not self._is_away:
            return
        self._woken.clear()
        pause_s = self._retry_s if self._is_away else max(self._renew_at - time.monotonic(), 0)
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _make(self, changes: list[Change]) -> None:
        """All of them in one transaction, with what has to be renewed."""
        renewals = self._due_renewals()
        done: list[tuple[Change, Any]] = []

        def do(accounts: Mapping[str, Account], now: float) -> None:
            done[:] = [(change, change.do(accounts, now)) for change in (*changes, *renewals)]

        subjects = {subject for change in (*changes, *renewals) for subject in change.subjects}
        try:
            async with asyncio.timeout(STUCK_S):
                await change_accounts(self._database, subjects, do, self._clock)
        except (DatabaseAway, SQLAlchemyError, TimeoutError, asyncio.CancelledError) as error:
            self._changes.extendleft(reversed(changes))
            if isinstance(error, asyncio.CancelledError):
                raise
            self._went_away(str(error).partition("\n")[0] or f"nothing happens in {STUCK_S:g} s")
        except Exception:
            # A bug that one turn meets must not end the counting of the others; it would meet it again.
            logger.exception("counting limits broke")
            for change in changes:
                change.refuse("counting limits broke")
        else:
            for change, result in done:
                change.tell(result)
            await self._came_back()

    def _due_renewals(self) -> list[Change]:
        if self._renew_at > time.monotonic():
            return []
        self._renew_at = time.monotonic() + self._renew_s
        return list(self._renewals())

    def _went_away(self, why: str) -> None:
        if not self._is_away:
            logger.warning("the database is away, this gateway counts limits for itself: %s", why)
        self._is_away = True
        self._renew_at = 0.0
        self._refuse_all(why)

    def _refuse_all(self, why: str) -> None:
        """Who waits for an answer goes on without; what needs none stays."""
        for change in self._changes:
            change.refuse(why)
        self._changes = deque(change for change in self._changes if change.answer is None)

    async def _came_back(self) -> None:
        if self._is_away:
            logger.info("the database is back, limits are shared with other gateways again")
            self._is_away = False
        if self._forget_at <= time.monotonic():
            self._forget_at = time.monotonic() + FORGET_EVERY_S
            now = datetime.fromtimestamp((self._clock or time.time)(), UTC)
            try:
                await forget_accounts(self._database, now - FORGET_AFTER)
            except (DatabaseAway, SQLAlchemyError) as error:
                logger.debug("old accounts stay for now: %s", error)


def _change_nothing(_: Mapping[str, Account], __: float) -> None:
    pass
