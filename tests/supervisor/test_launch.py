"""The program that ties a child to its parent, run as it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hugind.supervisor import launch

_PROGRAM = [sys.executable, "-I", "-S", launch.__file__]


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, with a parent that holds the other end of standard input meanwhile."""
    theirs, ours = os.pipe()
    try:
        return subprocess.run(
            [*_PROGRAM, *argv], stdin=theirs, capture_output=True, text=True, check=False, start_new_session=True
        )
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize("how", [(), ("--watch",)])
def test_becomes_the_command(how: tuple[str, ...]) -> None:
    """It becomes the command: same pid, its arguments, its exit code."""
    with subprocess.Popen(
        [*_PROGRAM, *how, str(os.getpid()), "/bin/sh", "-c", 'echo $$ "$1"; exit 9', "sh", "two words"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        code = process.wait()

    assert said == f"{process.pid} two words\n"
    assert code == 9


@pytest.mark.parametrize("how", [(), ("--watch",)])
def test_parent_that_is_gone(how: tuple[str, ...]) -> None:
    """Where the parent ended before it could be watched, the command never runs."""
    done = _run(*how, "999999999", "/bin/echo", "ran")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_command_that_is_not_there() -> None:
    """127, and a sentence with the name."""
    done = _run(str(os.getpid()), "/no/such")

    assert (done.returncode, done.stderr) == (127, "error: cannot run /no/such: No such file or directory\n")


def test_command_without_permission(tmp_path: Path) -> None:
    """127, and a sentence with the name."""
    path = tmp_path / "file"
    path.write_text("")
    done = _run(str(os.getpid()), str(path))

    assert (done.returncode, done.stderr) == (127, f"error: cannot run {path}: Permission denied\n")


def test_imports_nothing_of_ours() -> None:
    """It starts in milliseconds because it needs the standard library only."""
    code = f"import runpy, sys; sys.argv = ['x', '0', 'x']; runpy.run_path({launch.__file__!r}, run_name='imported'); "
    code += "print([name for name in sys.modules if name.split('.')[0] in ('hugind', 'asyncio', 'psutil')])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
