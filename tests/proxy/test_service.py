"""The laws of service: exact for who stays, forgiving to who goes, and no treasure for who comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hugind.proxy.service import HALF_LIFE_S, MAX_CREDIT, Pace, ServiceLedger

FLOWS = "abcd"
tokens = st.integers(0, 5000)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of coming, getting and going."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger: ServiceLedger[str] = ServiceLedger()
        self.here: set[str] = set()
        self.now = 0.0

    @rule(flow=st.sampled_from(FLOWS))
    def enters(self, flow: str) -> None:
        """Never further behind the least served of the others than the credit."""
        self.ledger.enter(flow, self.now)
        self.here.add(flow)

        ranks = {known: self.ledger.attained(known, self.now) for known in self.here}
        assert all(least <= ranks[flow] + MAX_CREDIT for known, least in ranks.items() if least == min(ranks.values()))

    @precondition(lambda self: self.here)
    @rule(data=st.data(), tokens=tokens)
    def gets(self, data: st.DataObject, tokens: int) -> None:
        """Exactly that, and nobody else anything."""
        flow = data.draw(st.sampled_from(sorted(self.here)))
        before = {known: self.ledger.attained(known, self.now) for known in FLOWS}
        self.ledger.charge(flow, tokens)

        for known in FLOWS:
            assert self.ledger.attained(known, self.now) == pytest.approx(before[known] + tokens * (known == flow))

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        """That alone gives nobody a worse place."""
        flow = data.draw(st.sampled_from(sorted(self.here)))
        before = {known: self.ledger.attained(known, self.now) for known in FLOWS}
        self.ledger.leave(flow, self.now)
        self.here.discard(flow)

        for known in FLOWS:
            assert self.ledger.attained(known, self.now) <= before[known] + 1e-6

    @rule(seconds=st.floats(0, 300))
    def time_goes_by(self, seconds: float) -> None:
        """Only who is away is forgiven."""
        before = {known: self.ledger.attained(known, self.now) for known in FLOWS}
        self.now += seconds

        for known in FLOWS:
            after = self.ledger.attained(known, self.now)
            assert after == before[known] if known in self.here else after <= before[known]

    @invariant()
    def nobody_is_worse_off_than_a_newcomer(self) -> None:
        assert all(self.ledger.attained(flow, self.now) >= -1e-6 for flow in FLOWS)


TestLedger = LedgerMachine.TestCase


def test_half_of_it_is_forgiven_in_a_half_life() -> None:
    """And hardly anything is left after ten of them."""
    ledger = _with_two(got={"a": 4000})
    ledger.leave("a", 0)
    owed = [ledger.attained("a", times * HALF_LIFE_S) for times in (0, 1, 10)]

    assert owed[0] / 2 == owed[1]
    assert owed[2] < 0.01 * owed[0] < owed[1]


def test_what_others_get_meanwhile_is_made_good() -> None:
    """Who comes back was served less than those who went on, whatever it had before."""
    ledger = _with_two(got={"a": 4000})
    ledger.leave("a", 0)
    ledger.charge("b", 4600)
    ledger.enter("a", 0)

    assert 600 == ledger.rank("b") - ledger.rank("a")


def test_who_stays_is_not_forgiven() -> None:
    """However long a turn takes, it counts in full when it is over."""
    ledger = _with_two(got={"a": 4000})

    assert ledger.attained("a", 0) == ledger.attained("a", 1e6)


def test_what_nobody_else_wanted_costs_nothing() -> None:
    """After a night alone, who comes is ahead by the credit and no more; and so is it after who was alone left."""
    for is_there in (True, False):
        ledger: ServiceLedger[str] = ServiceLedger()
        for _ in range(100):
            ledger.enter("alone", 0)
            ledger.charge("alone", 10_000)
            if not is_there:
                ledger.leave("alone", 0)
        ledger.enter("new", 0)
        ledger.enter("alone", 0)

        assert 0 < ledger.rank("alone") - ledger.rank("new") <= MAX_CREDIT


def test_one_newcomer_is_not_put_behind_the_other() -> None:
    """However many come, none gets more than the credit ahead of who is served all the time."""
    ledger = _with_two(got={"a": 50_000, "b": 50_000})
    for number in range(20):
        ledger.enter(f"new {number}", 0)

    assert {"a": MAX_CREDIT, "b": MAX_CREDIT} == {
        flow: ledger.rank(flow) - min(ledger.rank(f"new {number}") for number in range(20)) for flow in "ab"
    }


def test_who_always_has_something_running_saves_nothing_up() -> None:
    """Asking again is coming again: little service over a long time is no right to a flood."""
    ledger = _with_two(got={"a": 100_000})
    ledger.enter("b", 0)

    assert MAX_CREDIT == ledger.rank("a") - ledger.rank("b")


def test_what_is_expected_counts_until_it_is_known() -> None:
    """For who is next; not for where others are put."""
    ledger = _with_two()
    ledger.expect("a", 4000)
    ahead = ledger.rank("a") - ledger.rank("b")
    ledger.enter("c", 0)
    ledger.expect("a", -4000)
    ledger.charge("a", 10)

    assert (4000, 10) == (ahead, ledger.rank("a") - ledger.rank("b"))
    assert ledger.rank("c") <= ledger.rank("b")


def test_who_is_forgiven_is_forgotten() -> None:
    """A ledger of passers-by does not grow."""
    ledger: ServiceLedger[int] = ServiceLedger()
    sizes = []
    for flow in range(5000):
        ledger.enter(flow, flow * 10.0)
        ledger.charge(flow, 1000)
        ledger.leave(flow, flow * 10.0)
        sizes.append(len(ledger))

    assert max(sizes) < 200
    assert 0 == ledger.attained(0, 50_000) < ledger.attained(4999, 50_000)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.01, 100)), min_size=1))
def test_a_pace_is_within_what_was_seen(turns: list[tuple[int, float]]) -> None:
    """An estimate for a second is between the slowest and the fastest turn."""
    pace = Pace()
    for tokens, seconds in turns:
        pace.note(tokens, seconds)
    seen = [tokens / seconds for tokens, seconds in turns]

    assert min(seen) * 0.999 <= pace.estimate(1) <= max(seen) * 1.001
    assert pace.estimate(2) == pytest.approx(2 * pace.estimate(1))


def test_a_pace_that_is_not_known() -> None:
    """Nothing seen, nothing said; turns that got nothing tell nothing."""
    pace = Pace()
    pace.note(0, 1)
    pace.note(1, 0)

    assert 0 == pace.estimate(1000)


def _with_two(got: dict[str, int] | None = None) -> ServiceLedger[str]:
    """`a` and `b` are there, and have been served."""
    ledger: ServiceLedger[str] = ServiceLedger()
    for flow in "ab":
        ledger.enter(flow, 0)
    for flow, tokens in (got or {}).items():
        ledger.charge(flow, tokens)
    return ledger
