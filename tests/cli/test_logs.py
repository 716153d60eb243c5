"""`hugind server logs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hugind.cli.logs import show_logs
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from tests.cli.hugind_command import HugindCommand
from tests.eventually import eventually_sync


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with folders."""
    home = Home(tmp_path)
    home.create()
    return home


def test_last_lines(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines of the gateway's log, no more."""
    (home.logs / "gateway.log").write_text("one\ntwo\nthree\n")
    show_logs(home, None, lines=2, follow=False)

    assert capsys.readouterr().out == "two\nthree\n"


def test_workers_are_told_apart(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """With several workers each line says whose it is; another config's are not shown."""
    for name in ("demo-0", "demo-1", "demo-two-0", "demo-2-0"):
        (home.logs / f"{name}.log").write_text(f"from {name}\n")
    show_logs(home, "demo", lines=5, follow=False)

    assert capsys.readouterr().out == "demo-0: from demo-0\ndemo-1: from demo-1\n"


def test_no_log_yet(home: Home) -> None:
    """A config that never ran has none, and that is said."""
    with pytest.raises(HugindError, match="'demo' has written no log yet"):
        show_logs(home, "demo", lines=5, follow=False)


def test_follow_goes_on_across_rotation(home: Home, hugind: HugindCommand) -> None:
    """`-f` prints what is added, also after the file was rotated away."""
    log = home.logs / "gateway.log"
    log.write_text("old\n")
    printed = home.root / "printed"
    with printed.open("wb") as out:
        follower = subprocess.Popen(
            [sys.executable, "-m", "hugind.cli.main", "server", "logs", "-f"],
            env={**os.environ, "HUGIND_HOME": str(home.root), "PYTHONUNBUFFERED": "1"},
            stdout=out,
        )
    try:
        eventually_sync(lambda: printed.read_text() == "old\n")
        with log.open("a") as more:
            more.write("added\n")
        eventually_sync(lambda: "added" in printed.read_text())
        log.rename(home.logs / "gateway.log.1")
        log.write_text("fresh\n")
        eventually_sync(lambda: "fresh" in printed.read_text())
    finally:
        follower.terminate()
        follower.wait(10)

    assert printed.read_text() == "old\nadded\nfresh\n"
