"""Spans and points of time as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PARTS = re.compile(r"(\d{1,9})([smhdw])")
_MAX_S = 100 * 366 * 86400


def parse_duration(text: str) -> int:
    """The seconds of `30d`, `12h`, `45m`, `90s`, `2w`; or of several together, as `1d12h`.

    Raises:
        typer.BadParameter: it is none, or beyond a hundred years.
    """
    parts = _PARTS.findall(text)
    seconds = sum(int(count) * _UNITS[unit] for count, unit in parts)
    if not parts or "".join(count + unit for count, unit in parts) != text:
        raise typer.BadParameter(f"'{text}' is no span of time: write it as 30d, 12h, 45m or 90s")
    if seconds > _MAX_S:
        raise typer.BadParameter(f"'{text}' is longer than a hundred years")
    return seconds


def parse_moment(text: str, now: datetime) -> datetime:
    """So long before `now` (`7d`), or a date or time in ISO 8601; without a zone that is UTC, as the days of usage are.

    Raises:
        typer.BadParameter: it is neither.
    """
    if _PARTS.match(text) and not text.isdecimal() and "-" not in text:
        return now - timedelta(seconds=parse_duration(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a span such as 7d nor a date such as 2026-01-31") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
