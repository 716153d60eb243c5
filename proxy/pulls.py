"""Models on their way from the hub to this machine: one download however many wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hugind.supervisor import tasks
from hugind.supervisor.models.download import download
from hugind.supervisor.models.download_plan import Plan
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.repository import Reference
from hugind.supervisor.paths import Home

AT_ONCE = 4
"""Models fetched at the same time; more wait."""


@dataclass(frozen=True)
class Step:
    """How far one file is."""

    name: str
    sha256: str | None
    done: int
    total: int


@dataclass
class _Pull:
    """One download. Ends when all who waited for it have left."""

    task: asyncio.Task[list[Path]]
    cancelled: threading.Event
    followers: int = 0
    steps: dict[str, Step] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, step: Step) -> None:
        self.steps[step.name] = step
        self.wake()

    def ended(self, task: asyncio.Task[list[Path]]) -> None:
        if not task.cancelled():
            task.exception()  # perhaps nobody is left to hear of it
        self.wake()

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Pulls:
    """Lives as long as the gateway's routes. Those who follow own the downloads: the last one to leave ends it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._running: dict[Plan, _Pull] = {}
        # Of its own: a download may take hours, and everything else shares asyncio's few threads.
        self._threads = ThreadPoolExecutor(AT_ONCE, "pull")

    async def plan(self, reference: Reference, hub: Hub) -> Plan:
        """What would be fetched.

        Raises:
            DownloadError: the hub has no such thing, or cannot be asked.
        """
        return await asyncio.to_thread(hub.plan, reference)

    async def follow(self, wanted: Plan, hub: Hub) -> AsyncGenerator[Step, None]:
        """Fetch what is planned, or join those who do; how far it is, until it is there. To be closed by who leaves.

        Raises:
            DownloadError: it was not fetched.
        """
        pull = self._running.get(wanted) or self._start(wanted, hub)
        pull.followers += 1
        told: dict[str, Step] = {}
        try:
            while True:
                changed, is_done = pull.changed, pull.task.done()
                for name, step in list(pull.steps.items()):
                    if told.get(name) != step:
                        told[name] = step
                        yield step
                if is_done:
                    break
                await changed.wait()
            await pull.task
        finally:
            pull.followers -= 1
            if not pull.followers:
                await self._end(wanted, pull)

    def _start(self, wanted: Plan, hub: Hub) -> _Pull:
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()

        def tell(name: str, sha256: str | None, done: int, total: int) -> None:
            loop.call_soon_threadsafe(pull.note, Step(name, sha256, done, total))

        async def fetch() -> list[Path]:
            return await loop.run_in_executor(self._threads, download, wanted, self._home, hub, tell, cancelled)

        pull = self._running[wanted] = _Pull(tasks.start(fetch(), f"pull {wanted.user}/{wanted.repo}"), cancelled)
        pull.task.add_done_callback(pull.ended)
        return pull

    async def _end(self, wanted: Plan, pull: _Pull) -> None:
        """Nobody waits any more. Its thread ends soon: not before the network says something, or is silent too long."""
        if self._running.get(wanted) is pull:
            del self._running[wanted]
        pull.cancelled.set()
        await asyncio.wait([pull.task])
