"""Slots on loan: one turn at a time on each, waited for in order, given back clean."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from hugind.proxy.errors import ApiError
from hugind.proxy.queue import Grant, Place, SlotQueue
from hugind.proxy.sessions.slots import Wish
from hugind.supervisor import tasks
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker, WorkerState

SETTLE_FIRST_LOOK_S = 0.01
SETTLE_SLOWEST_LOOK_S = 0.5
SETTLE_TIMEOUT_S = 5
NOTICE_TIMEOUT_S = 1
"""A worker that cannot be reached has mostly just died; its supervision knows within milliseconds."""
RETRY_AFTER_S = 5

logger = logging.getLogger(__name__)


class Host(Protocol):
    """Knows what is in the slots: decides who sits where, and hears of every change."""

    def choose(self, wish: Wish | None, free: Collection[Place[Spawn]]) -> Place[Spawn] | None:
        """A place for a turn, which has it from now on; None: better wait for another. `free` may be empty."""

    async def prepare(self, spawn: Spawn) -> None:
        """Something to do on a fresh worker before its slots are lent."""

    def joined(self, spawn: Spawn, slots: int) -> None:
        """The slots of a fresh worker are there now."""

    def left(self, spawn: Spawn) -> None:
        """A worker lends no more slots; those on lease are given back later."""

    def freed(self, place: Place[Spawn], *, is_turn: bool) -> None:
        """A place was given back. `is_turn`: by a turn, not by housekeeping."""


class AnySlot:
    """The host of an engine without sessions: any slot of the idlest worker."""

    def choose(self, wish: Wish | None, free: Collection[Place[Spawn]]) -> Place[Spawn] | None:
        """A free slot of the worker that has most of them."""
        crowd = Counter(place.worker for place in free)
        return max(free, key=lambda place: crowd[place.worker], default=None)

    async def prepare(self, spawn: Spawn) -> None:
        """Nothing."""

    def joined(self, spawn: Spawn, slots: int) -> None:
        """Nothing."""

    def left(self, spawn: Spawn) -> None:
        """Nothing."""

    def freed(self, place: Place[Spawn], *, is_turn: bool) -> None:
        """Nothing."""


@dataclass(eq=False)
class _Ticket:
    """Somebody who waits for a place."""

    wish: Wish | None
    place: asyncio.Future[Place[Spawn]] = field(default_factory=asyncio.Future)


@dataclass(frozen=True)
class Lease:
    """The right to run one turn on one slot. Lives from `Leases.acquire` to `Leases.release`."""

    worker: Worker
    place: Place[Spawn]
    is_turn: bool = True
    """False: housekeeping, that turns need not wait for."""

    @property
    def spawn(self) -> Spawn:
        """The life of the worker that the slot belongs to."""
        return self.place.worker

    @property
    def slot(self) -> int:
        """llama-server's `id_slot`, always within 0..N-1: it takes ids modulo N."""
        return self.place.slot


class Leases:
    """The slots of one engine. Lives as long as the gateway; `aclose` ends what is still being settled."""

    def __init__(self, engine: Engine, host: Host | None = None) -> None:
        self._engine = engine
        self._host = host or AnySlot()
        self._queue: SlotQueue[Spawn, _Ticket] = SlotQueue(engine.config.limits.max_queue, self._choose)
        self._workers: dict[Spawn, Worker] = {}
        """The ready and prepared ones, by their current life."""
        self._preparing: dict[Spawn, asyncio.Task[None]] = {}
        self._waiting: set[_Ticket] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        engine.listen(self._worker_changed)

    @property
    def waiting(self) -> int:
        """Turns that wait for a slot."""
        return self._queue.waiting

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self._queue.free

    async def acquire(self, wish: Wish | None = None) -> Lease:
        """Wait for a slot, first come first served.

        Raises:
            ApiError: 503 when the engine failed, too many wait, or the wait took `limits.max_wait_s`.
        """
        while True:
            place = await self._place(wish)
            if worker := self._workers.get(place.worker):
                worker.enter()
                return Lease(worker, place)

    def take(self, place: Place[Spawn]) -> Lease | None:
        """A lease for housekeeping, if the place is free. Turns that want it wait; `release` it soon."""
        worker = self._workers.get(place.worker)
        if worker is None or not self._queue.take(place):
            return None
        worker.enter()
        return Lease(worker, place, is_turn=False)

    def is_quiet(self, spawn: Spawn) -> bool:
        """Whether no turn runs on the worker."""
        return spawn in self._workers and self._queue.is_idle(spawn, self._engine.config.server.max_slots)

    async def ready_spawn(self) -> Spawn:
        """Any ready worker, for requests that need no slot. Waits while the engine loads.

        Raises:
            ApiError: as `acquire`.
        """
        if self._workers:
            return next(iter(self._workers))
        lease = await self.acquire()
        self.release(lease)
        return lease.spawn

    def release(self, lease: Lease, *, aborted: bool = False, quiet_s: float = 0) -> None:
        """Give the slot back. After an `aborted` turn it is lent again only when the engine says that it is idle.

        `quiet_s`: how long it must have been idle, unless it was found at work before.
        """
        if aborted:
            task = tasks.start(self._settle(lease, quiet_s), f"settle {self._engine.name}")
            self._settling.add(task)
            # Not in the task's own `finally`: one that is cancelled before it began would never come to it.
            task.add_done_callback(partial(self._settled, lease))
        else:
            self._give_back(lease)

    async def until_gone(self, spawn: Spawn) -> None:
        """Wait until a worker that could not be reached is known to be gone; but not for long, it may live."""
        try:
            async with asyncio.timeout(NOTICE_TIMEOUT_S):
                while spawn in self._workers:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        """End what is being settled and prepared."""
        for task in [*self._settling, *self._preparing.values()]:
            await tasks.cancel(task)

    def _choose(self, ticket: _Ticket, free: Collection[Place[Spawn]]) -> Place[Spawn] | None:
        return self._host.choose(ticket.wish, free)

    async def _place(self, wish: Wish | None) -> Place[Spawn]:
        if self._engine.state == "failed" or self._engine.has_ended:
            raise self._failure()
        ticket = _Ticket(wish)
        try:
            return self._queue.ask(ticket) or await self._wait(ticket)
        except OverflowError as error:
            raise ApiError(
                503, f"'{self._engine.name}' is busy: {error}", code="queue_full", retry_after_s=RETRY_AFTER_S
            ) from None

    async def _wait(self, ticket: _Ticket) -> Place[Spawn]:
        self._waiting.add(ticket)
        limit_s = self._engine.config.limits.max_wait_s
        try:
            async with asyncio.timeout(limit_s):
                return await ticket.place
        except TimeoutError:
            if _was_granted(ticket):
                return ticket.place.result()
            reason = f" ({self._engine.reason})" if self._engine.reason else ""
            raise ApiError(
                503,
                f"'{self._engine.name}' had no free slot for {limit_s:g} s{reason}",
                code="queue_timeout",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except asyncio.CancelledError:
            if _was_granted(ticket):  # in the same moment: nobody will use it
                self._free(ticket.place.result(), is_turn=True)
            raise
        finally:
            self._waiting.discard(ticket)
            self._queue.withdraw(ticket)

    async def _settle(self, lease: Lease, quiet_s: float) -> None:
        """Wait until the engine has noticed that nobody listens; at a batch boundary, so it may take seconds."""
        quiet_until = time.monotonic() + quiet_s
        pause_s = SETTLE_FIRST_LOOK_S
        while lease.spawn in self._workers:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, SETTLE_SLOWEST_LOOK_S)
            try:
                slots = await lease.spawn.client.slots(SETTLE_TIMEOUT_S)
            except WorkerUnreachable:
                continue  # its supervision notices too, and replaces it
            if any(slot.is_processing for slot in slots if slot.id == lease.slot):
                quiet_until = 0
            elif time.monotonic() >= quiet_until:
                break

    def _settled(self, lease: Lease, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        lease.worker.leave()
        self._free(lease.place, is_turn=lease.is_turn)

    def _free(self, place: Place[Spawn], *, is_turn: bool) -> None:
        self._host.freed(place, is_turn=is_turn)
        self._pass_on(self._queue.release(place))

    def _pass_on(self, grants: list[Grant[Spawn, _Ticket]]) -> None:
        """Hand places to their tickets; back to the queue where nobody waits behind one any more."""
        for grant in grants:
            if grant.ticket.place.done():
                self._free(grant.place, is_turn=True)
            else:
                grant.ticket.place.set_result(grant.place)

    def _worker_changed(self, worker: Worker) -> None:
        self._changed.set()
        for lost in [s for s, w in self._workers.items() if w is worker]:
            if worker.state is not WorkerState.READY or worker.spawn is not lost:
                del self._workers[lost]
                self._host.left(lost)
                self._pass_on(self._queue.remove_worker(lost))
        spawn = worker.spawn
        if worker.state is WorkerState.READY and spawn and spawn not in self._workers and spawn not in self._preparing:
            self._preparing[spawn] = task = tasks.start(self._prepare(worker, spawn), f"prepare {self._engine.name}")
            task.add_done_callback(lambda _: self._preparing.pop(spawn, None))
        if self._engine.state in ("failed", "stopped"):
            for ticket in list(self._waiting):
                if not ticket.place.done():
                    ticket.place.set_exception(self._failure())

    async def _prepare(self, worker: Worker, spawn: Spawn) -> None:
        worker.enter()
        try:
            await self._host.prepare(spawn)
        except WorkerUnreachable as error:
            logger.warning("%s/%d: not prepared: %s", self._engine.name, worker.index, error.message)
        except Exception:
            # What is done there makes turns faster; without it they are still served.
            logger.exception("%s/%d: preparing broke", self._engine.name, worker.index)
        finally:
            worker.leave()
        if worker.state is WorkerState.READY and worker.spawn is spawn:
            slots = self._engine.config.server.max_slots
            self._workers[spawn] = worker
            self._host.joined(spawn, slots)
            self._pass_on(self._queue.add_worker(spawn, slots))

    def _failure(self) -> ApiError:
        if self._engine.state == "failed":
            return ApiError(503, f"'{self._engine.name}' cannot serve: {self._engine.reason}", code="engine_failed")
        return ApiError(503, f"'{self._engine.name}' has just been stopped", code="engine_stopped", retry_after_s=1)


def _was_granted(ticket: _Ticket) -> bool:
    future = ticket.place
    return future.done() and not future.cancelled() and future.exception() is None
