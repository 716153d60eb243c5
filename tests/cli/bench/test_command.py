"""The command line of the bench."""

from __future__ import annotations

import subprocess
import sys

import pytest

GATEWAY = ("--requests", "--seconds", "--streams", "--json", "--dir", "--no-nginx")
SESSIONS = ("--model", "--users", "--slots", "--tokens", "--new", "--rounds", "--binary", "--json")

FAIRNESS = ("--model", "--heavy", "--light", "--share", "--slots", "--binary", "--quick", "--json")


@pytest.mark.parametrize(("command", "options"), [("gateway", GATEWAY), ("sessions", SESSIONS), ("fairness", FAIRNESS)])
def test_help_is_cheap(command: str, options: tuple[str, ...]) -> None:
    """The help of a bench names its options and loads no server."""
    code = (
        "import sys; from hugind.cli.bench.command import bench_app\n"
        f"try: bench_app([{command!r}, '--help'])\n"
        "finally: print({'aiohttp', 'uvloop', 'psutil', 'fastapi', 'sqlalchemy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)

    assert done.stdout.splitlines()[-1] == "set()"
    for option in options:
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--users", "2", "--slots", "2"), "more users than slots"),
        (("--tokens", "4000,many"), "--tokens takes numbers"),
        (("--tokens", "10"), "--tokens takes numbers from 300"),
        (("--new", "0"), "--new takes numbers from 1"),
    ],
)
def test_sessions_refuses_what_measures_nothing(arguments: tuple[str, ...], problem: str) -> None:
    """Wrong usage is told before anything starts."""
    argv = [sys.executable, "-m", "hugind.cli.main", "bench", "sessions", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 2
    assert problem in " ".join(done.stderr.replace("│", " ").split())
