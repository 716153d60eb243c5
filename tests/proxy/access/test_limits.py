"""The laws of limits: never more than allowed in any window, whatever the order and the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.limits import DAY_S, PARTS, TURN_WAIT_S, Account, Refusal, admit, extend
from hugind.proxy.access.principal import UNLIMITED, Allowance

START = 1024.0

# Quarters of seconds, so that sums of floats are exact.
steps_s = st.one_of(
    st.integers(0, 40).map(lambda n: n / 4),
    st.integers(0, 400).map(float),
    st.integers(0, 90_000).map(float),
    st.integers(-4000, 0).map(float),
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("step"), steps_s),
        st.tuples(st.just("admit"), st.integers(0, 60)),
        st.tuples(st.just("admit"), st.integers(0, 60)),
        st.tuples(st.just("extend"), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.floats(0, 1)),
        st.tuples(st.just("save"), st.none()),
    ),
    max_size=60,
)
allowances = st.builds(
    Allowance,
    requests=st.none() | st.integers(0, 8),
    window_s=st.sampled_from([0.5, 10.0, 60.0, 3600.0]),
    tokens_per_minute=st.none() | st.integers(0, 150),
    tokens_per_day=st.none() | st.integers(0, 400),
    concurrent=st.none() | st.integers(0, 4),
)


@dataclass
class World:
    """One account that things happen to, and a faithful record of them. The record's clock never goes back."""

    allowance: Allowance
    account: Account = field(default_factory=Account)
    now: float = START
    elapsed: float = 0.0
    admitted_at: list[float] = field(default_factory=list)
    settled: list[tuple[float, int]] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    refusal: Refusal | None = None

    def do(self, what: str, amount: float | None) -> None:
        match what, amount:
            case "step", float(seconds):
                self.now += seconds
                self.elapsed += max(seconds, 0)
            case "admit", int(tokens):
                self.admit(tokens)
            case "extend", int(tokens) if self.running:
                request_id = next(iter(self.running))
                if extend([(self.account, self.allowance)], request_id, tokens, self.now):
                    self.running[request_id] += tokens
            case "settle", float(part) if self.running:
                request_id, reserved = next(iter(self.running.items()))
                self.settle(request_id, int(part * reserved))
            case "save", _:
                self.account = Account.from_json(self.account.to_json())

    def admit(self, tokens: int) -> bool:
        request_id = f"r{len(self.admitted_at)}"
        self.refusal = admit([(self.account, self.allowance)], request_id, tokens, self.now)
        if self.refusal is None:
            self.admitted_at.append(self.elapsed)
            self.running[request_id] = tokens
        return self.refusal is None

    def settle(self, request_id: str, tokens: int) -> None:
        del self.running[request_id]
        self.account.settle(request_id, tokens, self.now)
        self.settled.append((self.elapsed, tokens))

    def tokens_in(self, window_s: float) -> int:
        """Settled within the last window, and reserved."""
        recent = sum(tokens for at, tokens in self.settled if at > self.elapsed - window_s)
        return recent + sum(self.running.values())


@given(allowances, operations)
def test_never_more_than_the_limits(allowance: Allowance, story: list[tuple[str, float | None]]) -> None:
    """Neither requests, nor tokens settled and held, nor running turns; the clock may go back."""
    world = World(allowance)
    for what, amount in story:
        world.do(what, amount)

        recent = [at for at in world.admitted_at if at > world.elapsed - allowance.window_s]
        assert allowance.requests is None or len(recent) <= allowance.requests
        assert allowance.tokens_per_minute is None or world.tokens_in(60) <= allowance.tokens_per_minute
        assert allowance.tokens_per_day is None or world.tokens_in(DAY_S) <= allowance.tokens_per_day
        assert allowance.concurrent is None or len(world.running) <= allowance.concurrent
        assert world.account.held == sum(world.running.values())


@given(st.integers(1, 4), st.lists(st.integers(0, 12).map(lambda n: n / 4), min_size=10, max_size=60))
def test_never_more_than_the_requests_of_somebody_who_always_tries(limit: int, pauses_s: list[float]) -> None:
    """Wherever the window begins, and however it falls on what was counted together."""
    world = World(Allowance(requests=limit, window_s=10))
    for pause_s in pauses_s:
        world.do("step", pause_s)
        world.do("admit", 1)

        assert sum(at > world.elapsed - 10 for at in world.admitted_at) <= limit


@given(allowances, operations, st.integers(0, 60))
def test_who_is_refused_is_not_counted(
    allowance: Allowance, story: list[tuple[str, float | None]], tokens: int
) -> None:
    """And so is nobody who was asked along."""
    world = World(allowance)
    for what, amount in story:
        world.do(what, amount)
    world.account.advance(world.now, allowance)
    other, before = Account(), world.account.to_json()
    other.advance(world.now)
    other_before = other.to_json()
    refusal = admit([(other, UNLIMITED), (world.account, allowance)], "new", tokens, world.now)

    if refusal is not None:
        assert refusal.party == 1
        assert (world.account.to_json(), other.to_json()) == (before, other_before)
    else:
        assert "new" in world.account.holds
        assert "new" in other.holds


@given(allowances, operations, st.integers(0, 60))
def test_coming_back_when_told_helps(allowance: Allowance, story: list[tuple[str, float | None]], tokens: int) -> None:
    """Unless only the end of a turn does. Who is told that it never will cannot even have the whole limit."""
    world = World(allowance)
    for what, amount in story:
        world.do(what, amount)
    running = bool(world.running)
    if not world.admit(tokens):
        assert world.refusal is not None
        if world.refusal.wait_s == math.inf:
            assert not World(allowance).admit(tokens)
        else:
            assert World(allowance).admit(tokens)
            world.do("step", world.refusal.wait_s)
            assert world.admit(tokens) or running


@given(allowances, operations)
def test_all_is_there_again_after_the_windows(allowance: Allowance, story: list[tuple[str, float | None]]) -> None:
    """Nothing is lost for good."""
    world = World(allowance)
    for what, amount in story:
        world.do(what, amount)
    for request_id, reserved in list(world.running.items()):
        world.settle(request_id, reserved)
    standings = world.account.standings(allowance, world.now)
    world.do("step", max((standing.reset_s or 0 for standing in standings.values()), default=0.0))

    assert all(one.remaining == one.limit for one in world.account.standings(allowance, world.now).values())


@given(allowances, operations)
def test_json(allowance: Allowance, story: list[tuple[str, float | None]]) -> None:
    """Comes back as it was, and goes on in the same way."""
    world = World(allowance)
    for what, amount in story:
        if what != "save":
            world.do(what, amount)
    text = world.account.to_json()
    again = Account.from_json(text)

    assert again.to_json() == text
    assert again.standings(allowance, world.now) == world.account.standings(allowance, world.now)
    assert (again.held, again.holds) == (world.account.held, world.account.holds)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"t":1}', '{"t":1,"r":[60,[[1]]],"c":0,"h":{}}'])
def test_json_that_is_none(text: str) -> None:
    """Whatever is wrong with it is said in one way."""
    with pytest.raises(ValueError):
        Account.from_json(text)


@given(st.lists(st.integers(0, 40).map(lambda n: n / 4), max_size=400))
def test_a_busy_account_stays_small(pauses_s: list[float]) -> None:
    """However many requests are counted, a window has its parts and no more."""
    world = World(Allowance(requests=1000))
    for pause_s in pauses_s:
        world.do("step", pause_s)
        world.do("admit", 1)

        assert len(world.account.requests.parts) <= PARTS + 1


def test_a_burst() -> None:
    """All of a window may come at once, and all of them come back at once."""
    world = World(Allowance(requests=60))

    assert 60 == sum(world.admit(1) for _ in range(200))
    world.do("step", 59.75)
    assert not world.admit(1)
    assert world.refusal == Refusal(0, "requests", 60, 60.0, 1, 0.25)
    world.do("step", 0.25)
    assert 60 == sum(world.admit(1) for _ in range(200))


def test_what_was_counted_together_leaves_together() -> None:
    """With the last of it, so that no window has ever too many."""
    world = World(Allowance(requests=2, window_s=60))
    world.admit(1)
    world.do("step", 4.0)
    world.admit(1)

    world.do("step", 59.75)
    assert not world.admit(1)
    world.do("step", 0.25)
    assert 2 == sum(world.admit(1) for _ in range(3))


def test_what_is_held_does_not_expire_with_a_window() -> None:
    """A turn that runs for an hour holds its tokens for an hour, and pays when it ends."""
    world = World(Allowance(tokens_per_minute=100))
    world.admit(80)
    world.do("step", 3600.0)

    assert not world.admit(21)
    assert world.refusal is not None
    assert TURN_WAIT_S == world.refusal.wait_s
    world.settle("r0", 50)
    assert world.admit(50)
    assert not world.admit(1)


def test_a_turn_that_took_more_than_was_reserved() -> None:
    """All of it counts, and nobody comes in until enough of it has left."""
    world = World(Allowance(tokens_per_minute=100))
    world.admit(10)
    world.settle("r0", 250)

    assert 0 == world.account.standings(world.allowance, world.now)["tokens_per_minute"].remaining
    assert not world.admit(0)
    world.do("step", 60.0)
    assert world.admit(100)


def test_extend() -> None:
    """As long as there are tokens, and with all parties or none."""
    user, key = Account(), Account()
    parties = [(user, Allowance(tokens_per_minute=100)), (key, Allowance(tokens_per_day=50))]
    admit(parties, "a", 20, START)

    assert extend(parties, "a", 30, START)
    assert not extend(parties, "a", 1, START)
    assert (50, 50) == (user.held, key.held)
    user.settle("a", 50, START)
    assert 50 == user.standings(parties[0][1], START)["tokens_per_minute"].remaining


def test_the_longest_of_several_reasons_is_told() -> None:
    """Coming back earlier would be in vain."""
    account = Account()
    allowance = Allowance(requests=1, tokens_per_minute=10, tokens_per_day=100)
    admit([(account, allowance)], "a", 10, START)
    account.settle("a", 10, START + 30)
    both = admit([(account, allowance)], "b", 5, START + 30)
    never = admit([(account, allowance)], "b", 101, START + 30)

    assert both == Refusal(0, "tokens_per_minute", 10, 60.0, 5, 60.0)
    assert never is not None
    assert math.inf == never.wait_s


def test_a_changed_limit_counts_at_once() -> None:
    """For what has been counted already, too."""
    account = Account()
    for number in range(10):
        assert admit([(account, Allowance(requests=20))], f"{number}", 1, START) is None

    assert admit([(account, Allowance(requests=10))], "x", 1, START) is not None
    assert admit([(account, Allowance(requests=11))], "x", 1, START) is None
    assert admit([(account, Allowance(requests=11, window_s=5))], "y", 1, START + 5) is None


def test_a_longer_window_keeps_what_the_shorter_one_had() -> None:
    """It is not as if nothing had happened."""
    account = Account()
    for number in range(5):
        admit([(account, Allowance(requests=5, window_s=10))], f"{number}", 1, START)
    refusal = admit([(account, Allowance(requests=5, window_s=100))], "x", 1, START + 9)

    assert refusal is not None
    assert 91 == refusal.wait_s


def test_a_limit_that_is_new_counts_running_turns() -> None:
    """What they hold, and what they turn out to cost."""
    account = Account()
    admit([(account, Allowance(requests=5))], "a", 70, START)
    allowance = Allowance(requests=5, tokens_per_minute=100)

    assert admit([(account, allowance)], "b", 40, START) is not None
    assert admit([(account, allowance)], "b", 30, START) is None
    account.settle("a", 70, START)
    account.settle("b", 30, START)
    assert 0 == account.standings(allowance, START)["tokens_per_minute"].remaining


def test_holds_expire() -> None:
    """Where nobody renews them; who is late with that gets them back."""
    account, allowance = Account(), Allowance(concurrent=1, tokens_per_day=100)
    admit([(account, allowance)], "a", 40, START, START + 90)
    account.renew("a", 40, START + 120, START + 30)

    assert admit([(account, allowance)], "b", 1, START + 119) is not None
    assert admit([(account, allowance)], "b", 1, START + 120, START + 210) is None
    account.renew("a", 40, START + 220, START + 130)
    assert {"a": (40, START + 220), "b": (1, START + 210)} == account.holds
    assert 41 == account.held


def test_a_hold_that_has_expired_is_paid_all_the_same() -> None:
    """The turn has cost what it has cost."""
    account, allowance = Account(), Allowance(tokens_per_day=100)
    admit([(account, allowance)], "a", 40, START, START + 90)
    account.settle("a", 30, START + 500)

    assert 70 == account.standings(allowance, START + 500)["tokens_per_day"].remaining


def test_a_clock_that_goes_back_locks_nobody_out() -> None:
    """An hour set back is no hour of waiting, for windows as for holds."""
    account, allowance = Account(), Allowance(requests=1, concurrent=2)
    admit([(account, allowance)], "a", 1, START + 3600, START + 3690)

    refusal = admit([(account, allowance)], "b", 1, START)
    assert refusal is not None
    assert 60 == refusal.wait_s
    assert admit([(account, allowance)], "b", 1, START + 60) is None
    account.advance(START + 90)
    assert ["b"] == list(account.holds)


def test_idle() -> None:
    """Once nothing is left in any window and no turn runs."""
    account, allowance = Account(), Allowance(requests=1, tokens_per_day=10)
    admit([(account, allowance)], "a", 5, START)

    assert not account.is_idle(START + 60)
    account.settle("a", 5, START + 60)
    assert not account.is_idle(START + DAY_S)
    assert account.is_idle(START + 60 + DAY_S)


def test_what_is_not_limited_is_not_counted() -> None:
    """So that an account is as small as it can be."""
    account = Account()
    admit([(account, Allowance(concurrent=1))], "a", 5, START)
    account.settle("a", 5, START)

    assert account.is_idle(START)
