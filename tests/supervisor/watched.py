"""A worker that runs, and what its listeners heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hugind.supervisor import tasks
from hugind.supervisor.config import Config
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker, WorkerState
from tests.eventually import eventually

QUICK = {
    "probe_interval_s": 0.1,
    "probe_timeout_s": 0.3,
    "probe_failures": 3,
    "load_stall_s": 20.0,
    "drain_s": 5.0,
    "stop_s": 5.0,
    "backoff_s": 0.01,
}
"""An engine section that notices everything soon."""


def quick_config(model: Path, *flags: str, slots: int = 2, ctx_size: int = 256, **engine: Any) -> Config:
    """A config for `model` with further `flags` for the binary and keys for the engine section."""
    return Config.model_validate(
        {
            "model": {"model_path": str(model)},
            "context": {"ctx_size": ctx_size},
            "server": {"max_slots": slots},
            "engine": {**QUICK, "extra_args": flags, **engine},
        }
    )


@dataclass(frozen=True)
class Move:
    """What a listener heard, and in which task it was told."""

    state: WorkerState
    reason: str | None
    task: asyncio.Task[Any] | None


class Watched:
    """Runs a worker between entry and exit; leaving stops it and waits until it is gone."""

    def __init__(
        self, config: Config, binary: EngineBinary, home: Home, folder: RunFolder, name: str = "tiny", index: int = 0
    ) -> None:
        self.moves: list[Move] = []
        self.worker = Worker(name, index, config, binary, home, folder, self._hear)
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Watched:
        self.task = tasks.start(self.worker.run(), "worker under test")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.stop()
        try:
            async with asyncio.timeout(30):
                await self.task
        except asyncio.CancelledError:
            if not self.task.cancelled():
                raise

    @property
    def states(self) -> list[str]:
        """Every state it moved to, in order."""
        return [move.state.value for move in self.moves]

    @property
    def spawn(self) -> Spawn:
        """The life that it has now."""
        assert self.worker.spawn is not None
        return self.worker.spawn

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.spawn.process.pid

    async def reaches(self, state: WorkerState, timeout_s: float = 30) -> None:
        """Wait until it is in `state`."""
        await eventually(lambda: self.worker.state is state, timeout_s)

    async def gets_ready(self) -> int:
        """Wait until it is ready. Its pid."""
        await self.reaches(WorkerState.READY)
        return self.pid

    async def is_replaced(self, pid: int) -> int:
        """Wait until another process than `pid` is ready. The new pid."""
        await eventually(
            lambda: self.worker.state is WorkerState.READY and self.worker.spawn and self.pid != pid, timeout_s=30
        )
        return self.pid

    def log(self) -> str:
        """Its whole log."""
        return Path(self.worker.status().log).read_text(encoding="utf-8")

    def _hear(self, worker: Worker) -> None:
        self.moves.append(Move(worker.state, worker.reason, asyncio.current_task()))
