"""All engines of one gateway: started together, looked up by name, exchanged one by one, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from hugind.supervisor.engine import Engine


@dataclass(frozen=True)
class Residency:
    """What the fleet knows of an engine's place in memory, as programs see it."""

    is_loaded: bool
    """It has processes: ready, loading or ending."""
    refs: int
    """Requests that need it just now, waiting ones included."""
    expires_at: float | None
    """Unix seconds; None: it stays, or is in use."""
    ram_bytes: int
    """By estimate, as it was or would be loaded."""
    vram_bytes: int
    is_pinned: bool
    load_s: float | None
    """How long its last load took, from its processes' start until it was ready."""


class Use:
    """Somebody needs an engine: until `end` it is loaded, or on its way. Made by `Fleet.use`."""

    def __init__(self, fleet: Fleet, engine: Engine) -> None:
        self.engine = engine
        self._fleet = fleet

    def end(self) -> None:
        """It is needed no more. Safe to call twice."""


class Fleet:
    """Runs engines. An async context manager: the engines live inside it, and are gone when it is left."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = dict(engines)
        self._group = asyncio.TaskGroup()
        self._exchange = asyncio.Lock()
        self._is_ending = False

    async def __aenter__(self) -> Fleet:
        await self._group.__aenter__()
        for engine in self.engines.values():
            self._start(engine)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        for engine in self.engines.values():
            engine.stop()
        await self._group.__aexit__(kind, error, trace)

    async def exchange(self, wanted: Mapping[str, Engine]) -> None:
        """Make `wanted` the engines; those that are there already go on undisturbed.

        Their names hold at once, so that requests wait for what is coming. What leaves is drained and ended before
        anything starts: the machine may have room for only one of two. Returns when the new ones are starting.
        """
        async with self._exchange:
            leaving = [engine for name, engine in self.engines.items() if wanted.get(name) is not engine]
            arriving = [engine for name, engine in wanted.items() if self.engines.get(name) is not engine]
            self.engines = dict(wanted)
            for engine in leaving:
                engine.stop()
            for engine in leaving:
                await engine.ended()
            for engine in arriving:
                if not self._is_ending:
                    self._start(engine)

    def _start(self, engine: Engine) -> None:
        self._group.create_task(engine.run(), name=f"engine {engine.name}")

    def use(self, engine: Engine, keep_alive_s: float | None = None) -> Use:
        """Need an engine from now on, until the use is ended; it is loaded if it is not. Does not wait for that.

        `keep_alive_s`: how long it stays after that unless somebody else says so; None: as the fleet has it.
        """
        return Use(self, engine)

    def residency(self, engine: Engine) -> Residency:
        """How an engine stands."""
        is_loaded = engine.state not in ("unloaded", "stopped", "failed")
        return Residency(is_loaded, 0, None, 0, 0, is_pinned=False, load_s=None)

    @property
    def is_ready(self) -> bool:
        """Whether every engine can serve."""
        return all(engine.state == "ready" for engine in self.engines.values())
