"""How long somebody waits at most, and what others see of it."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Literal

from hugind.proxy.queue import Asker
from hugind.supervisor.config import LimitsSection

WaitsFor = Literal["slot", "session", "loading"]
"""For a place, for an earlier turn of the same session, or for an engine that is not ready."""


class Patience:
    """Ends the block that it surrounds with a `TimeoutError`, by two clocks of which one runs at a time.

    `limits.max_wait_s` while the engine is ready, `limits.max_load_wait_s` while it is not. Neither begins anew: an
    engine that goes and comes does not keep anybody waiting for longer than both together.
    """

    def __init__(self, limits: LimitsSection, *, is_ready: bool) -> None:
        """To be made inside a running loop, and entered at once."""
        self.is_ready = is_ready
        self._left_s = {True: limits.max_wait_s, False: limits.max_load_wait_s}
        self._loop = asyncio.get_running_loop()
        self._turned_at = self._loop.time()
        self._timeout = asyncio.timeout(self._left_s[is_ready])

    async def __aenter__(self) -> Patience:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)

    def turn(self, *, is_ready: bool) -> None:
        """The engine became ready, or is not any more: the other clock runs. Only inside the block."""
        if is_ready == self.is_ready or self._timeout.expired():
            return
        now = self._loop.time()
        self._left_s[self.is_ready] -= now - self._turned_at
        self.is_ready, self._turned_at = is_ready, now
        self._timeout.reschedule(now + max(self._left_s[is_ready], 0))


def describe(asker: Asker, session: str | None, since: float) -> dict[str, Any]:
    """Who it is, for programs. `since`: monotonic seconds."""
    return {
        "request_id": asker.request_id,
        "user": asker.flow.user,
        "end_user": asker.flow.end_user,
        "session": session,
        "since_s": round(time.monotonic() - since, 3),
        "priority": asker.band,
    }
