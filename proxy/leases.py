"""Slots on loan: one turn at a time on each, waited for in fair order, given back clean."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from hugind.proxy.errors import ApiError
from hugind.proxy.queue import Asker, Flow, Grant, Place, PlacesFull, QueueFull, SlotQueue
from hugind.proxy.service import Pace
from hugind.proxy.sessions.slots import Wish
from hugind.proxy.waits import Patience, WaitsFor, describe
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

NOBODY = Asker(Flow(""))
"""Who asks where it is not said."""

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
    """Somebody who wants a place, or only an engine that is ready."""

    asker: Asker
    wish: Wish | None = None
    wants_place: bool = True
    granted: asyncio.Future[Place[Spawn] | None] = field(default_factory=asyncio.Future)
    """None: the engine is ready."""
    since: float = field(default_factory=time.monotonic)
    patience: Patience | None = None


@dataclass(eq=False)
class Aside:
    """Somebody who waits for an earlier turn of their session."""

    asker: Asker
    session: str
    patience: Patience
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Lease:
    """The right to run one turn on one slot. Lives from `Leases.acquire` to `Leases.release`."""

    worker: Worker
    place: Place[Spawn]
    asker: Asker = NOBODY
    session: str | None = None
    is_turn: bool = True
    """False: housekeeping, that turns need not wait for."""
    since: float = field(default_factory=time.monotonic)

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
        self._queue: SlotQueue[Spawn, _Ticket] = SlotQueue(
            engine.config.limits.max_queue,
            self._choose,
            time.monotonic,
            one_turn_each=engine.config.server.scheduling == "turns",
            push_out=self._push_out,
        )
        self._pace = Pace()
        self._workers: dict[Spawn, Worker] = {}
        """The ready and prepared ones, by their current life."""
        self._preparing: dict[Spawn, asyncio.Task[None]] = {}
        self._waiting: set[_Ticket] = set()
        self._asides: dict[Aside, None] = {}
        self._running: dict[Place[Spawn], Lease] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        engine.listen(self._worker_changed)

    @property
    def waiting(self) -> int:
        """Turns that wait for a slot, or for the engine."""
        return self._queue.waiting

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self._queue.free

    def waiting_list(self) -> list[dict[str, Any]]:
        """Who waits, for what and since when, in the order in which they would be served.

        Who waits for an earlier turn of their session has no `position` yet.
        """
        rows = []
        for position, ticket in enumerate(self._queue.order(), start=1):
            session = ticket.wish.session if ticket.wish else None
            waits_for: WaitsFor = "slot" if self._workers else "loading"
            who = describe(ticket.asker, session, ticket.since)
            rows.append({**who, "for": waits_for, "position": position})
        for aside in self._asides:
            who = describe(aside.asker, aside.session, aside.since)
            rows.append({**who, "for": "session", "position": None})
        return rows

    def running_list(self) -> list[dict[str, Any]]:
        """Who has a slot, which, and since when."""
        return [
            {**describe(lease.asker, lease.session, lease.since), "worker": lease.worker.index, "slot": lease.slot}
            for lease in self._running.values()
        ]

    async def acquire(self, wish: Wish | None = None, asker: Asker = NOBODY) -> Lease:
        """Wait for a slot, for as long as it is somebody else's turn (`queue.py`).

        Raises:
            ApiError: 503 when the engine failed, too many wait, the wait took `limits.max_wait_s`, or the engine was
                not ready for `limits.max_load_wait_s`; 429 when as many wait for the caller as may.
        """
        while True:
            place = await self._ask(_Ticket(asker, wish))
            assert place is not None
            if worker := self._workers.get(place.worker):
                worker.enter()
                lease = self._running[place] = Lease(worker, place, asker, wish.session if wish else None)
                return lease
            self._free(place, is_turn=True)

    @property
    def is_ready(self) -> bool:
        """Whether `until_ready` returns at once."""
        return bool(self._workers)

    async def until_ready(self, asker: Asker = NOBODY) -> None:
        """Wait for a worker that is ready; not for one of its slots.

        Raises:
            ApiError: as `acquire`.
        """
        while not self._workers:
            await self._ask(_Ticket(asker, wants_place=False))

    @asynccontextmanager
    async def aside(self, asker: Asker, session: str) -> AsyncIterator[Aside]:
        """Wait in the block for an earlier turn of a session: within the same bounds, and seen by others.

        Raises:
            ApiError: 429 or 503, as many wait as may.
            TimeoutError: that took too long.
        """
        try:
            self._queue.step_aside(asker)
        except OverflowError as error:
            raise self._refusal(error) from None
        patience = Patience(self._engine.config.limits, is_ready=bool(self._workers))
        aside = Aside(asker, session, patience)
        self._asides[aside] = None
        try:
            async with patience:
                yield aside
        finally:
            del self._asides[aside]
            self._queue.step_back(asker)

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

    def is_awaited(self, session: str) -> bool:
        """Whether somebody waits for a turn of a session to end, or was just told so."""
        return any(aside.session == session for aside in self._asides)

    async def ready_spawn(self, asker: Asker = NOBODY) -> Spawn:
        """Any ready worker, for requests that need no slot. Waits while the engine loads.

        Raises:
            ApiError: as `acquire`.
        """
        await self.until_ready(asker)
        return next(iter(self._workers))

    def release(
        self, lease: Lease, *, tokens: float = 0, is_all: bool = True, aborted: bool = False, quiet_s: float = 0
    ) -> None:
        """Give the slot back. After an `aborted` turn it is lent again only when the engine says that it is idle.

        `tokens`: what the turn got, cached ones left out; not `is_all`: no less than that, the engine did not tell.
        `quiet_s`: how long it must have been idle, unless it was found at work before.
        """
        if lease.is_turn:
            self._running.pop(lease.place, None)
            self._count(lease, tokens, is_all=is_all)
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
        return self._host.choose(ticket.wish, free) if ticket.wants_place else None

    async def _ask(self, ticket: _Ticket) -> Place[Spawn] | None:
        if self._is_hopeless:
            raise self._failure()
        try:
            place = self._queue.ask(ticket, ticket.asker)
        except OverflowError as error:
            raise self._refusal(error) from None
        return place or await self._wait(ticket)

    async def _wait(self, ticket: _Ticket) -> Place[Spawn] | None:
        self._waiting.add(ticket)
        ticket.patience = Patience(self._engine.config.limits, is_ready=bool(self._workers))
        try:
            async with ticket.patience:
                return await ticket.granted
        except TimeoutError:
            if _was_granted(ticket):
                return ticket.granted.result()
            raise self._too_late(ticket.patience) from None
        except asyncio.CancelledError:
            if _was_granted(ticket) and (place := ticket.granted.result()):  # in the same moment: nobody will use it
                self._free(place, is_turn=True)
            raise
        finally:
            self._waiting.discard(ticket)
            self._queue.withdraw(ticket)

    def _push_out(self, ticket: _Ticket) -> None:
        if not ticket.granted.done():
            ticket.granted.set_exception(self._refusal(QueueFull("others came, of whom fewer requests wait")))

    def _count(self, lease: Lease, tokens: float, *, is_all: bool) -> None:
        held_s = time.monotonic() - lease.since
        if is_all:
            self._pace.note(tokens, held_s)
        else:
            tokens = max(tokens, min(self._pace.estimate(held_s), lease.asker.cost))
        self._queue.settle(lease.place, tokens)

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
            if grant.ticket.granted.done():
                self._free(grant.place, is_turn=True)
            else:
                grant.ticket.granted.set_result(grant.place)

    def _worker_changed(self, worker: Worker) -> None:
        self._changed.set()
        for lost in [s for s, w in self._workers.items() if w is worker]:
            if worker.state is not WorkerState.READY or worker.spawn is not lost:
                del self._workers[lost]
                self._host.left(lost)
                self._pass_on(self._queue.remove_worker(lost))
                self._turn_clocks()
        spawn = worker.spawn
        if worker.state is WorkerState.READY and spawn and spawn not in self._workers and spawn not in self._preparing:
            self._preparing[spawn] = task = tasks.start(self._prepare(worker, spawn), f"prepare {self._engine.name}")
            task.add_done_callback(lambda _: self._preparing.pop(spawn, None))
        if self._is_hopeless or self._engine.state == "stopped":
            for ticket in list(self._waiting):
                if not ticket.granted.done():
                    ticket.granted.set_exception(self._failure())

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
            self._let_in()
            self._pass_on(self._queue.add_worker(spawn, slots))
            self._turn_clocks()

    def _let_in(self) -> None:
        """The engine is ready: who wanted no more than that waits no more, in fair order."""
        for ticket in self._queue.order():
            if not ticket.wants_place:
                self._queue.withdraw(ticket)
                if not ticket.granted.done():
                    ticket.granted.set_result(None)

    def _turn_clocks(self) -> None:
        is_ready = bool(self._workers)
        patiences = [waiting.patience for waiting in self._waiting] + [aside.patience for aside in self._asides]
        for patience in filter(None, patiences):
            patience.turn(is_ready=is_ready)

    @property
    def _is_hopeless(self) -> bool:
        """Nobody need wait."""
        return self._engine.state == "failed" or self._engine.is_retired or self._engine.has_ended

    def _refusal(self, error: OverflowError) -> ApiError:
        status, code = (429, "queue_places_full") if isinstance(error, PlacesFull) else (503, "queue_full")
        return ApiError(status, f"'{self._engine.name}' is busy: {error}", code=code, retry_after_s=RETRY_AFTER_S)

    def _too_late(self, patience: Patience) -> ApiError:
        limits, reason = self._engine.config.limits, f" ({self._engine.reason})" if self._engine.reason else ""
        what, code = f"had no free slot for {limits.max_wait_s:g} s", "queue_timeout"
        if not patience.is_ready:
            what, code = f"was not ready for {limits.max_load_wait_s:g} s", "load_timeout"
        return ApiError(503, f"'{self._engine.name}' {what}{reason}", code=code, retry_after_s=RETRY_AFTER_S)

    def _failure(self) -> ApiError:
        if self._engine.state == "failed":
            return ApiError(503, f"'{self._engine.name}' cannot serve: {self._engine.reason}", code="engine_failed")
        return ApiError(503, f"'{self._engine.name}' has just been stopped", code="engine_stopped", retry_after_s=1)


def _was_granted(ticket: _Ticket) -> bool:
    future = ticket.granted
    return future.done() and not future.cancelled() and future.exception() is None
