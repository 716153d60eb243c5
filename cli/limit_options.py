"""The limits of users and keys, as options of several commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hugind.cli.durations import parse_duration

LIFTED = "none"
UNSET = "default"

_NAMES = ("requests", "window_s", "tokens_per_minute", "tokens_per_day", "concurrent", "queued")
_VALUES = f"N, '{LIFTED}' or '{UNSET}'"

Requests = Annotated[str | None, typer.Option("--requests", metavar="N", help=f"Requests in any --window: {_VALUES}.")]
Window = Annotated[str | None, typer.Option("--window", metavar="S", help="Seconds, or a span such as 1h.")]
TokensPerMinute = Annotated[
    str | None, typer.Option("--tokens-per-minute", metavar="N", help="Tokens in any minute, of prompts and answers.")
]
TokensPerDay = Annotated[str | None, typer.Option("--tokens-per-day", metavar="N", help="Tokens in any 24 hours.")]
Concurrent = Annotated[
    str | None, typer.Option("--concurrent", metavar="N", help="Turns at the same time, waiting ones included.")
]
Queued = Annotated[
    str | None, typer.Option("--queued", metavar="N", help="Of these, so many may wait for a slot of one engine.")
]

LIMITS_HELP = (
    f"A limit is a number, '{LIFTED}' for no limit, or '{UNSET}' for what settings.yml says (of a user) or nothing "
    "(of a key)."
)


def changed_limits(current: Mapping[str, Any], *given: str | None) -> dict[str, Any]:
    """The limits that there are to be: what is not given stays. `given` is in the order of the options above.

    Raises:
        typer.BadParameter: a value is neither a number nor one of the two words.
    """
    limits = dict(current)
    for name, text in zip(_NAMES, given, strict=True):
        if text is None:
            continue
        if text == UNSET:
            limits.pop(name, None)
        else:
            limits[name] = _window(text) if name == "window_s" else _count(name, text)
    return limits


def _count(name: str, text: str) -> int | None:
    if text == LIFTED:
        return None
    if not text.replace("_", "").isdecimal():
        raise typer.BadParameter(f"--{name.replace('_', '-')} takes {_VALUES}, not '{text}'")
    return int(text)


def _window(text: str) -> int:
    seconds = int(text) if text.isdecimal() else parse_duration(text)
    if not seconds:
        raise typer.BadParameter("--window is at least a second")
    return seconds
