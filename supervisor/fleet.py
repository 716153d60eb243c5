"""All engines of one gateway: started together, looked up by name, ended together."""

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

    async def __aenter__(self) -> Fleet:
        await self._group.__aenter__()
        for engine in self.engines.values():
            self._group.create_task(engine.run(), name=f"engine {engine.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self.engines.values():
            engine.stop()
        await self._group.__aexit__(kind, error, trace)

    @property
    def is_ready(self) -> bool:
        """Whether every engine can serve."""
        return all(engine.state == "ready" for engine in self.engines.values())
