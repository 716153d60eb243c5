"""The one place that prints: data to stdout, talk to stderr. Everything reads without colour."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Data for spreadsheets. None of it is taken for a formula, whoever wrote it."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_inert(plain(cell)) if isinstance(cell, str) else cell for cell in row])


def _inert(text: str) -> str:
    """A spreadsheet would run what begins so; behind an apostrophe it is text."""
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last are the same characters at full width."""


def say(text: str) -> None:
    """Talk: what is happening, for a person who watches."""
    print(text, file=sys.stderr, flush=True)


def ask(question: str) -> bool:
    """Whether a person at the terminal says yes. Blocks."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


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


@contextmanager
def bars(*, are_bytes: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Talk while things are counted up: a bar for each name on a terminal, a line for each that is done elsewhere.

    To be called with a name, how many are done, and of how many. Bytes are told with their speed.
    """
    if not sys.stderr.isatty():
        yield _BytesInLines() if are_bytes else _say_done
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = [DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()] if are_bytes else [MofNCompleteColumn()]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts)
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, completed=done, total=total)
            shown.update(tasks[name], completed=done, total=total)

        yield show


def _say_done(name: str, done: int, total: int) -> None:
    if done == total:
        say(f"{name}: {total:,}")


class _BytesInLines:
    """Bytes for a log: a line when they begin to come, and one when all are there."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._done: set[str] = set()

    def __call__(self, name: str, done: int, total: int) -> None:
        if done >= total and name not in self._done:
            self._done.add(name)
            say(f"{name}: all {total:,} bytes are here")
        elif name not in self._begun:
            say(f"{name}: {done:,} of {total:,} bytes")
        self._begun.add(name)
