"""One config's workers, as one thing that is loading, ready or failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugind.supervisor.config import Config
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker, WorkerState, WorkerStatus


@dataclass(frozen=True)
class EngineStatus:
    """An engine as programs see it."""

    name: str
    state: str
    """ready (at least one worker is), loading, draining, failed or stopped."""
    task: str
    reason: str | None
    binary: str
    workers: list[WorkerStatus]


class Engine:
    """The workers of one config. Lives as long as the fleet that awaits `run`."""

    def __init__(
        self,
        name: str,
        config: Config,
        binary: EngineBinary,
        home: Home,
        folder: RunFolder,
        slot_folder: Path | None = None,
    ) -> None:
        """`slot_folder`: where its workers write slot files; a private one that exists. None: one of the home's."""
        self.name = name
        self.config = config
        self.binary = binary
        self.home = home
        self.other_names: tuple[str, ...] = ()
        """What else people may call it: the repository that its model came from, and the like."""
        self.before_end: Callable[[Worker, Spawn], Coroutine[Any, Any, None]] | None = None
        """Called with each worker that has drained and is about to be ended: the last moment to save something."""
        self.workers = [
            Worker(name, index, config, binary, home, folder, self._worker_changed, slot_folder, self._say_goodbye)
            for index in range(config.server.concurrency)
        ]
        self._listeners: list[Callable[[Worker], None]] = []
        self._ended = asyncio.Event()

    @property
    def state(self) -> str:
        """ready when any worker is; failed when none is left that could become so."""
        states = {worker.state for worker in self.workers}
        if WorkerState.READY in states:
            return "ready"
        if states & {WorkerState.STARTING, WorkerState.BACKOFF}:
            return "loading"
        return next((s.value for s in (WorkerState.FAILED, WorkerState.DRAINING) if s in states), "stopped")

    @property
    def reason(self) -> str | None:
        """Why it is not ready, in the engine's own words where there are any."""
        return next((worker.reason for worker in self.workers if worker.reason), None)

    def status(self) -> EngineStatus:
        """A value for programs and people."""
        return EngineStatus(
            name=self.name,
            state=self.state,
            task=self.config.model.task,
            reason=self.reason,
            binary=f"{self.binary.kind}: {self.binary.build}",
            workers=[worker.status() for worker in self.workers],
        )

    def listen(self, listener: Callable[[Worker], None]) -> None:
        """Call `listener` after every move of a worker's state, for as long as the engine lives."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep all workers alive until `stop`; returns when they are gone."""
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self.workers:
                    group.create_task(worker.run(), name=f"worker {self.name}/{worker.index}")
        finally:
            self._ended.set()

    @property
    def has_ended(self) -> bool:
        """`run` is over: it will never serve again. One that has not run yet may still come."""
        return self._ended.is_set()

    async def ended(self) -> None:
        """Wait until `run` is over."""
        await self._ended.wait()

    def stop(self) -> None:
        """Ask all workers to drain and end."""
        for worker in self.workers:
            worker.stop()

    def restart(self) -> None:
        """Ask all workers for a fresh process."""
        for worker in self.workers:
            worker.restart()

    async def _say_goodbye(self, worker: Worker, spawn: Spawn) -> None:
        if self.before_end is not None:
            await self.before_end(worker, spawn)

    def _worker_changed(self, worker: Worker) -> None:
        for listener in self._listeners:
            listener(worker)
