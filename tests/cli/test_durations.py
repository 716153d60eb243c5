"""Spans and points of time on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from hugind.cli.durations import parse_duration, parse_moment

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2592000), ("12h", 43200), ("45m", 2700), ("90s", 90), ("2w", 1209600), ("1d12h", 129600), ("0s", 0)],
)
def test_spans(text: str, seconds: int) -> None:
    """Every unit, and several together."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "30 d", "-1d", "1.5h", "30days", "1d-12h", "1y", "1D", "9999999w"])
def test_what_is_no_span(text: str) -> None:
    """A number without a unit could mean anything: it is refused, as is what is longer than a hundred years."""
    with pytest.raises(typer.BadParameter):
        parse_duration(text)


def test_points_of_time() -> None:
    """So long ago, or a date; without a zone in UTC."""
    assert parse_moment("7d", NOW) == NOW - timedelta(days=7)
    assert parse_moment("1h30m", NOW) == NOW - timedelta(minutes=90)
    assert parse_moment("2026-01-31", NOW) == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_moment("2026-01-31T12:00+02:00", NOW) == datetime(2026, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "7", "7 d"])
def test_what_is_no_point_of_time(text: str) -> None:
    """Both ways of writing one are told."""
    with pytest.raises(typer.BadParameter, match=r"neither a span such as 7d nor a date such as 2026-01-31"):
        parse_moment(text, NOW)
