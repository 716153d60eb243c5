"""The `hugind` command in tests: run as a person would, in a home of its own, and cleaned up after."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from hugind.cli.main import main
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, ProcessId
from tests.homes import note_home

TIMEOUT_S = 60
KEY = "hgd_test"


def is_setting(variable: str) -> bool:
    """Whether an environment variable would have hugind do something else than a test expects."""
    own = ("LLAMA_", "OLLAMA_", "HF_", "POSTGRES_AUTH_")
    return variable.startswith(own) or variable in ("DATABASE_URL", "HUGIND_API_KEY")


class HugindCommand:
    """Runs `hugind` with a home of its own. `close` stops whatever gateway it left running."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.is_here = False
        """Run in this process: where many commands follow each other, starting one takes most of the time."""
        note_home(Home(home))
        self.env = {**os.environ, "HUGIND_HOME": str(home)}
        for variable in [name for name in self.env if is_setting(name)]:
            del self.env[variable]
        self.env["LLAMA_API_KEY"] = KEY

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        variables = {**self.env, **(env or {})}
        if self.is_here:
            return _run_here(arguments, variables)
        return subprocess.run(
            [sys.executable, "-m", "hugind.cli.main", *arguments],
            env=variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def python(self, code: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run code of a test as the command would be run."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What it prints with --json, whatever the exit code."""
        return json.loads(self(*arguments, "--json").stdout)

    def use_postgres(self, address: str) -> None:
        """Have the environment name this database, part by part."""
        url = make_url(address)
        parts = {
            "HOST": url.host or url.query["host"],
            "PORT": url.port,
            "DB": url.database,
            "USER": url.username,
            "PASSWORD": url.password,
        }
        self.env.update({f"POSTGRES_AUTH_{name}": str(value) for name, value in parts.items() if value})

    def write_config(self, name: str, text: str) -> Path:
        """A config in the home."""
        path = self.home / "configs" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def close(self) -> None:
        """Stop what runs in this home."""
        self("server", "stop")


def _run_here(arguments: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    before, argv = dict(os.environ), sys.argv
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["hugind", *arguments]
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.argv = argv
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextmanager
def silent_gateway(home: Path) -> Iterator[GatewayRecord]:
    """A gateway of the home that runs, as far as its record says, and does not answer. Not to be stopped: it is us."""
    record = GatewayRecord(ProcessId.of_this(), "127.0.0.1", 1, ("demo",), "token", (), str(home / "logs/gateway.log"))
    file = home / "run" / str(record.process.pid) / "gateway.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(record)))
    try:
        yield record
    finally:
        file.unlink()
        file.parent.rmdir()


@pytest.fixture
def hugind(tmp_path: Path) -> Iterator[HugindCommand]:
    """`hugind` in a fresh home."""
    command = HugindCommand(tmp_path / "home")
    yield command
    command.close()


@pytest.fixture
def either(hugind: HugindCommand, database_address: str) -> HugindCommand:
    """`hugind` in a fresh home, in this process: with SQLite there, and with a PostgreSQL that is ready."""
    hugind.is_here = True
    if database_address.startswith("postgresql"):
        hugind.use_postgres(database_address)
        assert hugind("db", "init").returncode == 0
    return hugind
