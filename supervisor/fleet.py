"""All engines of one gateway: started together, looked up by name, exchanged one by one, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

from hugind.supervisor.engine import Engine


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

    @property
    def is_ready(self) -> bool:
        """Whether every engine can serve."""
        return all(engine.state == "ready" for engine in self.engines.values())
