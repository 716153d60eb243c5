"""What people may do with the sessions of an engine: look at them, forget, pin, take one out in a file, bring it in."""

from __future__ import annotations

import asyncio
import heapq
import logging
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from hugind.proxy.errors import ApiError
from hugind.proxy.queue import Place
from hugind.proxy.sessions import snapshots
from hugind.proxy.sessions.archive import MAX_TRANSCRIPT, Archive, ArchiveError, read_archive, write_archive
from hugind.proxy.sessions.atrest import AtRestError, pack
from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.record import Owner, Session, Snapshot
from hugind.proxy.sessions.slotfile import SlotFileError
from hugind.proxy.sessions.slots import Seat
from hugind.proxy.sessions.store import SPARE_DISK_BYTES, Store
from hugind.proxy.sessions.system_prompt import BASE_OWNER
from hugind.proxy.sessions.transcript import Scope, chat_chain
from hugind.proxy.written import written
from hugind.supervisor.paths import DIRECTORY_MODE
from hugind.supervisor.slot_folder import free_bytes
from hugind.supervisor.spawn import Spawn

logger = logging.getLogger(__name__)

WAIT_S = 10.0
"""For a turn of the session to end."""
LOOK_S = 0.02
RETRY_AFTER_S = 5

_PREFIX = "ses_"

Seats = dict[str, tuple[Place[Spawn], Seat]]


@dataclass(frozen=True)
class Which:
    """Which sessions are meant. None: any."""

    principal: str | None = None
    user: str | None = None
    id: str | None = None
    """How it begins, with or without the part that all have in common."""

    def fits(self, session: Session) -> bool:
        """Whether it is one of them."""
        return (
            (self.user is None or session.owner.user == self.user)
            and (self.principal is None or session.owner.principal == self.principal)
            and (self.id is None or session.id.startswith((self.id, _PREFIX + self.id)))
        )


@dataclass(frozen=True)
class Imported:
    """A session that was brought in."""

    session: Session
    problem: str | None
    """Why its snapshot was left out. None: it was not, or there was none."""


class Desk:
    """The sessions of one engine, which is served or not. Holds nothing of its own: made when it is needed."""

    def __init__(self, store: Store, keeper: Keeper | None = None, *, wait_s: float = WAIT_S) -> None:
        """Without a keeper nobody serves the engine, and the store has to be ours."""
        self.store = store
        self._keeper = keeper
        self._wait_s = wait_s

    async def load(self) -> None:
        """Have the index there, also where no worker was ready yet."""
        await asyncio.to_thread(self.store.load)

    # ---- looking

    def seats(self) -> Seats:
        """Which sessions are in a slot."""
        return self._keeper.held() if self._keeper else {}

    def describe(self, session: Session, seats: Seats) -> dict[str, Any]:
        """A session for programs. `seats` as just asked for."""
        place, seat = seats.get(session.id, (None, None))
        newest = session.newest
        where = "memory" if newest and newest is session.memory else "disk" if newest else "none"
        return {
            "id": session.id,
            "name": session.name,
            "engine": self.store.name,
            "principal": session.owner.principal,
            "user": session.owner.user,
            "place": where if place is None else "slot",
            "slot": None if place is None else self._slot_name(place),
            "tokens": seat.tokens if seat and seat.tokens else newest.tokens if newest else 0,
            "memory_bytes": session.memory.size_bytes if session.memory else 0,
            "disk_bytes": session.disk.size_bytes if session.disk else 0,
            "created_at": session.created_at,
            "used_at": session.used_at,
            "idle_s": round(time.monotonic() - session.quiet_since, 1),
            "turns": session.turns,
            "hits": dict(session.hits),
            "hollow": session.hollow,
            "pinned": session.is_pinned,
            "kept": session.is_kept,
            "dirty": seat.is_dirty if seat else False,
        }

    def summary(self) -> dict[str, Any]:
        """The engine's sessions as a whole."""
        store, budget = self.store, self.store.budget()
        return {
            "engine": store.name,
            **ability_of(self._keeper),
            "sessions": len(store.sessions),
            "memory_bytes": store.memory_bytes,
            "memory_budget_bytes": budget.memory_bytes,
            "disk_bytes": store.disk_bytes,
            "disk_budget_bytes": budget.disk_bytes,
            "slots_folder": {
                "path": str(store.slots.path),
                "is_memory": store.slots.is_memory,
                "reason": store.slots.reason,
            },
            "is_persistent": store.is_persistent,
            "refused_snapshots": store.refused,
        }

    async def transcript(self, session: Session) -> list[Any] | None:
        """What was said, as far as it is known."""
        known = session.messages
        if known is None and self._keeper is not None:
            known = self._keeper.scribe.noted(session)
        if known is None:
            known = await asyncio.to_thread(self.store.read_messages, session)
        return _as_far_as_it_goes(session, known)

    # ---- forgetting and pinning

    async def forget(self, session: Session) -> None:
        """Remove a session, all files of it and what its slot holds; with its owner's last one their key goes, too.

        Waits for a turn of it.

        Raises:
            ApiError: 409, it is still busy. It stays as it was.
            OSError: a file cannot be removed.
        """
        async with self._between_turns(session):
            await self._leave_slot(session)
            async with session.kv_lock:
                if self.store.sessions.get(session.id) is session:
                    self.store.forget(session)

    async def forget_all(self, which: Which) -> list[str]:
        """Forget all of them but what is nobody's; returns their ids.

        Raises:
            ApiError: 409, some are busy; the others are gone.
            OSError: as `forget`.
        """
        forgotten, busy = [], []
        for session in [s for s in self.store.sessions.values() if which.fits(s) and s.owner != BASE_OWNER]:
            try:
                await self.forget(session)
                forgotten.append(session.id)
            except ApiError:
                busy.append(session.id)
            await asyncio.sleep(0)  # thousands of them must not stop everybody's streams
        if busy:
            raise ApiError(
                409, f"{len(forgotten)} forgotten, but {', '.join(busy)} in use: ask again",
                code="session_busy", retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip
        return forgotten

    def pin(self, session: Session, *, is_pinned: bool) -> None:
        """Have a session kept whatever its age, or not any more. The record is written behind."""
        session.is_pinned = is_pinned
        self._serving.scribe.note(session)

    # ---- out

    async def export(self, session: Session) -> AsyncGenerator[bytes, None]:
        """The file that `archive.py` describes, piece by piece; to be closed in any case.

        What only an idle slot holds is saved first; of a busy one the last snapshot is taken.

        Raises:
            ApiError: 404, 409: it is gone, busy, or nothing is known of it. Before the first piece.
            OSError: it cannot be read.
        """
        async with self._between_turns(session):
            await self._serving.save_now(session)
            messages = await self.transcript(session)
            async with session.kv_lock:
                if self.store.sessions.get(session.id) is not session:
                    raise ApiError(404, f"there is no session {session.id} any more", code="session_not_found")
                frozen, snapshot = replace(session, hits=Counter(session.hits)), session.newest
                copy = await self._copy_of(session, snapshot) if snapshot else None
        try:
            if copy is not None and snapshot is not None and not await self._is_good(session, snapshot, copy):
                copy.unlink(missing_ok=True)
                copy = None
            if copy is None and messages is None:
                raise ApiError(409, f"nothing of session {session.id} is saved yet", code="session_empty")
            write = partial(write_archive, session=frozen, messages=messages, snapshot=copy)
            async with aclosing(written(write)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ArchiveError as error:
            raise ApiError(409, f"session {session.id} cannot be exported: {error}", code="session_damaged") from error
        finally:
            if copy is not None:
                copy.unlink(missing_ok=True)

    # ---- in

    @property
    def max_import_bytes(self) -> int:
        """What may be uploaded: the largest snapshot that could be kept and what was said; but no full disk."""
        budget = self.store.budget()
        largest = max(budget.memory_bytes, budget.disk_bytes) + MAX_TRANSCRIPT
        return max(min(largest, free_bytes(self._upload_folder) // 2 - SPARE_DISK_BYTES), 0)

    def upload(self) -> BinaryIO:
        """A private file without a name: nothing is left of it, whatever happens. Blocks on the disk."""
        file: BinaryIO = tempfile.TemporaryFile(dir=self._upload_folder)  # noqa: SIM115 - the caller closes it
        return file

    async def bring_in(self, source: BinaryIO, owner: Owner) -> Imported:
        """A new session of `owner` from an archive. Waits for the engine's first worker.

        Its snapshot is kept only if this engine could have made it; else the next turn computes what was said.

        Raises:
            ApiError: 400, it is no archive, was changed, or nothing could ever be continued with it; 409, `owner` has a
                session of this name that it would stand in front of; 503, the engine cannot start. Nothing is left.
            OSError: as 507 would say: no room, or it may not be written. Nothing is left.
        """
        scope = await self._serving.scope(owner)
        with self._staging() as folder:
            try:
                read = partial(read_archive, source, folder, max_bytes=self.max_import_bytes)
                archive = await asyncio.to_thread(read)
            except ArchiveError as error:
                raise _bad_archive(error) from error
            try:
                return await self._take_in(archive, scope)
            finally:
                if archive.snapshot is not None:
                    archive.snapshot.unlink(missing_ok=True)

    async def _take_in(self, archive: Archive, scope: Scope) -> Imported:
        session, snapshot = archive.session, archive.session.disk
        chain = self._chain_of(archive, scope)
        session.owner, session.engine, session.family = scope.owner, scope.engine, scope.family
        session.disk, session.is_pinned = None, False
        session.turns = max(session.turns, 1)  # one without a turn is taken for one that never began
        session.used_at = time.time()
        problem = self._unusable(snapshot) if snapshot else None
        try:
            if snapshot is not None and archive.snapshot is not None and problem is None:
                problem = await self._place(session, snapshot, archive.snapshot)
            if session.is_kept:
                session.messages = archive.messages
            async with session.kv_lock:  # what a first turn writes comes after this
                self.store.adopt(session, chain)
                if archive.messages:
                    await asyncio.to_thread(self.store.write_messages, session, archive.messages)
                await asyncio.to_thread(self.store.write_record, session)
        except BaseException:
            self.store.forget(session)
            raise
        await self.store.copy_to_disk(session)
        return Imported(session, problem)

    def _chain_of(self, archive: Archive, scope: Scope) -> tuple[bytes, ...]:
        """What was said, as the new owner's requests will begin. Nothing, where the session is found by its name."""
        session, messages = archive.session, archive.messages
        if messages and not session.is_kept:
            return chat_chain(scope, messages[: len(session.chain)] or messages)
        if session.name is None or (session.is_kept and not messages):
            raise _bad_archive("it lacks what was said, so that nothing could go on from it")
        for other in self.store.sessions.values():
            if (other.owner, other.name, other.is_kept) == (scope.owner, session.name, session.is_kept):
                raise ApiError(
                    409, f"{scope.owner} has a session '{session.name}' already: forget {other.id} first, or name "
                    "another user", code="session_exists",
                )  # fmt: skip
        return ()

    def _unusable(self, snapshot: Snapshot) -> str | None:
        """Why a snapshot could never be restored here."""
        keeper = self._serving
        if keeper.policy.identity is None or snapshot.fingerprint != keeper.policy.identity.fingerprint:
            return "its snapshot is of another model, engine build or setting"
        if keeper.policy.verdict is not None and not keeper.policy.verdict.is_worth_saving:
            return f"snapshots are of no use here: {keeper.policy.verdict.reason}"
        if snapshot.tokens >= keeper.engine.config.context.ctx_size:
            return f"its snapshot has {snapshot.tokens} tokens, and a slot has {keeper.engine.config.context.ctx_size}"
        return None

    async def _place(self, session: Session, snapshot: Snapshot, file: Path) -> str | None:
        """Put a snapshot where it belongs, checked. Returns why not, if there is no room."""
        try:
            await asyncio.to_thread(snapshots.check, file, snapshot)
        except SlotFileError as error:
            raise _bad_archive(f"its snapshot: {error}") from error
        room = await self.store.room_for(session, snapshot.size_bytes)
        if room is None:
            return "there is no room for its snapshot"
        is_memory = room == self.store.slots.path
        target = room / f"{secrets.token_hex(16)}.kv" if is_memory else room
        await asyncio.to_thread(pack, file, target, key=None, compress=False)
        self.store.saved(session, replace(snapshot, file=target.name), is_memory=is_memory)
        return None

    # ---- details

    @property
    def _serving(self) -> Keeper:
        assert self._keeper is not None, "nobody serves this engine"
        return self._keeper

    @property
    def _upload_folder(self) -> Path:
        """What must not lie on the disk in the clear goes to memory."""
        engine = self._serving.engine
        return self.store.slots.path if self.store.settings.encrypt else engine.home.sessions / engine.name

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder for what is not checked yet. What a crash leaves of it is taken for an owner without sessions."""
        if self.store.settings.encrypt:
            yield self._upload_folder
            return
        folder = self._upload_folder / secrets.token_hex(16)
        folder.mkdir(DIRECTORY_MODE)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def _between_turns(self, session: Session) -> AsyncIterator[None]:
        """The session has no turn, and gets none meanwhile."""
        try:
            async with asyncio.timeout(self._wait_s):
                await session.turn_lock.acquire()
        except TimeoutError:
            raise _busy(session) from None
        try:
            yield
        finally:
            session.turn_lock.release()

    async def _leave_slot(self, session: Session) -> None:
        """Have no slot hold it: it is erased, or whoever uses the slot just now takes it over."""
        if self._keeper is None:
            return
        try:
            async with asyncio.timeout(self._wait_s):
                while not await self._keeper.empty_slot(session):  # noqa: ASYNC110 - nobody tells when it is free
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise _busy(session) from None

    async def _copy_of(self, session: Session, snapshot: Snapshot) -> Path | None:
        """The plain slot file under a name of our own, that stays whatever happens to the session. None: unreadable."""
        try:
            plain = await self.store.plain_file(session, snapshot)
            if plain != self.store.path(session, snapshot):
                return plain
            copy = plain.with_name(f"{secrets.token_hex(16)}.out")
            copy.hardlink_to(plain)
        except (AtRestError, OSError) as error:
            self._refuse(session, snapshot, error)
            return None
        return copy

    async def _is_good(self, session: Session, snapshot: Snapshot, copy: Path) -> bool:
        try:
            await asyncio.to_thread(snapshots.check, copy, snapshot)
        except (SlotFileError, OSError) as error:
            self._refuse(session, snapshot, error)
            return False
        return True

    def _refuse(self, session: Session, snapshot: Snapshot, error: Exception) -> None:
        logger.warning("%s: session %s: its snapshot is bad: %s", self.store.name, session.id, error)
        if snapshot in (session.memory, session.disk):
            self.store.quarantine(session, snapshot)
            self._serving.scribe.note(session)

    def _slot_name(self, place: Place[Spawn]) -> str | None:
        workers = self._serving.engine.workers
        return next((f"{worker.index}/{place.slot}" for worker in workers if worker.spawn is place.worker), None)


async def list_sessions(desks: Collection[Desk], which: Which, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The latest of those that are meant, the newest first, and how many there are.

    Quick however many there are: only `limit` are described.
    """
    for desk in desks:
        await desk.load()
    found = [(s.used_at, s, desk) for desk in desks for s in desk.store.sessions.values() if which.fits(s)]
    seats = {desk: desk.seats() for desk in desks}
    newest = heapq.nlargest(limit, found, key=lambda one: one[0])
    return [desk.describe(session, seats[desk]) for _, session, desk in newest], len(found)


async def find_session(desks: Sequence[Desk], session_id: str) -> tuple[Desk, Session]:
    """A session by its whole id.

    Raises:
        ApiError: 404.
    """
    for desk in desks:
        await desk.load()
        if (session := desk.store.sessions.get(session_id)) is not None:
            return desk, session
    raise ApiError(404, f"there is no session '{session_id}'", code="session_not_found")


def ability_of(keeper: Keeper | None) -> dict[str, str | None]:
    """What is known of the sessions of an engine's model."""
    family = keeper.policy.identity.family.value if keeper and keeper.policy.identity else None
    if keeper is None:
        return {"ability": "untested", "reason": "it is not served", "family": family}
    if keeper.policy.verdict is None:
        return {"ability": "untested", "reason": "no worker was ready yet", "family": family}
    return {"ability": keeper.policy.verdict.ability.value, "reason": keeper.policy.verdict.reason, "family": family}


def _as_far_as_it_goes(session: Session, messages: list[Any] | None) -> list[Any] | None:
    """The messages that the session knows, with the answer to them. A request that was refused has left more."""
    if messages is None or session.is_kept:
        return messages
    known = len(session.chain)
    said = messages[:known]
    scope = Scope(session.owner, session.engine, session.family)
    if chat_chain(scope, said) != session.chain[: len(said)]:
        return None
    answer = messages[known:]
    return messages if len(answer) == 1 and answer[0].get("role") == "assistant" else said


def _busy(session: Session) -> ApiError:
    return ApiError(
        409, f"session {session.id} is in the middle of a turn", code="session_busy", retry_after_s=RETRY_AFTER_S
    )


def _bad_archive(why: object) -> ApiError:
    return ApiError(400, f"the file cannot be imported: {why}", code="bad_archive")
