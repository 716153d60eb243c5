"""Guessing is slow: so many misses at once, then so many a second; and nobody else pays for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.misses import BURST, INTERVAL_S, LONGEST_WAIT_S, MAX_ADDRESSES, Misses

HERE = "192.0.2.1"


def missed(times: int, address: str | None = HERE, now: float = 0.0) -> Misses:
    misses = Misses()
    for _ in range(times):
        misses.add(address, now)
    return misses


def test_so_many_at_once() -> None:
    assert 0 == missed(BURST - 1).wait_s(HERE, 0)
    assert INTERVAL_S == missed(BURST).wait_s(HERE, 0)
    assert 0 == missed(BURST).wait_s(HERE, INTERVAL_S)


@given(st.lists(st.floats(0, 10), max_size=200))
def test_no_more_than_that(pauses: list[float]) -> None:
    """Who waits as long as told never has more than the burst and the rate allow."""
    misses, now = Misses(), 0.0
    for made, pause in enumerate(pauses, 1):
        now += pause + misses.wait_s(HERE, now + pause)
        misses.add(HERE, now)

        assert made <= BURST + now / INTERVAL_S + 1e-6


def test_however_many_are_under_way_the_wait_has_an_end() -> None:
    misses = missed(100_000)

    assert LONGEST_WAIT_S == misses.wait_s(HERE, 0)
    assert 0 == misses.wait_s(HERE, LONGEST_WAIT_S)


@pytest.mark.parametrize(
    ("address", "neighbour", "is_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::1", "127.0.0.1", False),
        (None, None, True),
        (None, "192.0.2.1", False),
        ("no address", None, True),
    ],
)
def test_what_is_one_address(address: str | None, neighbour: str | None, is_one: bool) -> None:
    """In IPv6 a network: its owner has as many addresses as they like."""
    assert is_one == (missed(BURST, address).wait_s(neighbour, 0) > 0)


def test_it_remembers_a_bounded_number() -> None:
    """The address that missed longest ago is forgotten first."""
    misses = missed(BURST)
    misses.add("192.0.2.2", 0)
    for _ in range(BURST):
        misses.add("192.0.2.2", 0)
    for number in range(MAX_ADDRESSES - 1):
        misses.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)

    assert 0 == misses.wait_s(HERE, 0)
    assert misses.wait_s("192.0.2.2", 0) > 0
