"""What runs under a home: one folder for each gateway, `<home>/run/<gateway pid>/`, and the sweep of what died.

A process is known by its pid and its start, so that a pid that the system gave to somebody else is never touched.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
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
"""`sun_path` holds 104 (macOS) or 108 bytes: folder, '/', an engine's name cut to 24, index, number, '.sock'."""
TEMPORARY_PREFIX = "hugind-"
END_TIMEOUT_S = 10


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started_at: float
    """Seconds since the epoch, as the clock was when this was made."""
    mark: str = ""
    """The start in a form that does not move when the clock is set, where the system has one."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has `pid` now, or None."""
        try:
            process = psutil.Process(pid)
            return cls(pid, process.create_time(), _start_mark(process))
        except (psutil.Error, OSError):
            return None

    @classmethod
    def of_this(cls) -> ProcessId:
        """The process that asks."""
        process = psutil.Process()
        return cls(process.pid, process.create_time(), _start_mark(process))

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        now = ProcessId.of(self.pid)
        if now is None:
            return False
        if self.mark != now.mark or (not self.mark and abs(now.started_at - self.started_at) > START_TIME_TOLERANCE_S):
            return False
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def _start_mark(process: psutil.Process) -> str:
    """On Linux psutil adds the start since the boot and the time of the boot, which moves when the clock is set."""
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}+{process.create_time() - psutil.boot_time():.2f}"


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
    patience_s: float = 0
    """How long it may take to stop: its engines' drain and stop times."""

    @classmethod
    def read(cls, path: Path) -> GatewayRecord | None:
        """The record in `path`; None where there is none, or one that this version does not understand."""
        try:
            data = _read(path)
            lists = {key: tuple(data[key]) for key in ("configs", "argv")}
            return cls(**{**data, **lists, "process": ProcessId(**data["process"])})
        except (KeyError, TypeError):
            return None

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
        self._numbers = itertools.count(1)

    def new_socket(self, name: str, index: int) -> Path:
        """Where a worker may listen; never the same twice, however alike the names begin."""
        return self.sockets / f"{name[:24]}-{index}.{next(self._numbers)}.sock"

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
    try:
        if len(os.fsencode(path)) > MAX_SOCKET_FOLDER:
            sockets = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        write_private(
            path / "owner.json", json.dumps({"process": asdict(ProcessId.of_this()), "sockets": str(sockets)})
        )
        yield RunFolder(path, sockets)
    finally:
        if sockets != path:
            shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)


def live_gateways(home: Home) -> list[GatewayRecord]:
    """Gateways of this home that run now and have published where. Blocks on the disk."""
    records = [GatewayRecord.read(folder / "gateway.json") for folder in sorted(home.run.glob("[0-9]*"))]
    return [record for record in records if record and record.process.is_alive()]


def sweep(home: Home) -> list[int]:
    """End what earlier gateways left behind: their workers, sockets and folders. Blocks.

    Folders of gateways that still run are left alone. Returns the pids of the workers that were ended.
    """
    ended = []
    for folder in home.run.glob("[0-9]*"):
        owner = _read_owner(folder)
        if owner.process.is_alive():
            continue
        for file in folder.glob("worker-*.json"):
            worker = _read_process(_read(file))
            if worker and worker.is_alive():
                _end_group(worker.pid)
                ended.append(worker.pid)
        if owner.sockets != folder and owner.sockets.name.startswith(TEMPORARY_PREFIX):
            shutil.rmtree(owner.sockets, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return ended


@dataclass(frozen=True)
class _Owner:
    process: ProcessId
    sockets: Path


def _read_owner(folder: Path) -> _Owner:
    """Whose folder it is. One without a word is being made by the process that it is named after, or was left so."""
    data = _read(folder / "owner.json")
    process = _read_process(data.get("process")) if isinstance(data, dict) else None
    if process is None:
        pid = int(folder.name) if folder.name.isdecimal() else 0
        return _Owner(ProcessId.of(pid) or ProcessId(pid, 0), folder)
    return _Owner(process, Path(data.get("sockets", folder)))


def _read_process(data: Any) -> ProcessId | None:
    try:
        return ProcessId(**data)
    except TypeError:
        return None


def _end_group(pid: int) -> None:
    """Kill, and wait until it is gone: what it holds of the GPU's memory is needed."""
    try:
        process = psutil.Process(pid)
        os.killpg(pid, signal.SIGKILL)  # workers lead a group of their own
        process.wait(END_TIMEOUT_S)
    except (ProcessLookupError, PermissionError, psutil.Error):
        pass


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
