"""How much of their limits users and keys have used up, and whether one more turn fits. Pure; the clock is passed in.

Any clock will do that counts seconds. One that goes back counts as one that stood still.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from hugind.proxy.access.principal import Allowance

PARTS = 12
"""A window is counted in so many parts; what is in one leaves together, up to a part's length late, never early."""
MINUTE_S, DAY_S = 60.0, 86400.0

TURN_WAIT_S = 2.0
"""When to come back for what only the end of a running turn can free: nobody can tell, so soon."""

LimitName = Literal["requests", "tokens_per_minute", "tokens_per_day", "concurrent"]
"""As the fields of an `Allowance` are called."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is used up."""

    party: int
    """Whose limit it is: the position among those that were asked for."""
    limit_name: LimitName
    limit: int
    window_s: float
    """Of `requests`."""
    amount: int
    """What was asked for."""
    wait_s: float
    """When there is room; `inf`: never, because even the whole limit is too little."""


class Standing(NamedTuple):
    """Where somebody is with one limit."""

    limit: int
    remaining: int
    reset_s: float | None
    """When all of it is there again, if nothing more is used; None: nobody can tell."""


class Window:
    """What was counted in the last `length_s` seconds. The length may change between calls."""

    __slots__ = ("due", "is_counted", "length_s", "parts", "total")

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self.due = math.inf
        """When there is something to forget."""
        self.is_counted = False
        """There is a limit on it."""
        self.parts: list[list[Any]] = []
        """The first and the last moment of each, and what was counted between them."""
        self.total = 0

    def forget(self, now: float) -> None:
        """Drop what is older than the window."""
        parts = self.parts
        while parts and now - parts[0][1] >= self.length_s:
            self.total -= parts.pop(0)[2]
        self.look_out()

    def look_out(self) -> None:
        """The oldest part, or the length, is another one now."""
        self.due = self.parts[0][1] + self.length_s if self.parts else math.inf

    def add(self, amount: int, now: float) -> None:
        """Count it. `now` is no earlier than at any call before."""
        parts = self.parts
        if parts and now - parts[-1][0] < self.length_s / PARTS:
            parts[-1][1] = now
            parts[-1][2] += amount
        else:
            parts.append([now, now, amount])
        if len(parts) == 1:
            self.due = now + self.length_s
        self.total += amount

    def wait_s(self, amount: int, now: float) -> float:
        """How long until so much has left; `inf` where there is not so much in it."""
        for part in self.parts:
            amount -= part[2]
            if amount <= 0:
                return float(part[1] + self.length_s - now)
        return math.inf

    def reset_s(self, now: float) -> float:
        """How long until all has left."""
        return float(self.parts[-1][1] + self.length_s - now) if self.parts else 0.0

    def shift(self, by_s: float) -> None:
        """Have everything have happened so much earlier."""
        for part in self.parts:
            part[0] -= by_s
            part[1] -= by_s
        self.look_out()


class Account:
    """What one user or key has used, and what is held for its running turns."""

    __slots__ = ("_expires_at", "day", "held", "holds", "latest", "minute", "requests")

    def __init__(self) -> None:
        self.requests = Window(MINUTE_S)
        self.minute = Window(MINUTE_S)
        self.day = Window(DAY_S)
        self.holds: dict[str, tuple[int, float | None]] = {}
        """Of each running turn: the tokens that are held for it, and until when, unless it is renewed."""
        self.held = 0
        """The tokens of all holds."""
        self.latest = 0.0
        self._expires_at = math.inf
        """No hold expires earlier."""

    def advance(self, now: float, allowance: Allowance | None = None) -> None:
        """Let time go on to `now`, where these limits hold."""
        requests, minute, day = self.requests, self.minute, self.day
        if allowance is not None and allowance.requests is not None and requests.length_s != allowance.window_s:
            requests.length_s = allowance.window_s
            requests.look_out()
        if now < self.latest:
            self._turn_back(self.latest - now)
        self.latest = now
        if now >= requests.due:
            requests.forget(now)
        if now >= minute.due:
            minute.forget(now)
        if now >= day.due:
            day.forget(now)
        if now >= self._expires_at:
            for request_id in [id_ for id_, (_, expires_at) in self.holds.items() if _is_over(expires_at, now)]:
                self._release(request_id)
            self._expires_at = min((at for _, at in self.holds.values() if at is not None), default=math.inf)

    def settle(self, request_id: str, tokens: int, now: float) -> None:
        """A turn has ended and cost so much. What was held for it is free, if it had not expired already."""
        self.advance(now)
        self._release(request_id)
        if tokens > 0:
            for window in (self.minute, self.day):
                if window.is_counted:
                    window.add(tokens, now)

    def renew(self, request_id: str, tokens: int, expires_at: float, now: float) -> None:
        """A turn still runs and has at least so many tokens, even if its hold had expired."""
        self.advance(now)
        before = self._release(request_id)
        self.hold(request_id, max(tokens, before), expires_at)

    def hold(self, request_id: str, tokens: int, expires_at: float | None) -> None:
        """Hold so many (more) tokens for a turn."""
        before = self._release(request_id)
        self.holds[request_id] = (before + tokens, expires_at)
        self.held += before + tokens
        if expires_at is not None and expires_at < self._expires_at:
            self._expires_at = expires_at

    def is_idle(self, now: float) -> bool:
        """There is nothing left to remember."""
        self.advance(now)
        return not (self.holds or self.requests.parts or self.minute.parts or self.day.parts)

    def standings(self, allowance: Allowance, now: float) -> dict[LimitName, Standing]:
        """Where it is with each limit that is set."""
        self.advance(now, allowance)
        found: dict[LimitName, Standing] = {}
        if (limit := allowance.requests) is not None:
            found["requests"] = Standing(limit, max(limit - self.requests.total, 0), self.requests.reset_s(now))
        if (limit := allowance.tokens_per_minute) is not None:
            found["tokens_per_minute"] = self._tokens(limit, self.minute, now)
        if (limit := allowance.tokens_per_day) is not None:
            found["tokens_per_day"] = self._tokens(limit, self.day, now)
        if (limit := allowance.concurrent) is not None:
            running = len(self.holds)
            found["concurrent"] = Standing(limit, max(limit - running, 0), None if running else 0.0)
        return found

    def obstacles(self, party: int, allowance: Allowance, tokens: int) -> Iterator[Refusal]:
        """The limits that a turn would break at the latest moment this account knows of."""
        if (limit := allowance.requests) is not None and self.requests.total >= limit:
            wait_s = self.requests.wait_s(self.requests.total + 1 - limit, self.latest) if limit > 0 else math.inf
            yield Refusal(party, "requests", limit, allowance.window_s, 1, wait_s)
        if (limit := allowance.tokens_per_minute) is not None and self.minute.total + self.held + tokens > limit:
            wait_s = self._wait_s(limit, self.minute, tokens)
            yield Refusal(party, "tokens_per_minute", limit, MINUTE_S, tokens, wait_s)
        if (limit := allowance.tokens_per_day) is not None and self.day.total + self.held + tokens > limit:
            wait_s = self._wait_s(limit, self.day, tokens)
            yield Refusal(party, "tokens_per_day", limit, DAY_S, tokens, wait_s)
        if (limit := allowance.concurrent) is not None and len(self.holds) >= limit:
            yield Refusal(party, "concurrent", limit, 0.0, 1, TURN_WAIT_S if limit > 0 else math.inf)

    def count(self, allowance: Allowance, request_id: str, tokens: int, expires_at: float | None) -> None:
        """A turn is let in."""
        if allowance.requests is not None:
            self.requests.add(1, self.latest)
        self.minute.is_counted = allowance.tokens_per_minute is not None
        self.day.is_counted = allowance.tokens_per_day is not None
        self.hold(request_id, tokens, expires_at)

    def to_json(self) -> str:
        """All of it, for `from_json`."""
        requests, minute, day = self.requests, self.minute, self.day
        fields: dict[str, Any] = {"t": self.latest, "r": [requests.length_s, requests.parts]}
        fields |= {name: window.parts for name, window in (("m", minute), ("d", day)) if window.parts}
        fields["c"] = minute.is_counted + 2 * day.is_counted
        fields["h"] = self.holds
        return orjson.dumps(fields).decode()

    @classmethod
    def from_json(cls, text: str) -> Account:
        """An account as it was.

        Raises:
            ValueError: that is none.
        """
        account = cls()
        try:
            fields = orjson.loads(text)
            account.latest = float(fields["t"])
            account.requests.length_s, account.requests.parts = fields["r"]
            account.minute.parts, account.day.parts = fields.get("m", []), fields.get("d", [])
            account.minute.is_counted, account.day.is_counted = bool(fields["c"] & 1), bool(fields["c"] & 2)
            for window in (account.requests, account.minute, account.day):
                window.total = sum(int(amount) for _, _, amount in window.parts)
                window.look_out()
            for request_id, (tokens, expires_at) in fields["h"].items():
                account.hold(request_id, int(tokens), expires_at)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no account: {error}") from None
        return account

    def _tokens(self, limit: int, window: Window, now: float) -> Standing:
        reset_s = window.length_s if self.held else window.reset_s(now)  # what is held may be used up just now
        return Standing(limit, max(limit - window.total - self.held, 0), reset_s)

    def _wait_s(self, limit: int, window: Window, tokens: int) -> float:
        if tokens > limit:
            return math.inf
        wait_s = window.wait_s(window.total + self.held + tokens - limit, self.latest)
        return TURN_WAIT_S if wait_s == math.inf else wait_s

    def _release(self, request_id: str) -> int:
        tokens, _ = self.holds.pop(request_id, (0, None))
        self.held -= tokens
        return tokens

    def _turn_back(self, by_s: float) -> None:
        for window in (self.requests, self.minute, self.day):
            window.shift(by_s)
        self.holds = {id_: (n, None if at is None else at - by_s) for id_, (n, at) in self.holds.items()}
        self._expires_at -= by_s


Parties = Sequence[tuple[Account, Allowance]]
"""Everybody whose limits count for a turn, with the limits as they are now."""


def admit(
    parties: Parties, request_id: str, tokens: int, now: float, expires_at: float | None = None
) -> Refusal | None:
    """Let a turn in that may take so many tokens, or say why not. Refused by one is refused by all: nothing is counted.

    Of several reasons it is the one that lasts longest. What is held is held until `settle`, or until `expires_at`
    where nobody `renew`s it.
    """
    reasons: list[Refusal] = []
    for party, (account, allowance) in enumerate(parties):
        account.advance(now, allowance)
        reasons += account.obstacles(party, allowance, tokens)
    if reasons:
        return max(reasons, key=lambda reason: reason.wait_s)
    for account, allowance in parties:
        account.count(allowance, request_id, tokens, expires_at)
    return None


def extend(parties: Parties, request_id: str, tokens: int, now: float, expires_at: float | None = None) -> bool:
    """Hold more tokens for a turn that is running, with all parties or none; False: there are not so many."""
    for account, allowance in parties:
        account.advance(now)
        for limit, window in ((allowance.tokens_per_minute, account.minute), (allowance.tokens_per_day, account.day)):
            if limit is not None and window.total + account.held + tokens > limit:
                return False
    for account, _ in parties:
        account.hold(request_id, tokens, expires_at)
    return True


def _is_over(moment: float | None, now: float) -> bool:
    return moment is not None and now >= moment
