"""The sessions of one engine, in their slots: who sits where, what is saved when, what is brought back.

Decides nothing that could be decided apart: which session (`transcript.py`), which slot (`slots.py`), whether a save
pays (`rates.py`), what goes when room is short (`sweeper.py`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.errors import ApiError
from hugind.proxy.leases import RETRY_AFTER_S, Lease, Leases
from hugind.proxy.queue import Place
from hugind.proxy.sessions import snapshots
from hugind.proxy.sessions.atrest import AtRestError
from hugind.proxy.sessions.fingerprint import Identity, identify
from hugind.proxy.sessions.prompts import common_prompt, hold_prompt, read_system_prompt, reply_of
from hugind.proxy.sessions.rates import Rates
from hugind.proxy.sessions.record import Label, Owner, Session, Snapshot
from hugind.proxy.sessions.selftest import Ability, SelfTestFailed, Verdict, Verdicts, self_test
from hugind.proxy.sessions.slots import Seat, SlotTable, Wish
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain, count_head
from hugind.supervisor import tasks
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused
from hugind.supervisor.models.family import Family
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker

logger = logging.getLogger(__name__)

BASE_OWNER = Owner("", "system prompt")
"""No principal has an empty name."""
TEMPLATE_KEYS = ("tools", "tool_choice", "chat_template_kwargs", "reasoning_effort", "parallel_tool_calls")
"""What of a request shapes its prompt besides the messages."""
RENDER_TIMEOUT_S = 60

DEADLY_LIMIT = 2
"""A file during whose restore a worker died so often is not tried again."""
HOLD_BACK_S = 15
"""A save waits so long for a moment in which no neighbour streams."""
HOLLOW_LIMIT = 3
"""So many restores in a row that saved nothing, and this engine restores no more."""
HOLLOW_SHARE = 0.5
"""A restore is hollow when less than this share of its tokens was reused by a request that continues the session."""


class Keeper:
    """Lives as long as its engine. The host of its leases; `aclose` ends what runs here."""

    def __init__(self, engine: Engine, shelf: Shelf) -> None:
        self.engine = engine
        self.store = shelf.store
        self.scribe = shelf.scribe
        self.leases = Leases(engine, self)
        self.verdict: Verdict | None = None
        """None: no worker was ready yet."""
        self.rates = Rates()
        self.system_prompt: str | None = None
        """The config's own; read when the first worker is ready."""
        self._settings = engine.config.sessions
        self._table: SlotTable[Spawn] = SlotTable()
        self._identity: Identity | None = None
        self._base: Session | None = None
        """The config's own system prompt, computed once for all who begin with it."""
        self._savers: dict[Spawn, _Saver] = {}
        self._hollow_in_a_row = 0
        self._deadly: Counter[str] = Counter()
        """Files during whose restore the worker died; it may have been somebody else's doing."""
        self.store.is_in_slot = lambda session: self._table.place_of(session.id) is not None
        engine.before_end = self.save_all

    # ---- one turn

    async def scope(self, owner: Owner) -> Scope:
        """Where the sessions of `owner` are. Waits for the engine's first worker.

        Raises:
            ApiError: as `Leases.acquire`.
        """
        if self._identity is None:
            self.leases.release(await self.leases.acquire())
        assert self._identity is not None
        return Scope(owner, self.engine.name, self._identity.model)

    @asynccontextmanager
    async def session(self, talk: Talk) -> AsyncIterator[Session]:
        """The session of a request: the one that it continues, or a new one. Nobody else has it meanwhile.

        Raises:
            ApiError: 503 when an earlier request of the session took longer than `limits.max_wait_s`.
        """
        session = await self._enter(talk)
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
                await self._save(place, evicted)
            self._table.vacate(place)
            if evicted is not None:
                self._let_go(evicted)
            if evicted is not None and _is_beginning(evicted, session):
                self._table.hold(place, session.id, turns=session.turns, now=time.monotonic())
                return "hot"
        label = await self._bring_back(place, session)
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
        messages = request.get("messages")
        if isinstance(messages, list) and not session.is_kept:
            session.messages = messages
            session.template = {key: request[key] for key in TEMPLATE_KEYS if key in request}

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
        cached, computed = int(timings.get("cache_n", 0)), int(timings.get("prompt_n", 0))
        seat.tokens = cached + computed + int(timings.get("predicted_n", 0))
        self.rates.saw_prefill(computed, float(timings.get("prompt_ms", 0)) / 1000)
        if not self.rates.is_worth_saving(seat.tokens):
            self.rates.saw_no_save()
        if label in ("warm", "cold") and session.newest is not None:
            self._judge_restore(session, session.newest.tokens, cached)

    # ---- what was said

    def wants_reply(self, talk: Talk) -> bool:
        """Whether the answer must be read: to keep the history, or to save a model that can only be extended."""
        return talk.is_kept or (talk.messages is not None and self._must_render)

    def note_reply(self, session: Session, request: dict[str, Any], recorded: list[bytes] | None) -> None:
        """The turn ended well; `recorded` is the engine's stream, if it was wanted."""
        messages = request.get("messages")
        if recorded is None or not isinstance(messages, list):
            return
        try:
            session.messages = [*messages, reply_of(recorded)]
        except EngineStreamError as error:
            logger.warning("%s: session %s: the answer cannot be read: %s", self.engine.name, session.id, error)
            return
        if session.is_kept:
            self.scribe.note(session, session.messages)

    async def whole_history(self, session: Session, talk: Talk) -> list[Any]:
        """What a kept session said so far, with the new messages of a request behind it.

        A system prompt in the request takes the place of the one there was.
        """
        known = session.messages
        if known is None:
            known = await asyncio.to_thread(self.store.read_messages, session) or []
        new = talk.messages or []
        head = count_head(new)
        if head:
            return [*new[:head], *known[count_head(known) :], *new[head:]]
        return [*known, *new]

    def with_system_prompt(self, messages: Any) -> Any:
        """A chat's messages, behind the config's own system prompt if they bring none."""
        if self.system_prompt is None or not isinstance(messages, list) or count_head(messages[:1]):
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

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
        config = self.engine.config
        if self._identity is None:
            identity = await asyncio.to_thread(identify, config, self.engine.binary.build, self.engine.home)
            await asyncio.to_thread(self.store.load)
            self._identity = identity
            self.system_prompt = await asyncio.to_thread(read_system_prompt, config, self.engine.home)
        if self.verdict is None:
            self.verdict = await self._find_verdict(spawn, self._identity)
            logger.info("%s: sessions: %s (%s)", self.engine.name, self.verdict.ability, self.verdict.reason)
        if self._base is None and self.system_prompt is not None and self.verdict.is_worth_saving:
            self._base = await self._compute_base(spawn, self._identity)

    def joined(self, spawn: Spawn, slots: int) -> None:
        """Its slots are empty."""
        for gone in [known for known in self._table.workers if known.has_exited]:
            self._forget_worker(gone)
        self._table.add_worker(spawn, slots)
        self._savers[spawn] = _Saver(self, spawn, on_end=lambda: self._savers.pop(spawn, None))

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

    # ---- saving

    async def save_all(self, worker: Worker, spawn: Spawn) -> None:
        """Save what a worker that is about to end still holds."""
        try:
            for place in self._table.places(spawn):
                seat = self._table[place]
                session = self.store.sessions.get(seat.holder) if seat.holder else None
                if session is not None and seat.is_dirty and not spawn.has_exited:
                    await self._save(place, session)
        except WorkerUnreachable as error:
            logger.warning("%s: not saved at the end: %s", self.engine.name, error.message)
        finally:
            self._forget_worker(spawn)

    async def save_idle(self, spawn: Spawn) -> bool:
        """Save what nobody uses, while nobody else streams there: they would be held up. False: some is held back.

        Held back for `HOLD_BACK_S` at most, or a crash of a busy worker would cost more than the last turn.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        is_all = True
        for place in self._table.places(spawn):
            seat = self._table[place]
            session = self.store.sessions.get(seat.holder) if seat.holder else None
            if session is None or not seat.is_dirty or seat.has_failed or not self._is_worth_saving(seat.tokens):
                continue
            is_overdue = time.monotonic() - seat.used_at > HOLD_BACK_S
            if not (is_overdue or self.leases.is_quiet(spawn)) or (lease := self.leases.take(place)) is None:
                is_all = False
                continue
            try:
                await self._save(place, session)
            finally:
                self.leases.release(lease)
        return is_all

    async def _save(self, place: Place[Spawn], session: Session) -> None:
        """Save a slot that nobody uses. What cannot be saved is told in the log and changes nothing.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        seat, client = self._table[place], place.worker.client
        assert self._identity is not None
        if not self._is_worth_saving(seat.tokens):
            return
        async with session.kv_lock:
            try:
                if self._must_render:
                    await self._render(place, session)
                room = await self.store.room_for(session, self.rates.predicted_bytes(seat.tokens))
                if room is None:
                    return
                folder = self.store.slots.path
                begun = time.perf_counter()
                target = None if room == folder else room
                snapshot = await snapshots.save(client, place.slot, folder, self._identity.fingerprint, target)
                self.rates.saw_save(snapshot.tokens, snapshot.size_bytes, time.perf_counter() - begun)
            except (snapshots.SnapshotError, SlotActionRefused, OSError) as error:
                logger.warning("%s: session %s: %s", self.engine.name, session.id, error)
                seat.has_failed = True
                return
            if self.store.sessions.get(session.id) is not session:  # forgotten meanwhile
                (folder / snapshot.file if target is None else target).unlink(missing_ok=True)
                return
            self.store.saved(session, snapshot, is_memory=target is None)
            seat.is_dirty, seat.tokens = False, snapshot.tokens
        self.scribe.note(session, session.messages)
        if not session.is_kept:
            session.messages = None

    @property
    def _must_render(self) -> bool:
        return self.verdict is not None and self.verdict.ability is Ability.EXTENSION

    async def _render(self, place: Place[Spawn], session: Session) -> None:
        """Have the slot hold the conversation as the next turn will render it: only then does that extend it.

        The answer's thinking is left out by templates later, and its end is spelled otherwise. The engine goes back to
        a checkpoint of its own for this, so that it costs the last few tokens (measured on Mamba: 29).
        """
        if session.messages is None:
            return
        client = place.worker.client
        request = {**session.template, "messages": session.messages, "add_generation_prompt": False}
        rendered = await client.ask("/apply-template", request, RENDER_TIMEOUT_S)
        await hold_prompt(client, place.slot, str(rendered.get("prompt", "")))

    def _is_worth_saving(self, tokens: int) -> bool:
        """`tokens` 0: not known, so look."""
        if not self._settings.enabled or self.verdict is None or not self.verdict.is_worth_saving:
            return False
        return tokens == 0 or (tokens >= self._settings.min_tokens and self.rates.is_worth_saving(tokens))

    # ---- bringing back

    async def _bring_back(self, place: Place[Spawn], session: Session) -> Label | None:
        """Restore the session's snapshot, or that of the session that it branched off; None where there is none.

        "new" where it was the config's own system prompt: of the session itself nothing was there.
        """
        for owner in self._owners(session):
            async with owner.kv_lock:  # a save that runs is waited for: what it makes is what is wanted
                both = sorted(filter(None, (owner.memory, owner.disk)), key=lambda s: s.tokens, reverse=True)
                for snapshot in both:
                    label: Label = "warm" if snapshot is owner.memory else "cold"
                    if await self._restore(place, owner, snapshot):
                        return "new" if owner is self._base else label
        return None

    def _owners(self, session: Session) -> list[Session]:
        """Whose snapshots the session could go on from, the best first."""
        if self.verdict is None or not self.verdict.is_worth_saving:
            return []
        source = session.source
        if source is None or (source is not self._base and self._must_render):
            return [session]
        return [session, source]

    async def _restore(self, place: Place[Spawn], owner: Session, snapshot: Snapshot) -> bool:
        assert self._identity is not None
        config = self.engine.config
        if snapshot.fingerprint != self._identity.fingerprint or snapshot.tokens >= config.context.ctx_size:
            return False
        client, folder = place.worker.client, self.store.slots.path
        self._table.vacate(place)
        try:
            plain = await self.store.plain_file(owner, snapshot)
            try:
                await snapshots.restore(client, place.slot, snapshot, plain, folder, config.server.max_slots)
            finally:
                self.store.dispose(owner, snapshot, plain)
        except WorkerUnreachable:
            self._deadly[snapshot.file] += 1
            if self._deadly[snapshot.file] >= DEADLY_LIMIT:
                logger.exception("%s: session %s: its worker died of it, twice", self.engine.name, owner.id)
                self.store.quarantine(owner, snapshot)
            raise
        except (snapshots.SnapshotError, AtRestError, OSError) as error:
            logger.warning("%s: session %s: not restored: %s", self.engine.name, owner.id, error)
            is_bad = error.is_bad if isinstance(error, snapshots.SnapshotError) else not _may_pass(error)
            if is_bad:
                self.store.quarantine(owner, snapshot)
                self.scribe.note(owner)
            return False
        return True

    def _judge_restore(self, session: Session, restored: int, reused: int) -> None:
        if reused >= restored * HOLLOW_SHARE:
            self._hollow_in_a_row = 0
            return
        session.hollow += 1
        self._hollow_in_a_row += 1
        logger.warning(
            "%s: hollow restore: %d of %d tokens of session %s were reused",
            self.engine.name, reused, restored, session.id,
        )  # fmt: skip
        if self._hollow_in_a_row >= HOLLOW_LIMIT:
            self.verdict = Verdict(Ability.NONE, f"{HOLLOW_LIMIT} restores in a row saved nothing")

    # ---- what people see and do (`desk.py`)

    @property
    def identity(self) -> Identity | None:
        """What the model is. None: no worker was ready yet."""
        return self._identity

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
            await self._save(place, session)
        except WorkerUnreachable as error:
            logger.warning("%s: not saved: %s", self.engine.name, error.message)
        finally:
            self.leases.release(lease)

    # ---- which session

    async def _enter(self, talk: Talk) -> Session:
        """Pick a session and wait for its earlier turn; look again after that, because it may have gone elsewhere."""
        try:
            async with asyncio.timeout(self.engine.config.limits.max_wait_s):
                while True:
                    session = self._pick(talk)
                    await session.turn_lock.acquire()
                    if self.store.sessions.get(session.id) is session and self._fits(session, talk):
                        return session
                    session.turn_lock.release()
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
        if (
            session.source is None
            and self._base is not None
            and talk.messages
            and self._begins_with_base(talk.messages)
        ):
            session.source = self._base
        return session

    def _fits(self, session: Session, talk: Talk) -> bool:
        known = session.chain
        return talk.is_kept or not known or talk.chain[len(known) - 1 : len(known)] == known[-1:]

    def _let_go(self, session: Session) -> None:
        """Forget a session that is nowhere and that nobody would miss."""
        if session.turn_lock.locked() or session.is_worth_keeping or self._table.place_of(session.id) is not None:
            return
        self.store.discard(session)

    # ---- details

    async def _find_verdict(self, spawn: Spawn, identity: Identity) -> Verdict:
        if not self._settings.enabled:
            return Verdict(Ability.NONE, "sessions.enabled is false")
        if identity.family is Family.SWA and self.engine.config.context.swa_full:
            # Only the end of a window is saved, and with this flag the engine does not notice what is missing: text
            # that goes back a little was wrong, with status 200 (measured on b11549, test_slotfile_real.py).
            return Verdict(Ability.NONE, "with context.swa_full a restored window has holes that the engine overlooks")
        verdicts = Verdicts(self.engine.home.sessions / "verdicts.json")
        known = await asyncio.to_thread(verdicts.get, identity.fingerprint)
        if known is not None:
            return known
        slots, ctx_size = self.engine.config.server.max_slots, self.engine.config.context.ctx_size
        try:
            verdict = await self_test(
                spawn.client, 0, self.store.slots.path, slots, ctx_size, identity.family, identity.window
            )
        except SelfTestFailed as error:  # it says nothing about the model: the next start tries again
            return Verdict(Ability.NONE, error.message)
        await asyncio.to_thread(verdicts.put, identity.fingerprint, verdict)
        return verdict

    def _begins_with_base(self, messages: list[Any]) -> bool:
        first = messages[0]
        return isinstance(first, dict) and first.get("content") == self.system_prompt and count_head([first]) == 1

    async def _compute_base(self, spawn: Spawn, identity: Identity) -> Session | None:
        """A session of nobody's that holds the system prompt and nothing else. None: it was not saved."""
        scope = Scope(BASE_OWNER, self.engine.name, identity.model)
        chain = chat_chain(scope, [{"role": "system", "content": self.system_prompt}])
        talk = Talk(scope, chain, name="base")
        _, known = self.store.find(talk)
        if known and known[0].newest is not None and known[0].newest.fingerprint == identity.fingerprint:
            return known[0]
        for old in [session for session in self.store.sessions.values() if session.owner == BASE_OWNER]:
            self.store.forget(old)
        try:
            prompt = await common_prompt(spawn.client, str(self.system_prompt))
            await hold_prompt(spawn.client, 0, prompt)
            snapshot = await snapshots.save(spawn.client, 0, self.store.slots.path, identity.fingerprint)
            await spawn.client.erase(0)
        except (SlotActionRefused, snapshots.SnapshotError) as error:
            logger.warning("%s: the system prompt was not saved: %s", self.engine.name, error)
            return None
        session = self.store.create(talk)
        session.is_pinned = True
        self.store.saved(session, snapshot, is_memory=True)
        self.scribe.note(session)
        return session

    def _forget_worker(self, spawn: Spawn) -> None:
        for lost in self._table.remove_worker(spawn):
            if session := self.store.sessions.get(lost):
                self._let_go(session)

    async def aclose(self) -> None:
        """End what runs here. The worker is gone, or saved (`save_all`)."""
        await self.leases.aclose()
        for saver in list(self._savers.values()):
            await saver.aclose()


def _may_pass(error: Exception) -> bool:
    """Whether a file that could not be unpacked is good perhaps: there was no room, or no right to read it."""
    return isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ELOOP, errno.EINVAL)


def _is_beginning(evicted: Session, session: Session) -> bool:
    """Whether what a slot holds is the beginning of another session of the same owner: that may go on from there."""
    if evicted is session.source:
        return True
    known = evicted.chain
    return bool(known) and session.chain[len(known) - 1 : len(known)] == known[-1:]


class _Saver:
    """Saves the idle slots of one worker whenever it has become quiet. Lives from `joined` to `left`."""

    def __init__(self, keeper: Keeper, spawn: Spawn, on_end: Callable[[], object]) -> None:
        self._keeper = keeper
        self._spawn = spawn
        self._woken = asyncio.Event()
        self._is_stopped = False
        self._task = tasks.start(self._run(), f"save {keeper.engine.name}")
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
                async with asyncio.timeout(None if is_all else HOLD_BACK_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if not self._is_stopped:
                is_all = await self._save()

    async def _save(self) -> bool:
        try:
            return await self._keeper.save_idle(self._spawn)
        except WorkerUnreachable as error:
            logger.warning("%s: not saved: %s", self._keeper.engine.name, error.message)
        except Exception:
            # A bug here must not end the saving of every later turn.
            logger.exception("%s: saving broke", self._keeper.engine.name)
        return True
