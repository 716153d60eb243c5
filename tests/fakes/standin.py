"""The stand-in llama-server in tests: as an engine's binary, and as a process of its own.

A test module (or its conftest) imports the fixtures that it uses.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from hugind.cli.bench.standin import write_launcher

DEADLINE_S = 20


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Look again and again until `holds()`; fails the test when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.005)


class StandinProcess:
    """One running stand-in on a UNIX socket. Lives until `close`, which the fixture `start_standin` calls."""

    def __init__(self, folder: Path, model: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.socket = folder / f"{len(list(folder.glob('standin-*.log')))}.sock"
        self.log = folder / f"standin-{self.socket.stem}.log"
        argv = [sys.executable, "-m", "hugind.cli.bench.standin", "--model", str(model), "--host", str(self.socket)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *flags], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        self.client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://standin", timeout=DEADLINE_S
        )
        # A connection of its own each time: one that a stream promised to keep is closed just now.
        once = httpx.HTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._looking = httpx.Client(transport=once, base_url="http://standin", timeout=DEADLINE_S)

    def async_client(self) -> httpx.AsyncClient:
        """For requests side by side. The caller closes it."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://standin", timeout=DEADLINE_S)

    def wait_ready(self) -> StandinProcess:
        wait_until(self.is_healthy, "the stand-in is ready")
        return self

    def is_listening(self) -> bool:
        # Not through httpx: it leaks the socket of a connection that is refused, and warnings are errors.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def is_healthy(self) -> bool:
        return self.is_listening() and self.client.get("/health").status_code == 200

    def wait_exit(self) -> int:
        """Its exit code, as `subprocess`."""
        return self.process.wait(DEADLINE_S)

    def slots(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._looking.get("/slots").json()
        return answer

    def busy_slots(self) -> list[int]:
        return [slot["id"] for slot in self.slots() if slot["is_processing"]]

    def metric(self, name: str) -> int:
        """A value of `/metrics`; needs the flag."""
        lines = self._looking.get("/metrics").text.splitlines()
        return int(next(line.split()[-1] for line in lines if line.startswith(f"llamacpp:{name} ")))

    def close(self) -> None:
        self.client.close()
        self._looking.close()
        if (code := self.process.poll()) is not None:  # shown with a test that fails
            print(f"the stand-in ended by itself with {code}:\n{self.log.read_text()}")  # noqa: T201
        self.process.kill()
        self.process.wait()


class StartStandin(Protocol):
    """What the fixture `start_standin` is."""

    def __call__(self, *flags: str, env: dict[str, str] | None = None, is_ready: bool = True) -> StandinProcess: ...


@pytest.fixture
def standin_binary(tmp_path: Path) -> Path:
    """An executable for `engine.binary`; faults go into `engine.extra_args`."""
    return write_launcher(tmp_path / "llama-server")


@pytest.fixture
def standin_model(tmp_path: Path) -> Path:
    """A file for `model.model_path`: the stand-in wants it to exist, and never reads it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def start_standin(tmp_path: Path, standin_model: Path) -> Iterator[StartStandin]:
    """Starts stand-ins of their own, ready unless told otherwise; all are gone when the test ends."""
    started: list[StandinProcess] = []

    def start(*flags: str, env: dict[str, str] | None = None, is_ready: bool = True) -> StandinProcess:
        started.append(StandinProcess(tmp_path, standin_model, *flags, env=env))
        return started[-1].wait_ready() if is_ready else started[-1]

    yield start
    for standin in started:
        standin.close()
