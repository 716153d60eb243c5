"""What a gateway leaves while it runs, and what is swept when it is gone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import (
    MAX_SOCKET_FOLDER,
    GatewayRecord,
    ProcessId,
    RunFolder,
    live_gateways,
    own_run_folder,
    sweep,
)
from tests.eventually import eventually_sync

_GONE = ProcessId(2**22 + 1, 0.0, "never")


def _record(process: ProcessId, **changes: Any) -> GatewayRecord:
    record = GatewayRecord(process, "127.0.0.1", 8080, ("tiny",), "token", ("server", "start"), "/log")
    return replace(record, **changes)


@contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, as a worker is."""
    with subprocess.Popen(["sleep", "3600"], start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _leave(home: Home, owner: ProcessId, worker: ProcessId | None = None, sockets: Path | None = None) -> Path:
    """A run folder as a gateway leaves it that was killed."""
    path = home.run / str(owner.pid)
    path.mkdir()
    owner_data = {"process": asdict(owner), "sockets": str(sockets or path)}
    (path / "owner.json").write_text(json.dumps(owner_data))
    (path / "tiny-0.1.sock").touch()
    if worker:
        (path / f"worker-{worker.pid}.json").write_text(json.dumps(asdict(worker)))
    return path


# ---- one's own folder


def test_own_folder(home: Home) -> None:
    """It is private while it is there, and gone afterwards with all that is in it."""
    with own_run_folder(home) as folder:
        folder.publish(_record(ProcessId.of_this()))
        folder.record_worker(os.getpid())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
        folder_mode = stat.S_IMODE(folder.path.stat().st_mode)

    assert folder_mode == 0o700
    assert modes == {"owner.json": 0o600, "gateway.json": 0o600, f"worker-{os.getpid()}.json": 0o600}
    assert list(home.run.iterdir()) == []


def test_own_folder_is_removed_after_an_error(home: Home) -> None:
    """However it is left, it is removed."""
    with pytest.raises(LookupError), own_run_folder(home):
        raise LookupError

    assert list(home.run.iterdir()) == []


def test_own_pid_was_used_before(home: Home) -> None:
    """What an earlier process of the same pid left is not taken over."""
    old = _leave(home, ProcessId(os.getpid(), 1.0, "before"))
    with own_run_folder(home) as folder:
        names = {path.name for path in folder.path.iterdir()}

    assert old == folder.path
    assert names == {"owner.json"}


def test_long_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a home's path is too long for a socket's name, sockets are in a private temporary folder, removed after."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    home = Home(tmp_path / ("long" * 20))
    home.create()
    with own_run_folder(home) as folder:
        sockets = folder.sockets
        mode = stat.S_IMODE(sockets.stat().st_mode)

    assert sockets.parent == temporary
    assert mode == 0o700
    assert not sockets.exists()


def test_every_socket_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Sockets of names that begin alike differ, and the longest still fits."""
    folder = RunFolder(tmp_path, Path("/" + "x" * (MAX_SOCKET_FOLDER - 1)))
    paths = [folder.new_socket("n" * 40 + end, 63) for end in ("a", "b") for _ in range(50)]

    assert len(set(paths)) == 100
    assert max(len(str(path)) for path in paths) <= 103


def test_forget_worker(folder: RunFolder) -> None:
    """A worker that was reaped is forgotten; twice is no error."""
    folder.record_worker(os.getpid())
    folder.forget_worker(os.getpid())
    folder.forget_worker(os.getpid())

    assert [path.name for path in folder.path.iterdir()] == ["owner.json"]


def test_record_of_a_worker_that_is_gone(folder: RunFolder) -> None:
    """A process that has ended already is not recorded."""
    folder.record_worker(_GONE.pid)

    assert [path.name for path in folder.path.iterdir()] == ["owner.json"]


# ---- who is who


def test_this_process() -> None:
    """A process knows itself."""
    myself = ProcessId.of_this()

    assert myself == ProcessId.of(os.getpid())
    assert myself.is_alive()


def test_another_of_the_same_pid() -> None:
    """The same pid with another start is another process."""
    myself = ProcessId.of_this()

    assert not replace(myself, mark="another boot+1.00").is_alive()
    assert not ProcessId(myself.pid, myself.started_at - 5).is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start is fixed by the kernel")
def test_clock_that_is_set() -> None:
    """A process is the same after the clock was set, which moves every start on Linux."""
    myself = ProcessId.of_this()

    assert replace(myself, started_at=myself.started_at + 3600).is_alive()


def test_zombie_is_not_alive() -> None:
    """A process that ended and was not reaped does not count."""
    with _process() as process:
        known = ProcessId.of(process.pid)
        assert known is not None
        was_alive = known.is_alive()
        process.kill()
        eventually_sync(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        is_alive = known.is_alive()

    assert was_alive
    assert not is_alive


# ---- gateways


def test_live_gateways(home: Home, folder: RunFolder) -> None:
    """A gateway that runs and has published is found, as it was published."""
    before = live_gateways(home)
    record = _record(ProcessId.of_this())
    folder.publish(record)

    assert before == []
    assert live_gateways(home) == [record]


def test_gateway_that_died(home: Home) -> None:
    """A gateway that is gone is not found."""
    path = _leave(home, _GONE)
    RunFolder(path, path).publish(_record(_GONE))

    assert live_gateways(home) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"process": {"pid": 1}}', '{"from": "another version"}']
)
def test_record_that_is_none(home: Home, folder: RunFolder, text: str) -> None:
    """A record that cannot be understood is passed over."""
    (folder.path / "gateway.json").write_text(text)

    assert live_gateways(home) == []


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 - a value
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("box.lan", "http://box.lan:8080"),
    ],
)
def test_url(host: str, url: str) -> None:
    """A client on this machine gets an address that it can connect to."""
    assert _record(_GONE, host=host).url == url


# ---- the sweep


def test_sweep_ends_a_leftover(home: Home) -> None:
    """A worker that a dead gateway recorded is ended, and its folder goes."""
    with _process() as process:
        path = _leave(home, _GONE, ProcessId.of(process.pid))
        ended = sweep(home)
        is_there = psutil.pid_exists(process.pid)

    assert ended == [process.pid]
    assert not is_there
    assert not path.exists()


def test_sweep_ends_the_whole_group(home: Home) -> None:
    """What the leftover started is ended with it."""
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '3600']).pid, flush=True); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            grandchild = int(process.stdout.readline())
            _leave(home, _GONE, ProcessId.of(process.pid))
            sweep(home)
            eventually_sync(lambda: not _runs(grandchild))
        finally:
            process.kill()


def test_sweep_spares_a_pid_that_was_given_to_another(home: Home) -> None:
    """A process with a recorded pid and another start is somebody else's."""
    with _process() as process:
        known = ProcessId.of(process.pid)
        assert known is not None
        path = _leave(home, _GONE, replace(known, mark="before"))
        ended = sweep(home)
        runs = process.poll() is None

    assert ended == []
    assert runs
    assert not path.exists()


def test_sweep_spares_a_live_gateway(home: Home) -> None:
    """Nothing of a gateway that runs is touched."""
    with _process() as process:
        path = _leave(home, ProcessId.of_this(), ProcessId.of(process.pid))
        ended = sweep(home)
        runs = process.poll() is None

    assert ended == []
    assert runs
    assert len(list(path.iterdir())) == 3


def test_sweep_removes_temporary_sockets(home: Home, tmp_path: Path) -> None:
    """A dead gateway's socket folder outside of the home goes too; a folder of another name does not."""
    ours, other = tmp_path / "hugind-abc", tmp_path / "precious"
    ours.mkdir()
    other.mkdir()
    _leave(home, _GONE, sockets=ours)
    _leave(home, replace(_GONE, pid=_GONE.pid + 1), sockets=other)
    sweep(home)

    assert not ours.exists()
    assert other.exists()


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"process": {"pid": "x"}}'])
def test_sweep_of_a_folder_without_an_owner(home: Home, text: str | None) -> None:
    """A folder without an owner goes once the process that it is named after is gone, no sooner."""
    dead, live = home.run / str(_GONE.pid), home.run / str(os.getpid())
    for path in (dead, live):
        path.mkdir()
        if text is not None:
            (path / "owner.json").write_text(text)
    sweep(home)

    assert not dead.exists()
    assert live.exists()


def test_sweep_of_a_broken_worker_record(home: Home) -> None:
    """A record that cannot be read ends nobody and is swept."""
    path = _leave(home, _GONE)
    (path / "worker-1.json").write_text("{")
    (path / "worker-2.json").write_text('{"pid": 1}')

    assert sweep(home) == []
    assert not path.exists()


def test_sweep_of_nothing(home: Home) -> None:
    """Where nothing ran nothing is done."""
    assert sweep(home) == []
    assert sweep(Home(home.root / "none")) == []


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
