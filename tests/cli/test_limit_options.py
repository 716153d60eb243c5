"""Limits as options."""

from __future__ import annotations

import pytest
import typer

from hugind.cli.limit_options import changed_limits


def test_what_is_not_given_stays() -> None:
    """A number, no limit, and back to the default; a window as seconds or as a span."""
    current = {"requests": 10, "concurrent": 2, "tokens_per_day": 5}

    assert changed_limits(current, None, None, None, None, None, None) == current
    assert changed_limits(current, "1_000", "60", "none", "default", None, "0") == {
        "requests": 1000,
        "window_s": 60,
        "tokens_per_minute": None,
        "concurrent": 2,
        "queued": 0,
    }
    assert changed_limits({}, None, "1h", None, None, None, None) == {"window_s": 3600}


@pytest.mark.parametrize("text", ["", "-1", "many", "1.5", "None"])
def test_what_is_no_limit(text: str) -> None:
    """It is told which option it is about, and what it may be."""
    with pytest.raises(typer.BadParameter, match="--tokens-per-day takes N, 'none' or 'default'"):
        changed_limits({}, None, None, None, text, None, None)


@pytest.mark.parametrize("text", ["0", "0s", "none", "-1"])
def test_a_window_lasts(text: str) -> None:
    """There is no limit without one."""
    with pytest.raises(typer.BadParameter):
        changed_limits({}, None, text, None, None, None, None)
