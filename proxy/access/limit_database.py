"""Counts limits in the database: exactly, however many gateways share it; in memory while the database is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from hugind.proxy.access import limits
from hugind.proxy.access.limit_headers import Headers, Standings, limit_headers
from hugind.proxy.access.limit_ledger import ANSWER_S, RETRY_S, Change, Do, Ledger
from hugind.proxy.access.limit_stores import Admission, MemoryStore, Party, Refused
from hugind.proxy.access.limits import Account
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway

HOLD_S, RENEW_S = 90.0, 30.0
"""What a gateway holds for its turns is free again after so long, unless it renews it, which it does so often."""

Accounts = Mapping[str, Account]


class DatabaseStore:
    """Counts in `limit_accounts`. Lives from `async with` to its end.

    A turn is settled where it was admitted. What a gateway held that was killed comes back after `hold_s`. While the
    database is away each gateway counts for itself, and turns that were admitted before take tokens unasked.
    """

    def __init__(
        self,
        database: Database,
        *,
        hold_s: float = HOLD_S,
        renew_s: float = RENEW_S,
        retry_s: float = RETRY_S,
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock`: instead of the database's."""
        self._hold_s = hold_s
        self._ledger = Ledger(
            database, self._renewals, renew_s=renew_s, retry_s=retry_s, answer_s=answer_s, clock=clock
        )
        self._memory = MemoryStore()
        self._live: dict[str, _DatabaseAdmission] = {}

    @property
    def is_away(self) -> bool:
        """It counts in memory, because the database is away."""
        return self._ledger.is_away

    async def __aenter__(self) -> DatabaseStore:
        await self._ledger.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ledger.__aexit__(kind, error, trace)

    async def admit(self, request_id: str, parties: Sequence[Party], tokens: int) -> Admission | Refused:
        """As `Store.admit`. Blocks for about one transaction."""

        def do(accounts: Accounts, now: float) -> tuple[limits.Refusal | None, list[Standings]]:
            concerned = _concerned(parties, accounts)
            refusal = limits.admit(concerned, request_id, tokens, now, now + self._hold_s)
            return refusal, [account.standings(allowance, now) for account, allowance in concerned]

        def undo(accounts: Accounts, now: float) -> None:
            for account, _ in _concerned(parties, accounts):
                account.settle(request_id, 0, now)

        try:
            refusal, standings = await self._ledger.ask(_subjects(parties), do, undo)
        except DatabaseAway:
            return await self._memory.admit(request_id, parties, tokens)
        if refusal is not None:
            return Refused(refusal, standings)
        admission = self._live[request_id] = _DatabaseAdmission(self, request_id, parties, tokens, standings)
        return admission

    async def standings(self, parties: Sequence[Party]) -> list[Standings]:
        """As `Store.standings`."""

        def do(accounts: Accounts, now: float) -> list[Standings]:
            return [account.standings(allowance, now) for account, allowance in _concerned(parties, accounts)]

        try:
            found: list[Standings] = await self._ledger.ask(_subjects(parties), do)
        except DatabaseAway:
            return await self._memory.standings(parties)
        return found

    async def extend(self, admission: _DatabaseAdmission, tokens: int) -> bool:
        """As `Admission.extend`."""

        def do(accounts: Accounts, now: float) -> bool:
            concerned = _concerned(admission.parties, accounts)
            return limits.extend(concerned, admission.request_id, tokens, now, now + self._hold_s)

        try:
            is_held: bool = await self._ledger.ask(_subjects(admission.parties), do)
        except DatabaseAway:
            return True
        return is_held

    def settle(self, admission: _DatabaseAdmission, tokens: int) -> None:
        """As `Admission.settle`. Returns at once; it is written as soon as it can be."""
        if self._live.pop(admission.request_id, None) is None:
            return

        def do(accounts: Accounts, now: float) -> None:
            for account, _ in _concerned(admission.parties, accounts):
                account.settle(admission.request_id, tokens, now)

        self._ledger.post(_subjects(admission.parties), do)

    def _renewals(self) -> Iterator[Change]:
        for admission in self._live.values():
            yield Change(_subjects(admission.parties), self._renewal(admission))

    def _renewal(self, admission: _DatabaseAdmission) -> Do:
        def do(accounts: Accounts, now: float) -> None:
            if admission.request_id in self._live:
                for account, _ in _concerned(admission.parties, accounts):
                    account.renew(admission.request_id, admission.reserved, now + self._hold_s, now)

        return do


class _DatabaseAdmission(Admission):
    __slots__ = ("_is_live", "_reserved", "_standings", "_store", "parties", "request_id")

    def __init__(
        self,
        store: DatabaseStore,
        request_id: str,
        parties: Sequence[Party],
        tokens: int,
        standings: list[Standings],
    ) -> None:
        self._store = store
        self._standings = standings
        self._reserved = tokens
        self._is_live = True
        self.request_id = request_id
        self.parties = parties

    @property
    def reserved(self) -> int:
        return self._reserved

    def headers(self, dialect: str) -> Headers:
        return limit_headers(dialect, self._standings, time.time())

    async def extend(self, tokens: int) -> bool:
        is_held = self._is_live and await self._store.extend(self, tokens)
        self._reserved += tokens if is_held else 0
        return is_held

    async def settle(self, tokens: int) -> None:
        self._is_live = False
        self._store.settle(self, tokens)


def _subjects(parties: Sequence[Party]) -> list[str]:
    return [party.subject for party in parties]


def _concerned(parties: Sequence[Party], accounts: Accounts) -> limits.Parties:
    return [(accounts[subject], allowance) for subject, allowance in parties]
