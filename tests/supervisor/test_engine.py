"""Several workers as one engine, on the stand-in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from hugind.supervisor import tasks
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker, WorkerState
from tests.eventually import eventually
from tests.supervisor.watched import quick_config

Run = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture
def run(tmp_path: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> Run:
    """Runs an engine of two workers with faults, for the length of a block."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")

    @asynccontextmanager
    async def run(*flags: str, **keys: object) -> AsyncIterator[Engine]:
        data = quick_config(model, *flags).model_dump()
        data["server"]["concurrency"] = 2
        data["engine"].update(keys)
        engine = Engine("tiny", Config.model_validate(data), standin, home, folder)
        task = tasks.start(engine.run(), "engine under test")
        try:
            yield engine
        finally:
            engine.stop()
            async with asyncio.timeout(30):
                await task

    return run


async def test_all_workers_run(run: Run) -> None:
    """Each worker is a process of its own; the engine ends when all have ended."""
    async with run() as engine:
        before = engine.state
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})
        status = engine.status()
    pids = [worker.pid for worker in status.workers]

    assert before == "stopped"
    assert (status.name, status.state, status.task, status.reason) == ("tiny", "ready", "chat", None)
    assert status.binary.startswith("native: ")
    assert len(set(pids)) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert engine.state == "stopped"


async def test_one_worker_is_enough(run: Run) -> None:
    """An engine is ready while any of its workers is."""
    async with run(backoff_s=3600, backoff_max_s=3600) as engine:
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})
        os.kill(engine.status().workers[0].pid or 0, signal.SIGKILL)
        await eventually(lambda: engine.workers[0].restarts)
        state, reason = engine.state, engine.reason

    assert state == "ready"
    assert reason == "llama-server died by SIGKILL"


async def test_loading(run: Run) -> None:
    """An engine loads while a worker may yet become ready."""
    async with run("--slow-load", "3600") as engine:
        await eventually(lambda: engine.state != "stopped")
        state = engine.state

    assert state == "loading"


async def test_failed(run: Run) -> None:
    """An engine has failed when all of its workers have, for their reason."""
    async with run("--fail-start", "error: no memory") as engine:
        await eventually(lambda: engine.state == "failed")
        reason = engine.reason

    assert "error: no memory" in str(reason)


async def test_restart(run: Run) -> None:
    """A restart replaces all workers."""
    async with run() as engine:
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})
        before = {worker.pid for worker in engine.status().workers}
        engine.restart()
        await eventually(
            lambda: (
                all(worker.pid not in {None, *before} for worker in engine.status().workers)
                and {worker.state for worker in engine.workers} == {WorkerState.READY}
            )
        )


async def test_unload_and_load(run: Run) -> None:
    """All workers go and come together; meanwhile it is unloaded, not stopped."""
    async with run() as engine:
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})
        engine.workers[1].enter()
        engine.unload()
        await eventually(lambda: engine.workers[0].state is WorkerState.STOPPED)
        leaving = engine.state
        engine.workers[1].leave()
        await eventually(lambda: engine.state == "unloaded")
        engine.load()
        coming = engine.state
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})
        engine.unload()
        await eventually(lambda: engine.state == "unloaded")
        engine.stop()
        await engine.ended()

    assert (leaving, coming, engine.state) == ("draining", "loading", "stopped")


async def test_unload_while_loading(run: Run) -> None:
    """It is not loading any more, though its processes are not gone yet."""
    async with run("--slow-load", "3600") as engine:
        await eventually(lambda: engine.state == "loading")
        engine.unload()
        state = engine.state
        await eventually(lambda: engine.state == "unloaded")

    assert state == "draining"


async def test_refused(run: Run) -> None:
    """One that may not be loaded has failed, for the reason given, until somebody asks again."""
    async with run() as engine:
        heard: list[str] = []
        engine.unload()
        await eventually(lambda: engine.state == "unloaded")
        engine.listen(lambda _: heard.append(engine.state))
        engine.refuse("there is no room")
        told = engine.state, engine.reason
        engine.unload()
        cleared = engine.state
        engine.refuse("there is no room")
        engine.restart()

        assert ("unloaded", None) == (engine.state, engine.reason)
    assert told == ("failed", "there is no room")
    assert cleared == "unloaded"
    assert heard[0] == "failed"


async def test_listeners(run: Run) -> None:
    """Every listener hears of every move of every worker."""
    heard: list[list[tuple[int, str]]] = [[], []]
    async with run() as engine:
        engine.listen(lambda worker: heard[0].append((worker.index, worker.state.value)))
        engine.listen(lambda worker: heard[1].append((worker.index, worker.state.value)))
        await eventually(lambda: {worker.state for worker in engine.workers} == {WorkerState.READY})

    assert heard[0] == heard[1]
    for index in (0, 1):
        states = [state for at, state in heard[0] if at == index]
        assert states == ["starting", "ready", "draining", "stopped"]


async def test_last_saves_that_break(run: Run) -> None:
    """They are told in the log, and are no failure of the engine."""
    heard: set[WorkerState] = set()

    async def break_down(worker: Worker, spawn: Spawn) -> None:
        raise LookupError(worker.name)

    async with run() as engine:
        engine.before_end = break_down
        engine.listen(lambda worker: heard.add(worker.state))
        await eventually(lambda: all(worker.state is WorkerState.READY for worker in engine.workers))
        engine.unload()
        await eventually(lambda: engine.state == "unloaded")

    assert WorkerState.FAILED not in heard
