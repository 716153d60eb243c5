"""The sessions of one engine, in their slots: who has which turn, who sits where.

Decided apart: which session (`transcript.py`), which slot (`slots.py`), what a snapshot is worth (`policy.py`), when a
slot is saved (`saver.py`). Done apart: moving KV (`vault.py`), remembering what was said (`history.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from hugind.proxy.errors import ApiError
from hugind.proxy.leases import NOBODY, RETRY_AFTER_S, Lease, Leases
from hugind.proxy.queue import Asker, Place
from hugind.proxy.sessions.history import History
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.record import Label, Owner, Session
from hugind.proxy.sessions.saver import Saver
from hugind.proxy.sessions.slots import Seat, SlotTable, Wish
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.system_prompt import SystemPrompt
from hugind.proxy.sessions.transcript import Scope, Talk, begins_with
from hugind.proxy.sessions.vault import Vault
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker

logger = logging.getLogger(__name__)


class Keeper:
    """Lives as long as its engine. The host of its leases; `aclose` ends what runs here."""

    def __init__(self, engine: Engine, shelf: Shelf) -> None:
        self.engine = engine
        self.store = shelf.store
        self.scribe = shelf.scribe
        self.leases = Leases(engine, self)
        self.policy = Policy(engine, shelf.store)
        self.history = History(shelf, self.policy)
        self.system_prompt = SystemPrompt(engine, shelf, self.policy)
        self._table: SlotTable[Spawn] = SlotTable()
        self._vault = Vault(engine, shelf, self.policy, self._table)
        self._savers: dict[Spawn, Saver] = {}
        self.store.is_in_slot = lambda session: self._table.holds(session.id)
        engine.before_end = self.save_all

    # ---- one turn

    @property
    def is_ready(self) -> bool:
        """Whether `scope` answers at once."""
        return self.leases.is_ready

    async def scope(self, owner: Owner, asker: Asker = NOBODY) -> Scope:
        """Where the sessions of `owner` are. Waits while no worker is ready: only then is it known what the model is.

        Raises:
            ApiError: as `Leases.acquire`.
        """
        await self.leases.until_ready(asker)
        assert self.policy.identity is not None
        return Scope(owner, self.engine.name, self.policy.identity.model)

    @asynccontextmanager
    async def session(self, talk: Talk, asker: Asker = NOBODY) -> AsyncIterator[Session]:
        """The session of a request: the one that it continues, or a new one. Nobody else has it meanwhile.

        Raises:
            ApiError: 503 when an earlier request of the session took longer than `limits.max_wait_s`; as
                `Leases.acquire` when too many wait.
        """
        session = await self._enter(talk, asker)
        chain, turns = session.chain, session.turns
        if not talk.is_kept:
            self.store.learn(session, talk.chain)
        try:
            yield session
        finally:
            session.turn_lock.release()
            if session.turns == 0:  # the engine never saw it
                self.store.discard(session)
                if (place := self._table.place_of(session.id)) is not None:
                    self._table.vacate(place)
            elif session.turns == turns:
                self.store.learn(session, chain)
            self._let_go(session)

    def wish(self, session: Session) -> Wish:
        """Which slot a session would like best."""
        return Wish(session.id, session.source.id if session.source else None)

    async def seat(self, lease: Lease, session: Session) -> Label:
        """Make the slot hold what is known of the session, and nothing of anybody else. Returns where that came from.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        place, client, slot = lease.place, lease.spawn.client, lease.slot
        seat = self._table[place]
        if seat.holder == session.id:
            return "hot"
        if seat.holder is not None:
            evicted = self.store.sessions.get(seat.holder)
            if evicted is not None and seat.is_dirty:
                await self._vault.save(place, evicted)
            self._table.vacate(place)
            if evicted is not None:
                self._let_go(evicted)
            if evicted is not None and _is_beginning(evicted, session):
                self._table.hold(place, session.id, turns=session.turns, now=time.monotonic())
                return "hot"
        label = await self._vault.bring_back(place, session, self.system_prompt.base)
        if label is None and not self._table[place].is_clean:
            await client.erase(slot)
        self._table.hold(place, session.id, turns=session.turns, now=time.monotonic())
        return label or "new"

    def unseat(self, lease: Lease) -> None:
        """The worker cannot be reached: whatever is in the slot, nobody waits for it."""
        self._table.vacate(lease.place)

    def began(self, lease: Lease, session: Session, request: dict[str, Any]) -> None:
        """The request goes out: whatever comes of it, the slot will hold more than the last snapshot."""
        seat = self._table[lease.place]
        seat.is_dirty, seat.has_failed = True, False
        self.history.note_request(session, request)

    def settle(self, lease: Lease, session: Session, label: Label, timings: dict[str, Any] | None) -> None:
        """The engine took the turn; `timings` are its own figures, where it came to that."""
        session.turns += 1
        session.hits[label] += 1
        session.used_at, session.quiet_since = time.time(), time.monotonic()
        session.source = None
        seat = self._table[lease.place]
        seat.turns, seat.used_at = session.turns, session.quiet_since
        if timings is None:  # not told: no less than was saved of it
            seat.tokens = max(seat.tokens, session.newest.tokens if session.newest else 0)
            return
        seat.tokens = sum(int(timings.get(key, 0)) for key in ("cache_n", "prompt_n", "predicted_n"))
        self.policy.saw_turn(timings, seat.tokens)
        if label in ("warm", "cold") and session.newest is not None:
            self.policy.judge_restore(session, session.newest.tokens, int(timings.get("cache_n", 0)))

    # ---- the host of the leases

    def choose(self, wish: Wish | None, free: Collection[Place[Spawn]]) -> Place[Spawn] | None:
        """As `slots.py` decides."""
        if wish is None:
            return next(iter(free), None)
        place = self._table.choose(wish, free, time.monotonic())
        if place is not None:
            self._table.lend(place, wish.session)
        return place

    async def prepare(self, spawn: Spawn) -> None:
        """Learn what the model is and what its snapshots are worth, before the first turn."""
        await asyncio.to_thread(self.store.load)
        await self.policy.learn(spawn)
        await self.system_prompt.learn(spawn)

    def joined(self, spawn: Spawn, slots: int) -> None:
        """Its slots are empty."""
        for gone in [known for known in self._table.workers if known.has_exited]:
            self._forget_worker(gone)
        self._table.add_worker(spawn, slots)
        self._savers[spawn] = Saver(
            spawn, self.leases, self._table, self._vault, self.policy, self._session_of,
            on_end=lambda: self._savers.pop(spawn, None),
        )  # fmt: skip

    def left(self, spawn: Spawn) -> None:
        """No more turns there. What it holds can still be saved, if it lives (`save_all`)."""
        self._table.retire(spawn)
        if saver := self._savers.get(spawn):
            saver.stop()
        if spawn.has_exited:
            self._forget_worker(spawn)

    def freed(self, place: Place[Spawn], *, is_turn: bool) -> None:
        """The slot is idle: a good moment to save."""
        self._table.give_back(place)
        if is_turn and (saver := self._savers.get(place.worker)):
            saver.wake()

    async def save_all(self, worker: Worker, spawn: Spawn) -> None:
        """Save what a worker that is about to end still holds."""
        try:
            for place in self._table.places(spawn):
                seat = self._table[place]
                session = self._session_of(seat)
                if session is not None and seat.is_dirty and not spawn.has_exited:
                    await self._vault.save(place, session)
        except WorkerUnreachable as error:
            logger.warning("%s: not saved at the end: %s", self.engine.name, error.message)
        finally:
            self._forget_worker(spawn)

    # ---- what people see and do (`desk.py`)

    def held(self) -> dict[str, tuple[Place[Spawn], Seat]]:
        """What is in the slots, by session."""
        spawns = [worker.spawn for worker in self.engine.workers if worker.spawn]
        places = [place for spawn in spawns for place in self._table.places(spawn)]
        return {seat.holder: (place, seat) for place in places if (seat := self._table[place]).holder}

    async def empty_slot(self, session: Session) -> bool:
        """Erase the slot that a session is in. False: somebody uses that; the session may be out of it after that."""
        place, seat = self.held().get(session.id, (None, None))
        if place is None or seat is None:
            return True
        lease = self.leases.take(place)
        if lease is None:
            return False
        try:
            self._table.vacate(place)
            await place.worker.client.erase(place.slot)
            seat.is_clean = True
        except (WorkerUnreachable, SlotActionRefused) as error:
            logger.warning("%s: not erased, so it is before the next turn: %s", self.engine.name, error.message)
        finally:
            self.leases.release(lease)
        return True

    async def save_now(self, session: Session) -> None:
        """Save what a slot holds beyond the snapshot, unless somebody uses it. Streams of its worker are held up."""
        place, seat = self.held().get(session.id, (None, None))
        if place is None or seat is None or not seat.is_dirty or (lease := self.leases.take(place)) is None:
            return
        try:
            await self._vault.save(place, session)
        except WorkerUnreachable as error:
            logger.warning("%s: not saved: %s", self.engine.name, error.message)
        finally:
            self.leases.release(lease)

    # ---- which session

    async def _enter(self, talk: Talk, asker: Asker) -> Session:
        """Pick a session and wait for its earlier turn; look again after that, because it may have gone elsewhere."""
        session = self._pick(talk)
        if not session.turn_lock.locked() and not self.leases.is_awaited(session.id):
            await session.turn_lock.acquire()
            return session
        try:
            async with self.leases.aside(asker, session.id) as aside:
                while True:
                    await session.turn_lock.acquire()
                    if self.store.sessions.get(session.id) is session and self._fits(session, talk):
                        return session
                    session.turn_lock.release()
                    session = self._pick(talk)
                    aside.session = session.id
        except TimeoutError:
            raise ApiError(
                503, "an earlier request of this session is still being served", code="session_busy",
                retry_after_s=RETRY_AFTER_S,
            ) from None  # fmt: skip

    def _pick(self, talk: Talk) -> Session:
        match, whole = self.store.find(talk)
        if talk.name is not None and whole:
            return whole[0]
        idle = [session for session in whole if not session.turn_lock.locked()]
        if idle:
            return max(idle, key=lambda session: self._table.place_of(session.id) is not None)
        session = self.store.create(talk)
        session.source = whole[0] if whole else self.store.sessions.get(match.parent or "")
        if session.source is None and self.system_prompt.is_before(talk.messages):
            session.source = self.system_prompt.base
        return session

    def _fits(self, session: Session, talk: Talk) -> bool:
        return talk.is_kept or begins_with(talk.chain, session.chain)

    def _let_go(self, session: Session) -> None:
        """Forget a session that is nowhere and that nobody would miss."""
        if session.turn_lock.locked() or session.is_worth_keeping or self._table.holds(session.id):
            return
        self.store.discard(session)

    # ---- details

    def _session_of(self, seat: Seat) -> Session | None:
        return self.store.sessions.get(seat.holder) if seat.holder else None

    def _forget_worker(self, spawn: Spawn) -> None:
        for lost in self._table.remove_worker(spawn):
            if session := self.store.sessions.get(lost):
                self._let_go(session)

    async def aclose(self) -> None:
        """End what runs here. The worker is gone, or saved (`save_all`)."""
        await self.leases.aclose()
        for saver in list(self._savers.values()):
            await saver.aclose()


def _is_beginning(evicted: Session, session: Session) -> bool:
    """Whether what a slot holds is the beginning of another session of the same owner: that may go on from there."""
    return evicted is session.source or (bool(evicted.chain) and begins_with(session.chain, evicted.chain))
