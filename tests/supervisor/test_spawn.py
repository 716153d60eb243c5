"""One life: started and recorded together, closed as a whole."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hugind.supervisor import tasks
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import TcpEndpoint, UnixEndpoint
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.spawn import Spawn, describe_endpoint, free_port
from hugind.supervisor.worker_log import WorkerLog
from tests.eventually import eventually

_WAITS = ("/bin/sh", "-c", "echo here; exec sleep 3600")


@pytest.fixture
def log(tmp_path: Path) -> WorkerLog:
    """A log that nobody has written to."""
    return WorkerLog(tmp_path / "worker.log")


async def _start(folder: RunFolder, log: WorkerLog, *argv: str, on_exit: Callable[[], None] = lambda: None) -> Spawn:
    endpoint = UnixEndpoint(folder.new_socket("tiny", 0))
    endpoint.path.touch()
    return await Spawn.start(
        argv,
        env=worker_environment({}, "key"),
        client=WorkerClient(endpoint, "key"),
        endpoint=endpoint,
        log=log,
        folder=folder,
        on_exit=on_exit,
    )


async def test_exit_is_told_after_its_last_words(folder: RunFolder, log: WorkerLog) -> None:
    """When an exit is told, the last of the output is in the log."""
    told = asyncio.Event()
    spawn = await _start(folder, log, "/bin/sh", "-c", "echo last words; exit 4", on_exit=told.set)
    was_over = spawn.has_exited
    await told.wait()
    code, tail = spawn.exit_code, log.tail()
    await spawn.close(0)

    assert not was_over
    assert spawn.has_exited
    assert (code, tail) == (4, ["last words"])
    log.close()


async def test_close_leaves_nothing(folder: RunFolder, log: WorkerLog) -> None:
    """A closed spawn has no process, no socket file, no record, and a client that refuses."""
    spawn = await _start(folder, log, *_WAITS)
    record = folder.path / f"worker-{spawn.process.pid}.json"
    was_recorded = record.exists()
    code = await spawn.close(30)
    log.close()

    assert was_recorded
    assert code == -15
    assert not record.exists()
    assert list(folder.path.glob("*.sock")) == []
    assert not await spawn.client.is_healthy(1)


async def test_cancelled_close_leaves_nothing(folder: RunFolder, log: WorkerLog) -> None:
    """Cancelling a close skips no part of it."""
    spawn = await _start(folder, log, "/bin/sh", "-c", "trap '' TERM; echo here; while :; do sleep 3600; done")
    await eventually(log.tail)
    closing = tasks.start(spawn.close(3600), "close")
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    log.close()

    assert closing.cancelled()
    assert not psutil.pid_exists(spawn.process.pid)
    assert list(folder.path.glob("worker-*")) == []
    assert list(folder.path.glob("*.sock")) == []
    await eventually(lambda: not any("exit of" in task.get_name() for task in asyncio.all_tasks()))


async def test_record_that_cannot_be_written(folder: RunFolder, log: WorkerLog) -> None:
    """A process that cannot be recorded is ended."""
    folder.path = folder.path / "gone"
    endpoint = TcpEndpoint(1)
    with pytest.raises(OSError, match="No such file"):
        await Spawn.start(
            _WAITS,
            env=worker_environment({}, "key"),
            client=WorkerClient(endpoint, "key"),
            endpoint=endpoint,
            log=log,
            folder=folder,
            on_exit=lambda: None,
        )
    log.close()

    assert psutil.Process().children(recursive=True) == []


async def test_cpu_tells_who_computes(folder: RunFolder, log: WorkerLog) -> None:
    """The CPU time of a process that computes grows; that of one that sleeps does not."""
    busy = await _start(folder, log, sys.executable, "-c", "print('here', flush=True)\nwhile True: pass")
    idle = await _start(folder, log, *_WAITS)
    try:
        await eventually(lambda: busy.cpu_s() > 0.2)
        idle_s = idle.cpu_s()
    finally:
        await busy.close(0)
        await idle.close(0)
        log.close()

    assert idle_s < 0.1
    assert busy.cpu_s() == 0, "of a process that is gone"


async def test_output_is_a_sign_of_life(folder: RunFolder, log: WorkerLog) -> None:
    """The signs of a loading process move with its output, and stand still without."""
    spawn = await _start(folder, log, *_WAITS)
    try:
        await eventually(lambda: log.tail() == ["here"] and spawn.load_signs() == spawn.load_signs())
        before = spawn.load_signs()
        log.write(b".")
        after = spawn.load_signs()
    finally:
        await spawn.close(0)
        log.close()

    assert before != after


def test_describe_endpoint() -> None:
    """An endpoint reads as a path or as an address."""
    assert describe_endpoint(UnixEndpoint(Path("/run/a.sock"))) == "/run/a.sock"
    assert describe_endpoint(TcpEndpoint(8080)) == "127.0.0.1:8080"


def test_free_port() -> None:
    """A free port can be bound."""
    assert 0 < free_port() < 65536
