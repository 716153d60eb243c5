"""A gateway as people run it: a process of its own, started by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import live_gateways
from tests.eventually import eventually_sync
from tests.homes import note_home

KEY = "e2e-key"
DEADLINE_S = 40


class GatewayProcess:
    """One running `hugind server start`. Lives inside `running`."""

    def __init__(self, home: Home, process: subprocess.Popen[bytes], url: str) -> None:
        self.home = home
        self.process = process
        self.url = url
        self.client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=DEADLINE_S, trust_env=False
        )

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def status(self) -> list[dict[str, Any]]:
        """The workers, as `hugind server status --json` tells."""
        done = hugind(self.home, "server", "status", "--json", check=False)
        workers: list[dict[str, Any]] = json.loads(done.stdout)["workers"]
        return workers

    def engine(self, name: str) -> dict[str, Any]:
        """One engine, as the admin route tells."""
        token = live_gateways(self.home)[0].token
        answer = self.client.get("/admin/v1/engines", headers={"Authorization": f"Bearer {token}"})
        engine: dict[str, Any] = next(engine for engine in answer.json() if engine["name"] == name)
        return engine

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(DEADLINE_S)


@contextmanager
def running(
    folder: Path,
    configs: Mapping[str, dict[str, Any]],
    *,
    variables: Mapping[str, str] | None = None,
    serve: Sequence[str] | None = None,
) -> Iterator[GatewayProcess]:
    """Run a gateway with `configs` until the block ends; whatever it started is gone then.

    `serve`: with these arguments as `hugind serve` does: models are loaded on demand, those of the library, too.
    """
    home = Home(folder)
    home.create()
    note_home(home)
    for name, config in configs.items():
        home.config(name).write_text(yaml.safe_dump(config))
    command = ["server", "start", *configs] if serve is None else ["serve", *serve]
    argv = [sys.executable, "-m", "hugind.cli.main", *command, "--port", "0"]
    with (folder / "said.txt").open("w+b") as said:
        process = subprocess.Popen(argv, stdout=said, stderr=said, env=_environment(home, variables or {}))
    started: list[psutil.Process] = []
    try:
        gateway = GatewayProcess(home, process, _await_url(home, process))
        with gateway.client:
            eventually_sync(lambda: gateway.client.get("/readyz").status_code == 200, DEADLINE_S)
            started = gateway.children()
            yield gateway
    finally:
        _end(process, started)


def hugind(home: Home, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command against a home."""
    return subprocess.run(
        [sys.executable, "-m", "hugind.cli.main", *arguments],
        env=_environment(home, {}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=check,
    )


def _environment(home: Home, variables: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "HUGIND_HOME": str(home.root), "LLAMA_API_KEY": KEY, **variables}


def _await_url(home: Home, process: subprocess.Popen[bytes]) -> str:
    def is_known() -> bool:
        assert process.poll() is None, (home.root / "said.txt").read_text()
        return bool(live_gateways(home))

    eventually_sync(is_known, DEADLINE_S)
    return live_gateways(home)[0].url


def _end(process: subprocess.Popen[bytes], started: list[psutil.Process]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in started:
        if child.is_running():
            child.kill()
