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
from hugind.supervisor.watch import Stock
from hugind.supervisor.worker import Worker, WorkerState, WorkerStatus


@dataclass(frozen=True)
class EngineStatus:
    """An engine as programs see it."""

    name: str
    state: str
    """ready (at least one worker is), loading, draining, unloaded (it comes when asked), failed or stopped."""
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
        self.files: Stock = frozenset()
        """Its files as they were when it was made."""
        self.before_end: Callable[[Worker, Spawn], Coroutine[Any, Any, None]] | None = None
        """Called with each worker that has drained and is about to be ended: the last moment to save something."""
        self.workers = [
            Worker(name, index, config, binary, home, folder, self._worker_changed, slot_folder, self._say_goodbye)
            for index in range(config.server.concurrency)
        ]
        self.is_wanted = True
        """Whether it shall be loaded: moved by `load` and `unload`."""
        self.is_retired = False
        """Another takes its place, or none: it only finishes its turns."""
        self._refusal: str | None = None
        self._listeners: list[Callable[[Worker], None]] = []
        self._has_begun = self._is_stopping = False
        self._ended = asyncio.Event()

    @property
    def state(self) -> str:
        """ready when any worker is; failed when none is left that could become so."""
        states = {worker.state for worker in self.workers}
        if WorkerState.READY in states:
            return "ready"
        if states & {WorkerState.STARTING, WorkerState.BACKOFF}:
            return "loading" if self.is_wanted else "draining"
        if self._refusal is not None or any(worker.has_given_up for worker in self.workers):
            return "failed"
        if WorkerState.DRAINING in states:
            return "draining"
        if self._is_stopping or self.has_ended:
            return "stopped"
        if not self.is_wanted:
            return "unloaded"
        return "loading" if self._has_begun else "stopped"

    @property
    def reason(self) -> str | None:
        """Why it is not ready, in the engine's own words where there are any."""
        return self._refusal or next((worker.reason for worker in self.workers if worker.reason), None)

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

    @property
    def model_file(self) -> Path:
        """Its GGUF file, whether it is there or not."""
        return self.config.path_of(self.config.model.model_path, self.home)

    def listen(self, listener: Callable[[Worker], None]) -> None:
        """Call `listener` after every move of a worker's state, for as long as the engine lives."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep all workers alive, while they are wanted, until `stop` or `retire`; returns when they are gone."""
        self._has_begun = True
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
        """Ask all workers to drain and end, for good."""
        self._is_stopping = True
        for worker in self.workers:
            worker.stop()

    def retire(self) -> None:
        """Ask all workers to end for good, as soon as their running turns have. Who waits is told at once."""
        self._is_stopping = self.is_retired = True
        self.is_wanted = False
        for worker in self.workers:
            worker.retire()

    def restart(self) -> None:
        """Ask all workers for a fresh process, where they are wanted."""
        self._refusal = None
        for worker in self.workers:
            worker.restart()

    def unload(self) -> None:
        """Ask all workers to be gone until `load`. Running turns are waited for, and sessions are saved."""
        self.is_wanted, self._refusal = False, None
        for worker in self.workers:
            worker.unload()

    def load(self) -> None:
        """Ask all workers to be there; one that is leaving comes back after that, one that failed tries again."""
        self.is_wanted, self._refusal = True, None
        for worker in self.workers:
            worker.load()

    def refuse(self, reason: str) -> None:
        """It cannot be loaded, for a reason that is none of its own: failed, until `load` or `unload`."""
        self.unload()
        self._refusal = reason
        for worker in self.workers:
            self._worker_changed(worker)

    async def _say_goodbye(self, worker: Worker, spawn: Spawn) -> None:
        if self.before_end is not None:
            await self.before_end(worker, spawn)

    def _worker_changed(self, worker: Worker) -> None:
        for listener in self._listeners:
            listener(worker)
