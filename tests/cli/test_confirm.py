"""Asking before what cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = (
    "from hugind.cli.confirm import confirm\n"
    "from hugind.supervisor.errors import HugindError\n"
    "try: confirm('Sure?', is_sure={is_sure}, otherwise='all stays')\n"
    "except HugindError as error: print(error.message, '|', error.hint)\n"
    "else: print('done')"
)


def ask(stdin: int, *, is_sure: bool = False) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own."""
    code = ASK.format(is_sure=is_sure)
    return subprocess.run(
        [sys.executable, "-c", code], stdin=stdin, capture_output=True, text=True, timeout=60, check=True
    )


def test_without_a_terminal_nobody_agrees() -> None:
    """A script has to say --yes, and is told."""
    assert ask(subprocess.DEVNULL).stdout == "all stays | --yes does it without asking\n"
    assert ask(subprocess.DEVNULL, is_sure=True).stdout == "done\n"


@pytest.mark.parametrize(("answer", "words"), [("y", "done\n"), ("n", "all stays | --yes does it without asking\n")])
def test_a_person_is_asked(answer: str, words: str) -> None:
    """On stderr, so that stdout stays data."""
    person, terminal = os.openpty()
    try:
        os.write(person, f"{answer}\n".encode())
        done = ask(terminal)
    finally:
        os.close(person)
        os.close(terminal)

    assert done.stdout == words
    assert "Sure? [y/N]" in done.stderr
