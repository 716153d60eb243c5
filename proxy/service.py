"""How much was each served? Tokens, as far as they still count against whoever got them. Pure.

Compared are differences only, between those who want something at the same time:

- **Who stays is counted exactly**, whatever the size of their turns. A decay by the clock alone would forget a turn
  that takes longer than its half-life, and whoever has the longest turns would get the most.
- **Who goes is forgiven by the clock.** What they had more than a newcomer halves every `HALF_LIFE_S`.
- **Who comes back does not hog everybody.** They are put at most `MAX_CREDIT` behind the least served of those who are
  there. That is about one turn, prompt and answer: who asks for one turn at a time and pauses in between is next every
  time, and whoever comes with a crowd has to queue with the others after a turn or two.
- **What nobody else wanted costs nothing.** Who was there alone is no better and no worse off than others afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

HALF_LIFE_S = 60.0
MAX_CREDIT = 1500.0
"""Tokens."""
PACE_MEMORY = 0.9
_FORGOTTEN = 1.0
"""Tokens; who has less is a newcomer."""
_FIRST_SWEEP = 64

Flow = TypeVar("Flow", bound=Hashable)


@dataclass
class _Account:
    """One who is there."""

    tokens: float
    """Comparable within a ledger; no number of anything by itself."""
    expected: float = 0.0
    """Of turns that run."""


@dataclass(frozen=True)
class _Memory:
    """One who is not there."""

    tokens: float
    base: float
    """What a newcomer would have had."""
    left_at: float


class ServiceLedger(Generic[Flow]):
    """Who is there, and what they got. Lives as long as its queue; who is away is forgotten in the end."""

    def __init__(self, half_life_s: float = HALF_LIFE_S, max_credit: float = MAX_CREDIT) -> None:
        self._half_life_s = half_life_s
        self._max_credit = max_credit
        self._here: dict[Flow, _Account] = {}
        self._away: dict[Flow, _Memory] = {}
        self._floor = 0.0
        """The most that the least served of those here ever had: it never falls, or one newcomer after the other would
        be put behind the last."""
        self._sweep_at = _FIRST_SWEEP

    def __len__(self) -> int:
        """How many are known."""
        return len(self._here) + len(self._away)

    def enter(self, flow: Flow, now: float) -> None:
        """`flow` wants something from now on. To be called again when it wants something again, if it stays."""
        account = self._here.get(flow)
        if others := len(self._here) - (account is not None):
            least = min(other.tokens for known, other in self._here.items() if known != flow) if others else 0.0
            self._floor = max(self._floor, least)
        base = self._floor - self._max_credit
        if account is None:
            self._here[flow] = _Account(base + self._remembered(flow, now))
            self._away.pop(flow, None)
        else:
            account.tokens = max(account.tokens, base)

    def leave(self, flow: Flow, now: float) -> None:
        """`flow` neither wants nor has anything any more."""
        self._floor = max(self._floor, min(account.tokens for account in self._here.values()))
        base, account = self._floor - self._max_credit, self._here.pop(flow)
        self._away[flow] = _Memory(account.tokens, base, now)
        if len(self._away) >= self._sweep_at:
            self._away = {f: memory for f, memory in self._away.items() if self._remembered(f, now) >= _FORGOTTEN}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._away))

    def expect(self, flow: Flow, tokens: float) -> None:
        """A turn of `flow` begins, or ends (less than 0): until it is charged, it counts as what it may cost."""
        self._here[flow].expected += tokens

    def charge(self, flow: Flow, tokens: float) -> None:
        """`flow`, which is here, got so many tokens."""
        self._here[flow].tokens += tokens

    def rank(self, flow: Flow) -> float:
        """For comparing those who are here: less is served first."""
        account = self._here[flow]
        return account.tokens + account.expected

    def attained(self, flow: Flow, now: float) -> float:
        """What `flow` got more than a newcomer."""
        account = self._here.get(flow)
        if account is None:
            return self._remembered(flow, now)
        return account.tokens - (self._floor - self._max_credit)

    def _remembered(self, flow: Flow, now: float) -> float:
        memory = self._away.get(flow)
        if memory is None:
            return 0.0
        faded = (memory.tokens - memory.base) * math.exp2((memory.left_at - now) / self._half_life_s)
        return max(min(faded, memory.tokens - (self._floor - self._max_credit)), 0.0)


class Pace:
    """Tokens per second of a turn, learned from those that told: for turns that were cut before they did.

    Whoever leaves in the middle of long prompts has used the engine like everybody else.
    """

    def __init__(self) -> None:
        self._tokens_per_s: float | None = None

    def note(self, tokens: float, seconds: float) -> None:
        """A turn got so many tokens in so long a time."""
        if tokens > 0 and seconds > 0:
            seen, known = tokens / seconds, self._tokens_per_s
            self._tokens_per_s = seen if known is None else PACE_MEMORY * known + (1 - PACE_MEMORY) * seen

    def estimate(self, seconds: float) -> float:
        """Tokens of a turn that took so long; 0 as long as nothing is known."""
        return (self._tokens_per_s or 0.0) * seconds
