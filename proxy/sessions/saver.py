"""When is a slot saved? Right after the reply, while nobody uses its worker; and at the latest when that ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hugind.proxy.leases import Leases
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.slots import Seat, SlotTable
from hugind.proxy.sessions.vault import Vault
from hugind.supervisor import tasks
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.spawn import Spawn

logger = logging.getLogger(__name__)

HOLD_BACK_S = 15
"""A save waits so long for a moment in which no neighbour streams: they would be held up. Longer, and a crash of a
worker that is always busy would cost more than the last turn."""


class Saver:
    """Saves the idle slots of one worker. Lives from when its slots are lent until it has been told to stop."""

    def __init__(
        self,
        spawn: Spawn,
        leases: Leases,
        table: SlotTable[Spawn],
        vault: Vault,
        policy: Policy,
        session_of: Callable[[Seat], Session | None],
        on_end: Callable[[], object],
        *,
        hold_back_s: float = HOLD_BACK_S,
    ) -> None:
        self._spawn = spawn
        self._leases = leases
        self._table = table
        self._vault = vault
        self._policy = policy
        self._session_of = session_of
        self._hold_back_s = hold_back_s
        self._woken = asyncio.Event()
        self._is_stopped = False
        self._task = tasks.start(self._run(), f"save idle slots of {spawn.process.pid}")
        self._task.add_done_callback(lambda _: on_end())

    def wake(self) -> None:
        """A turn ended."""
        self._woken.set()

    def stop(self) -> None:
        """No more saves after the one that runs."""
        self._is_stopped = True
        self._woken.set()

    async def aclose(self) -> None:
        """End it."""
        await tasks.cancel(self._task)

    async def _run(self) -> None:
        is_all = True
        while not self._is_stopped:
            try:
                async with asyncio.timeout(None if is_all else self._hold_back_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if not self._is_stopped:
                is_all = await self._save_idle()

    async def _save_idle(self) -> bool:
        """False: something is held back."""
        is_all = True
        for place in self._table.places(self._spawn):
            if self._is_stopped:
                break
            seat = self._table[place]
            session = self._session_of(seat)
            if session is None or not seat.is_dirty or seat.has_failed or not self._policy.is_worth_saving(seat.tokens):
                continue
            is_overdue = time.monotonic() - seat.used_at > self._hold_back_s
            may_save = is_overdue or self._leases.is_quiet(self._spawn)
            lease = self._leases.take(place) if may_save else None
            if lease is None:
                is_all = False
                continue
            try:
                await self._vault.save(place, session)
            except WorkerUnreachable as error:
                logger.warning("not saved: %s", error.message)
                return True
            except Exception:
                # A bug that one session meets must not end the saving of the others, nor of every later turn.
                logger.exception("saving session %s broke", session.id)
                seat.has_failed = True
            finally:
                self._leases.release(lease)
        return is_all
