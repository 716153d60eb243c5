"""The one place that prints: data to stdout, talk to stderr. Everything reads without colour."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


def print_text(text: str) -> None:
    """Data that is text already."""
    print(text)


def print_json(value: object) -> None:
    """Data for programs."""
    print(json.dumps(value, indent=2, default=str))


def plain(text: str) -> str:
    """Somebody else's text, with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Data for people. Without a terminal: one row to a line, not cut to any width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    print(title)
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def say(text: str) -> None:
    """Talk: what is happening, for a person who watches."""
    print(text, file=sys.stderr, flush=True)


def fail(message: str, hint: str | None) -> None:
    """An error, and what to try next."""
    say(f"error: {message}")
    if hint:
        say(f"hint:  {hint}")


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Talk while something takes its time: a spinner on a terminal, one line elsewhere."""
    if not sys.stderr.isatty():
        say(text)
        yield
        return
    from rich.console import Console

    with Console(stderr=True, markup=False).status(text):
        yield
