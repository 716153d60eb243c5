"""What the admin API tells, in words for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from hugind.cli import output

_COUNTED = {
    "tokens_per_minute": "tokens/min",
    "tokens_per_day": "tokens/day",
    "concurrent": "turns",
    "queued": "waiting",
}


def moment(text: str | None) -> str | None:
    """A point in time, by the clock of whoever reads it."""
    return None if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """How long something lasts, roughly."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def expiry(refs: int, left_s: float | None) -> str:
    """When a loaded model goes that `refs` requests need; `left_s`: None for never."""
    if refs:
        return "in use"
    if left_s is None:
        return "never"
    return f"in {span(left_s)}" if left_s > 0 else "now"


def size(count: float) -> str:
    """Bytes, in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def names(values: Collection[str] | None, *, everything: str) -> str:
    """A list of names, or what an empty one means."""
    return ", ".join(map(output.plain, values)) if values else everything


def excerpt(text: str | None, most: int = 60) -> str | None:
    """The beginning of somebody's text, on one line."""
    if not text:
        return None
    line = " ".join(output.plain(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def limits(given: Mapping[str, Any], *, none: str) -> str:
    """The limits that are set; `none` where there are none."""
    words = []
    if "requests" in given or "window_s" in given:
        requests = given.get("requests", "default") if "requests" in given else "default"
        window = f" in {given['window_s']:g} s" if "window_s" in given else ""
        words.append(f"{_count(requests)} requests{window if requests is not None else ''}")
    words += [f"{_count(given[name])} {what}" for name, what in _COUNTED.items() if name in given]
    return ", ".join(words) or none


def person(username: str, end_user: str | None) -> str:
    """A user, and on whose behalf it asked."""
    return output.plain(username if end_user is None else f"{username}/{end_user}")


def _count(value: object) -> str:
    if value is None:
        return "unlimited"
    return f"{value:,}" if isinstance(value, int) else str(value)
