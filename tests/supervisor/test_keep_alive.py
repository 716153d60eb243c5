"""How long a model stays, in numbers and in Go's durations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.keep_alive import FOREVER, parse_duration, parse_environment, parse_keep_alive


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None), (0, 0), (600, 600), (1.5, 1.5), (-1, FOREVER), (-0.5, FOREVER),
        ("0", 0), ("0s", 0), ("300ms", 0.3), ("1.5h", 5400), ("2h45m", 9900), ("5m", 300), ("+5m", 300),
        (".5s", 0.5), ("1us", 1e-6), ("1µs", 1e-6), ("1ns", 1e-9), ("-1m", FOREVER), ("-1", None),
    ],
)  # fmt: skip
def test_what_clients_say(said: Any, seconds: float | None) -> None:
    """As Ollama takes it; what is left without seconds here is refused."""
    if said == "-1":
        with pytest.raises(ValueError, match="missing unit"):
            parse_keep_alive(said)
    else:
        assert parse_keep_alive(said) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("said", ["", "5", "60", "5 m", "m", "5d", "1h5", "--1m", "1.m.", "inf", "nan"])
def test_what_is_no_duration(said: str) -> None:
    """A bare number in a string is Go's mistake, and ours: "60" could be anything."""
    with pytest.raises(ValueError, match="time: "):
        parse_keep_alive(said)


@pytest.mark.parametrize("said", [True, False, [], {}, float("nan")])
def test_what_is_no_number(said: Any) -> None:
    with pytest.raises(ValueError, match="keep_alive is a number"):
        parse_keep_alive(said)


@pytest.mark.parametrize(("said", "seconds"), [("60", 60), ("0", 0), ("-1", FOREVER), ("24h", 86400), ("-5m", FOREVER)])
def test_the_environment_may_leave_the_unit_out(said: str, seconds: float) -> None:
    assert seconds == parse_environment(said)


@given(st.integers(0, 10**4), st.integers(0, 59), st.integers(0, 59))
def test_parts_add_up(hours: int, minutes: int, seconds: int) -> None:
    """Whatever is said in parts."""
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
