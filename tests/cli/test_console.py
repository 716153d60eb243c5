"""console.sh and runtime/install.sh, as a person runs them; the packages are installed already."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engines import ROOT


class Console:
    """Runs ./console.sh with a home and a config.env of its own."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.env"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_")}
        self.env = {**kept, "HUGIND_HOME": str(folder / "home"), "HUGIND_CONFIG_ENV": str(self.config)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, with no terminal and no input."""
        return subprocess.run(
            [str(ROOT / "console.sh"), *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def edit(self, old: str, new: str) -> None:
        """Change config.env as a person would."""
        assert old in self.config.read_text()
        self.config.write_text(self.config.read_text().replace(old, new))


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console that is stopped after the test."""
    console = Console(tmp_path)
    yield console
    console("stop")


def test_start_to_stop(console: Console) -> None:
    """start makes config.env (0600, random key), serves with it, restart takes its changes, stop leaves nothing."""
    install = subprocess.run(
        [str(ROOT / "runtime" / "install.sh"), "--offline", "--dev"], env=console.env, timeout=300, check=True
    )
    mode = stat.S_IMODE(console.config.stat().st_mode)
    console.edit("LLAMA_SERVER_PORT=8000", "LLAMA_SERVER_PORT=0")
    started = console("start", "--offline")
    again = console("start", "--offline")
    gateway = _gateway(console)
    key = _read(console.config)["LLAMA_API_KEY"]

    assert install.returncode == 0
    assert mode == 0o600
    assert started.returncode == 0, started.stderr
    for words in (gateway["url"], "LLAMA_API_KEY in", "./console.sh stop"):
        assert words in started.stderr
    assert "already runs" in again.stderr
    assert _status(gateway["url"], key) == 200
    assert _status(gateway["url"], "wrong") == 401

    console.edit(key, "another-key")
    assert console("restart").returncode == 0
    assert _status(_gateway(console)["url"], "another-key") == 200

    assert "stopped" in console("stop").stderr
    assert console("status").returncode == 3


def test_a_mistake_stops_nothing(console: Console) -> None:
    """`restart` with a model that does not exist leaves what runs running; it works through a symlink, too."""
    subprocess.run([str(ROOT / "runtime" / "install.sh"), "--dev"], env=console.env, timeout=300, check=True)
    console.edit("LLAMA_SERVER_PORT=8000", "LLAMA_SERVER_PORT=0")
    assert console("start").returncode == 0
    before = _gateway(console)
    console.edit("LLAMA_MODEL=demo", "LLAMA_MODEL=nope")
    refused = console("restart")
    link = console.config.with_name("hg")
    link.symlink_to(ROOT / "console.sh")
    through = subprocess.run(
        [str(link), "status", "--json"], env=console.env, capture_output=True, text=True, timeout=60, check=False
    )

    assert refused.returncode == 1
    assert "there is no config 'nope'" in refused.stderr
    assert json.loads(through.stdout)["gateways"][0]["pid"] == before["pid"]


def test_unknown_command(console: Console) -> None:
    """A word that is no command: usage, exit code 2."""
    done = console("frobnicate")

    assert done.returncode == 2
    assert "usage: ./console.sh COMMAND" in done.stderr


def _gateway(console: Console) -> dict[str, str]:
    gateways: list[dict[str, str]] = json.loads(console("status", "--json").stdout)["gateways"]
    assert len(gateways) == 1
    return gateways[0]


def _status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def _read(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)
