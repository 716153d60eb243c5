"""How long a model stays loaded when nobody uses it, as Ollama's clients say it. Pure.

Source: `api/types.go` (Duration) and `envconfig` of ollama v0.33; Go's `time.ParseDuration`.
"""

from __future__ import annotations

import math
import re

FOREVER = math.inf

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_WHAT = "keep_alive is a number of seconds, or a duration such as '5m'"
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_keep_alive(value: object) -> float | None:
    """Seconds; `FOREVER` for what is negative, None where nothing is said. Numbers are seconds.

    Raises:
        ValueError: it is neither a number nor a Go duration such as "300ms", "1.5h" or "2h45m".
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(_WHAT)  # noqa: TRY004 - of what a client sent, one error for all
    seconds = parse_duration(value) if isinstance(value, str) else float(value)
    if math.isnan(seconds):
        raise ValueError(_WHAT)
    return FOREVER if seconds < 0 else seconds


def parse_duration(text: str) -> float:
    """Seconds of a Go duration; "0" needs no unit.

    Raises:
        ValueError: it is none, in Go's own words.
    """
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    seconds, at = 0.0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            missing = "missing unit in" if re.fullmatch(r"[\d.]*\d[\d.]*", rest[at:]) else "invalid"
            raise ValueError(f'time: {missing} duration "{text}"')
        seconds += float(part[1]) * _UNITS_S[part[2]]
        at = part.end()
    return sign * seconds


def parse_environment(text: str) -> float:
    """As `parse_keep_alive`, but a bare number is seconds, as OLLAMA_KEEP_ALIVE has it.

    Raises:
        ValueError: as there.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = parse_duration(text)
    parsed = parse_keep_alive(seconds)
    assert parsed is not None
    return parsed
