"""What runs under a home: one folder for each gateway, `<home>/run/<gateway pid>/`, and the sweep of what died.

A process is known by (pid, start time), so that a pid that the system gave to somebody else is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from hugind.supervisor.paths import DIRECTORY_MODE, Home, write_private

START_TIME_TOLERANCE_S = 1.0
MAX_SOCKET_FOLDER = 64
"""`sun_path` holds 104 (macOS) or 108 bytes: folder, '/', an engine's name cut to 24, index, generation, '.sock'."""


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started_at: float
    """Seconds since the epoch, as psutil tells."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has `pid` now, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @classmethod
    def of_this(cls) -> ProcessId:
        """The process that asks."""
        return cls(os.getpid(), psutil.Process().create_time())

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) <= START_TIME_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass(frozen=True)
class GatewayRecord:
    """What a running gateway tells the commands on this machine. The file is 0600: the token opens the admin routes."""

    process: ProcessId
    host: str
    port: int
    configs: tuple[str, ...]
    token: str
    argv: tuple[str, ...]
    """The arguments of `hugind` that started it, for `server restart`."""
    log: str

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - a comparison
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class RunFolder:
    """This process's own folder; made on entry, removed on exit."""

    def __init__(self, path: Path, sockets: Path) -> None:
        self.path = path
        self.sockets = sockets

    def publish(self, record: GatewayRecord) -> None:
        """Tell the commands on this machine that a gateway serves. Blocks on the disk."""
        write_private(self.path / "gateway.json", json.dumps(asdict(record), indent=2))

    def record_worker(self, pid: int) -> None:
        """Remember a worker, so that a later start can end it if we cannot. Blocks on the disk."""
        if process := ProcessId.of(pid):
            write_private(self.path / f"worker-{pid}.json", json.dumps(asdict(process)))

    def forget_worker(self, pid: int) -> None:
        """The worker was reaped."""
        (self.path / f"worker-{pid}.json").unlink(missing_ok=True)


@contextmanager
def own_run_folder(home: Home) -> Iterator[RunFolder]:
    """The run folder of this process. Blocks on the disk.

    Sockets live in it, unless the home's path is too long for a socket's name: then in a private temporary folder.
    """
    path = home.run / str(os.getpid())
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=DIRECTORY_MODE, parents=True)
    sockets = path
    if len(os.fsencode(path)) > MAX_SOCKET_FOLDER:
        sockets = Path(tempfile.mkdtemp(prefix="hugind-"))
    write_private(path / "owner.json", json.dumps({**asdict(ProcessId.of_this()), "sockets": str(sockets)}))
    try:
        yield RunFolder(path, sockets)
    finally:
        if sockets != path:
            shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)


def live_gateways(home: Home) -> list[GatewayRecord]:
    """Gateways of this home that run now and have published where. Blocks on the disk."""
    found = []
    for folder in sorted(home.run.glob("[0-9]*")):
        data = _read(folder / "gateway.json")
        if data is None:
            continue
        record = GatewayRecord(
            process=ProcessId(**data["process"]),
            host=data["host"],
            port=data["port"],
            configs=tuple(data["configs"]),
            token=data["token"],
            argv=tuple(data["argv"]),
            log=data["log"],
        )
        if record.process.is_alive():
            found.append(record)
    return found


def sweep(home: Home) -> list[int]:
    """End what earlier gateways left behind: their workers, sockets and folders. Blocks.

    Folders of gateways that still run are left alone. Returns the pids of the workers that were ended.
    """
    ended = []
    for folder in home.run.glob("[0-9]*"):
        owner = _read(folder / "owner.json")
        if owner is None or ProcessId(owner["pid"], owner["started_at"]).is_alive():
            continue
        for file in folder.glob("worker-*.json"):
            worker = _read(file)
            if worker and ProcessId(**worker).is_alive():
                _end_group(worker["pid"])
                ended.append(worker["pid"])
        sockets = Path(owner["sockets"])
        if sockets != folder and sockets.name.startswith("hugind-"):
            shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return ended


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)  # workers lead a group of their own
    except (ProcessLookupError, PermissionError):
        pass


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
