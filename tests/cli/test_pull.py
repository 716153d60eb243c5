"""`hugind pull` without a server, from a hub on this machine. With a server: tests/cli/test_serve.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL
from tests.hub import LocalHub, serving_hub


@pytest.fixture
def hub(hugind: HugindCommand) -> Iterator[LocalHub]:
    """A hub with the demo model, in two sizes, which `hugind` asks."""
    with serving_hub() as hub:
        hub.add("someone/tiny-GGUF", dict.fromkeys(("tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"), DEMO_MODEL.read_bytes()))
        hugind.env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_mine"}
        yield hub


def test_into_the_home(hugind: HugindCommand, hub: LocalHub) -> None:
    """Nothing runs: it is put where a server will find it, with a line for each file, and then listed."""
    pulled = hugind("pull", "hf.co/someone/tiny-GGUF:Q8_0", "--revision", "main", "--trust-remote-code")
    again = hugind("pull", "someone/tiny-GGUF:q8_0")
    (row,) = hugind.json("list")

    assert pulled.returncode == 0, pulled.stderr
    assert (hugind.home / "someone/tiny-GGUF/tiny-Q8_0.gguf").read_bytes() == DEMO_MODEL.read_bytes()
    assert f"tiny-Q8_0.gguf: all {DEMO_MODEL.stat().st_size:,} bytes are here" in pulled.stderr
    assert "tiny-Q8_0 is in" in pulled.stderr
    assert again.returncode == 0
    assert len(hub.fetched()) == 1
    assert {asked.token for asked in hub.asked if "someone" in asked.path} == {"hf_mine"}
    assert (row["name"], row["kind"], row["state"]) == ("tiny-Q8_0", "library", "stopped")


def test_refused(hugind: HugindCommand, hub: LocalHub) -> None:
    """What is not there, and what is no name, in one line with a hint."""
    unknown = hugind("pull", "someone/else-GGUF")
    no_name = hugind("pull", "tiny")
    other = hugind("pull", "someone/tiny-GGUF:Q2_K")

    assert [done.returncode for done in (unknown, no_name, other)] == [1, 1, 1]
    assert "someone/else-GGUF" in unknown.stderr
    assert "user/repo" in no_name.stderr
    assert "Q4_K_M, Q8_0" in other.stderr


def test_stopped_and_taken_up(hugind: HugindCommand, hub: LocalHub) -> None:
    """Ctrl-C says that it can go on; and it does, where it was."""
    hub.held_after = 200_000
    argv = [sys.executable, "-m", "hugind.cli.main", "pull", "someone/tiny-GGUF"]
    with subprocess.Popen(argv, env=hugind.env, stderr=subprocess.PIPE, text=True) as running:
        assert hub.is_holding.wait(30)
        _await_part(hugind.home)
        os.kill(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=30)
    listed = hugind.json("list")
    hub.release()
    done = hugind("pull", "someone/tiny-GGUF")

    assert running.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert listed == []
    assert done.returncode == 0, done.stderr
    assert hub.fetched()[-1].start > 0
    assert (hugind.home / "someone/tiny-GGUF/tiny-Q4_K_M.gguf").read_bytes() == DEMO_MODEL.read_bytes()


def _await_part(home: Path) -> None:
    from tests.eventually import eventually_sync

    eventually_sync(lambda: [part for part in home.glob("someone/*/.download/*.part") if part.stat().st_size])
