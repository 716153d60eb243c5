"""The `hugind` command in tests: run as a person would, in a home of its own, and cleaned up after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hugind.supervisor.paths import Home
from tests.homes import note_home

TIMEOUT_S = 60
KEY = "hgd_test"


class HugindCommand:
    """Runs `hugind` with a home of its own. `close` stops whatever gateway it left running."""

    def __init__(self, home: Path) -> None:
        self.home = home
        note_home(Home(home))
        self.env = {**os.environ, "HUGIND_HOME": str(home), "LLAMA_API_KEY": KEY}
        for variable in ("LLAMA_SERVER_HOST", "LLAMA_SERVER_PORT"):
            self.env.pop(variable, None)

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [sys.executable, "-m", "hugind.cli.main", *arguments],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What it prints with --json, whatever the exit code."""
        return json.loads(self(*arguments, "--json").stdout)

    def write_config(self, name: str, text: str) -> Path:
        """A config in the home."""
        path = self.home / "configs" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def close(self) -> None:
        """Stop what runs in this home."""
        self("server", "stop")


@pytest.fixture
def hugind(tmp_path: Path) -> Iterator[HugindCommand]:
    """`hugind` in a fresh home."""
    command = HugindCommand(tmp_path / "home")
    yield command
    command.close()
