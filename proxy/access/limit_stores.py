"""Who may come in now? Counts requests, tokens and running turns of users and keys, in this process's memory.

`limit_database.py` counts them where several gateways share it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from hugind.proxy.access import limits
from hugind.proxy.access.limit_headers import Headers, Standings, limit_headers, refusal_error
from hugind.proxy.access.limits import Account
from hugind.proxy.access.principal import Allowance, Principal

FORGET_AT_ONCE = 4


class Party(NamedTuple):
    """A user (`user:NAME`) or a key (`key:ID`) whose limits count."""

    subject: str
    allowance: Allowance


class Admission:
    """A turn that was let in. Lives until `settle`. This one is not counted, because nobody has limits."""

    __slots__ = ()

    @property
    def reserved(self) -> int:
        """Tokens that are held for the turn."""
        return 0

    def headers(self, dialect: str) -> Headers:
        """What the caller has left, in the headers of `openai` or `anthropic`; none where there are no limits."""
        return []

    async def extend(self, tokens: int) -> bool:
        """Hold so many more tokens; False: there are none left."""
        return True

    async def settle(self, tokens: int) -> None:
        """The turn has ended and cost so much. Only the first call counts; never raises."""


@dataclass(frozen=True)
class Refused:
    """A turn that was not let in, and where its parties are with their limits."""

    refusal: limits.Refusal
    standings: list[Standings]


class Store(Protocol):
    """Where it is counted. An async context manager."""

    async def admit(self, request_id: str, parties: Sequence[Party], tokens: int) -> Admission | Refused:
        """Let a turn in with all parties, or with none."""

    async def standings(self, parties: Sequence[Party]) -> list[Standings]:
        """Where each party is with its limits."""

    async def __aenter__(self) -> Store: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Limiter:
    """The limits of this gateway. `store` may be changed: what was let in is settled where it was let in."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def admit(self, request_id: str, principal: Principal, tokens: int, dialect: str = "openai") -> Admission:
        """Count a turn that may take so many tokens.

        Raises:
            ApiError: 429, a limit is reached, and nothing was counted. Its headers are the dialect's.
        """
        parties = parties_of(principal)
        if not parties:
            return _UNCOUNTED
        admission = await self.store.admit(request_id, parties, max(tokens, 0))
        if isinstance(admission, Refused):
            subject = parties[admission.refusal.party].subject
            raise refusal_error(admission.refusal, subject, limit_headers(dialect, admission.standings, time.time()))
        return admission

    async def remaining(self, principal: Principal) -> dict[str, dict[str, Any]]:
        """Of each limit that is set: `{"user": {"requests": {"limit", "remaining", "reset_s"}, ...}, "key": {...}}`."""
        parties = parties_of(principal)
        found: dict[str, dict[str, Any]] = {"user": {}, "key": {}}
        for party, standings in zip(parties, await self.store.standings(parties) if parties else (), strict=True):
            kind = party.subject.partition(":")[0]
            found[kind] = {name: standing._asdict() for name, standing in standings.items()}
        return found


def parties_of(principal: Principal) -> list[Party]:
    """Who of a principal, the user and the key, has limits."""
    parties = []
    if _is_limited(principal.limits):
        parties.append(Party(f"user:{principal.name}", principal.limits))
    if principal.key_id is not None and _is_limited(principal.key_limits):
        parties.append(Party(f"key:{principal.key_id}", principal.key_limits))
    return parties


class MemoryStore:
    """Counts in memory, for one gateway. Exact, and nothing in it waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        """Of how many users and keys it knows anything."""
        return len(self._accounts)

    async def __aenter__(self) -> MemoryStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def admit(self, request_id: str, parties: Sequence[Party], tokens: int) -> Admission | Refused:
        """As `Store.admit`."""
        now = self._clock()
        known = self._accounts
        try:
            accounts = [(known[subject], allowance) for subject, allowance in parties]
        except KeyError:
            self._forget_some(now)
            accounts = [(known.setdefault(subject, Account()), allowance) for subject, allowance in parties]
        refusal = limits.admit(accounts, request_id, tokens, now)
        if refusal is not None:
            return Refused(refusal, [account.standings(allowance, now) for account, allowance in accounts])
        return _MemoryAdmission(self._clock, request_id, accounts, tokens)

    async def standings(self, parties: Sequence[Party]) -> list[Standings]:
        """As `Store.standings`."""
        now = self._clock()
        known = self._accounts
        return [(known.get(subject) or Account()).standings(allowance, now) for subject, allowance in parties]

    def _forget_some(self, now: float) -> None:
        """Drop idle ones among the oldest. More are looked at than come, so that no sweep is needed."""
        for _ in range(min(len(self._accounts), FORGET_AT_ONCE)):
            subject, account = self._accounts.popitem(last=False)
            if not account.is_idle(now):
                self._accounts[subject] = account


class _MemoryAdmission(Admission):
    __slots__ = ("_accounts", "_clock", "_is_settled", "_request_id", "_reserved")

    def __init__(self, clock: Callable[[], float], request_id: str, accounts: limits.Parties, tokens: int) -> None:
        self._clock = clock
        self._request_id = request_id
        self._accounts = accounts
        self._reserved = tokens
        self._is_settled = False

    @property
    def reserved(self) -> int:
        return self._reserved

    def headers(self, dialect: str) -> Headers:
        now = self._clock()
        standings = [account.standings(allowance, now) for account, allowance in self._accounts]
        return limit_headers(dialect, standings, time.time())

    async def extend(self, tokens: int) -> bool:
        is_held = not self._is_settled and limits.extend(self._accounts, self._request_id, tokens, self._clock())
        self._reserved += tokens if is_held else 0
        return is_held

    async def settle(self, tokens: int) -> None:
        if not self._is_settled:
            self._is_settled = True
            now = self._clock()
            for account, _ in self._accounts:
                account.settle(self._request_id, tokens, now)


_UNCOUNTED = Admission()


def _is_limited(allowance: Allowance) -> bool:
    return not (
        allowance.requests is None
        and allowance.tokens_per_minute is None
        and allowance.tokens_per_day is None
        and allowance.concurrent is None
    )
