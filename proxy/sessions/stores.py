"""The stores of a gateway: one for each engine that holds sessions, open from its first config until the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from hugind.proxy.sessions.scribe import Scribe
from hugind.proxy.sessions.store import Store
from hugind.supervisor import tasks
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.paths import Home


@dataclass(frozen=True)
class Shelf:
    """A store, and who writes it down."""

    store: Store
    scribe: Scribe


class Stores:
    """An async context manager: inside it, what is noted is written down; on leaving, everything is."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._shelves: dict[str, Shelf] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_running = False

    def open(self, name: str, settings: SessionsSection) -> Shelf:
        """The store of an engine; one that is open already takes on the settings. Blocks on the disk.

        Raises:
            ConfigError: the settings cannot be kept on this machine.
        """
        shelf = self._shelves.get(name)
        if shelf is None:
            store = Store(name, self._home, settings)
            shelf = self._shelves[name] = Shelf(store, Scribe(store))
        shelf.store.use(settings)
        return shelf

    def shelf(self, name: str) -> Shelf:
        """The store of an engine, which was opened; from now on it is written down."""
        shelf = self._shelves[name]
        if self._is_running:
            self._start(name, shelf)
        return shelf

    async def __aenter__(self) -> Stores:
        self._is_running = True
        for name, shelf in self._shelves.items():
            self._start(name, shelf)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, shelf in self._shelves.items():
            if name in self._tasks:
                await tasks.cancel(self._tasks.pop(name))
            await shelf.scribe.flush()
            await asyncio.to_thread(shelf.store.close)

    def _start(self, name: str, shelf: Shelf) -> None:
        if name not in self._tasks:
            self._tasks[name] = tasks.start(shelf.scribe.run(), f"scribe of {name}")
