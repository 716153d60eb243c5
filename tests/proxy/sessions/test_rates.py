"""What was measured decides whether a save pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.sessions.rates import MIN_TOKENS, WEIGHT, Rates

speeds = st.floats(1e-3, 1e12)


def test_nothing_is_known_yet() -> None:
    """Until both were measured, everything is worth saving, and nothing is known of its size."""
    rates = Rates()

    assert rates.is_worth_saving(1)
    assert 0 == rates.predicted_bytes(1000)
    rates.saw_prefill(1000, 1.0)
    assert rates.is_worth_saving(1)
    rates = Rates()
    rates.saw_save(1000, 1000, 1.0)
    assert rates.is_worth_saving(1)


def test_break_even() -> None:
    """Worth it is what takes less time to save than to compute again."""
    rates = Rates()
    rates.saw_prefill(1000, 10.0)  # 10 ms a token
    rates.saw_save(100, 100_000, 0.5)  # 5 ms a token
    assert rates.is_worth_saving(100)
    rates.saw_prefill(1000, 1e-6)

    assert not rates.is_worth_saving(100)


def test_size() -> None:
    """The last save tells how large the next one will be."""
    rates = Rates()
    rates.saw_save(100, 5_000, 0.5)
    rates.saw_save(10, 1_000, 0.5)

    assert 700 == rates.predicted_bytes(7)


@pytest.mark.parametrize(("tokens", "seconds"), [(MIN_TOKENS - 1, 1.0), (0, 0.0), (1000, 0.0), (1000, -1.0)])
def test_what_says_nothing(tokens: int, seconds: float) -> None:
    """A short prompt, or a clock that stood still, teaches nothing."""
    rates = Rates(prefill=7.0)
    rates.saw_prefill(tokens, seconds)

    assert 7.0 == rates.prefill


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (10, 0.0), (10, -1.0)])
def test_saves_that_say_nothing(tokens: int, seconds: float) -> None:
    """A save of nothing, or one that took no time, teaches nothing."""
    rates = Rates(save=7.0, bytes_per_token=8.0)
    rates.saw_save(tokens, 1000, seconds)

    assert Rates(save=7.0, bytes_per_token=8.0) == rates


@given(speeds, st.lists(speeds, max_size=5))
def test_learning(first: float, later: list[float]) -> None:
    """The first measurement counts whole, each later one a share: what is known lies within what was seen."""
    rates = Rates()
    for speed in (first, *later):
        rates.saw_prefill(1000, 1000 / speed)
        rates.saw_save(1000, 1000, 1000 / speed)

    assert pytest.approx(rates.prefill) == rates.save
    assert min(first, *later, first) * (1 - 1e-9) <= rates.prefill <= max(first, *later, first) * (1 + 1e-9)


def test_one_odd_measurement() -> None:
    """A hiccup moves what is known by its share only."""
    rates = Rates(prefill=100.0)
    rates.saw_prefill(1000, 1000.0)

    assert pytest.approx(100 + WEIGHT * (1 - 100)) == rates.prefill


def test_one_bad_save() -> None:
    """Where saves do not seem to pay, one is tried again after a while."""
    rates = Rates()
    rates.saw_prefill(1000, 1.0)
    rates.saw_save(1000, 1000, 10.0)  # it waited for somebody
    passed_over = 0
    while not rates.is_worth_saving(1000):
        rates.saw_no_save()
        passed_over += 1

    assert 10 < passed_over < 100
