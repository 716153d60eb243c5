"""The sessions of one engine: the index, their records, and the files of their snapshots in memory and on disk.

    <home>/sessions/<engine>/<owner>/<session>.json         the record, written last
                                     <session>.talk         what was said, for exports and kept histories
                                     <session>.<random>.kv  the snapshot on disk (.kvp: compressed or encrypted)
    <slot folder>/<random>.kv                               the snapshot in memory

One gateway has a store at a time; another that serves the same config keeps its sessions in memory alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
from filelock import FileLock, Timeout

from hugind.proxy.sessions import atrest, snapshots, sweeper
from hugind.proxy.sessions.record import Session, Snapshot
from hugind.proxy.sessions.slotfile import SlotFileError
from hugind.proxy.sessions.transcript import Match, Scope, Talk, TranscriptIndex
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import DIRECTORY_MODE, FILE_MODE, Home, write_private
from hugind.supervisor.slot_folder import choose_slot_folder, free_bytes, total_bytes

logger = logging.getLogger(__name__)

GB = 1_000_000_000
RAM_SHARE = 8
"""Without a budget in the config, memory holds this fraction of RAM, and half of the tmpfs at most."""
SPARE_DISK_BYTES = 512_000_000
"""Left free on the disk for others."""
EXPIRY_GRACE_S = 3600
"""However long ago it was by the wall clock, nothing expires within an hour of the start: the clock may be wrong."""
BAD_KEPT = 4
"""Files that failed their check are kept beside the good ones, so many of each engine, for whoever looks into it."""

_OWNER = re.compile(r"[0-9a-f]{32}")
"""`Owner.digest`."""


class Store:
    """Lives from `open` to `aclose`."""

    def __init__(self, name: str, home: Home, settings: SessionsSection) -> None:
        """Blocks on the disk. `load` comes next."""
        self.name = name
        self.settings = settings
        self.sessions: dict[str, Session] = {}
        self.index = TranscriptIndex()
        self.refused = 0
        """Snapshots that failed their check, ever."""
        self.saves = 0
        """Snapshots that were made, ever."""
        self.hollow = 0
        """Restores after which the engine computed everything anew all the same, ever."""
        self._folder = home.sessions / name
        self._folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / ".lock", mode=FILE_MODE, thread_local=False)  # released in another thread
        try:
            self._lock.acquire(blocking=False)
            self.is_persistent = True
            self.slots = choose_slot_folder(home, name, settings.memory_folder)
        except Timeout:
            self.is_persistent = False
            self.slots = choose_slot_folder(home, f"{name}.{os.getpid()}", settings.memory_folder)
            logger.warning("another gateway keeps the sessions of '%s': here they do not outlive this one", name)
        self._keys = atrest.KeyFolder(home.session_keys / name)
        """Its own: an owner who has nothing left with this engine may have sessions with another."""
        self._bad: deque[tuple[str, Path]] = deque()
        """With the session that each was of."""
        self._written: set[str] = set()
        """Sessions of which there may be files in their owner's folder."""
        self._superseded: dict[str, list[Path]] = {}
        """By session, older snapshots that its record still names: they go when that is written anew."""
        self.is_in_slot: Callable[[Session], bool] = lambda _: False
        """Set by who knows."""
        self._is_loaded = False
        self._loading = threading.Lock()
        if not self.slots.is_memory:
            logger.warning("sessions of '%s' are saved straight to disk: %s", name, self.slots.reason)

    def use(self, settings: SessionsSection) -> None:
        """Go on with these settings; another `memory_folder` counts from the next start.

        Raises:
            ConfigError: they cannot be kept on this machine.
        """
        if settings.enabled and settings.encrypt and not self.slots.is_memory:
            raise ConfigError(
                f"{self.name}: snapshots would lie on the disk in the clear before they are encrypted "
                f"({self.slots.reason})",
                key="sessions.encrypt",
                hint="name a tmpfs in sessions.memory_folder, or leave sessions.encrypt out",
            )
        self.settings = settings

    # ---- the index

    def load(self) -> None:
        """Read every record, and remove files that belong to none. Blocks; a second call only waits for the first."""
        with self._loading:
            if self._is_loaded or not self.is_persistent:
                return
            try:
                self._load()
            except OSError:
                logger.exception(
                    "the sessions of '%s' cannot be read: they start anew and are not written down", self.name
                )
                self.is_persistent = False
            self._is_loaded = True

    def _load(self) -> None:
        in_memory = {entry.name for entry in os.scandir(self.slots.path)}
        now, wall = time.monotonic(), time.time()
        found = [s for folder in self._owner_folders() for s in self._load_owner(folder, in_memory, now, wall)]
        self.sessions.update({session.id: session for session in found})  # at once: others look at them meanwhile
        self._written.update(session.id for session in found)
        for session in found:
            self.learn(session, session.chain)
        known = {session.memory.file for session in found if session.memory}
        for name in in_memory - known:
            _remove_stray(self.slots.path / name)

    def find(self, talk: Talk) -> tuple[Match, list[Session]]:
        """What a request continues, and the sessions that it continues wholly."""
        match = self.index.find(talk)
        return match, [self.sessions[found] for found in match.whole]

    def create(self, talk: Talk) -> Session:
        """A new session; it is known at once, and written down when it is worth it."""
        scope = talk.scope
        session = Session(scope.owner, scope.engine, scope.family, talk.name, is_kept=talk.is_kept)
        self.sessions[session.id] = session
        self.learn(session, talk.chain)
        return session

    def adopt(self, session: Session, chain: tuple[bytes, ...]) -> None:
        """Take in a session that was made elsewhere; it can be continued from now on."""
        self.sessions[session.id] = session
        self.learn(session, chain)

    def learn(self, session: Session, chain: tuple[bytes, ...]) -> None:
        """What a session says now. One that was forgotten meanwhile stays forgotten."""
        session.chain = chain
        if self.sessions.get(session.id) is not session:
            return
        scope = Scope(session.owner, session.engine, session.family)
        self.index.put(session.id, scope, chain, name=session.name, is_kept=session.is_kept)

    def discard(self, session: Session) -> None:
        """Forget a session that nobody would miss. Blocks only where something of it was written once."""
        if session.id in self._written:
            self.forget(session)
        self.sessions.pop(session.id, None)
        self.index.drop(session.id)

    def forget(self, session: Session) -> None:
        """Remove a session and everything of it. Blocks for the time of a few unlinks."""
        self.sessions.pop(session.id, None)
        self.index.drop(session.id)
        self._remove(session, session.memory)
        self._remove(session, session.disk)
        session.memory = session.disk = None
        folder = self._owner_folder(session)
        bad = [file for whose, file in list(self._bad) if whose == session.id]
        for file in (folder / f"{session.id}.json", folder / f"{session.id}.talk", *bad):
            file.unlink(missing_ok=True)
        self._remove_superseded(session)
        self._written.discard(session.id)
        if self.is_persistent and not any(other.owner == session.owner for other in list(self.sessions.values())):
            self._forget_owner(session.owner.digest)

    # ---- snapshots

    @property
    def memory_bytes(self) -> int:
        """What the snapshots in memory take."""
        return sum(session.memory.size_bytes for session in self.sessions.values() if session.memory)

    @property
    def disk_bytes(self) -> int:
        """What the snapshots on disk take, before compression."""
        return sum(session.disk.size_bytes for session in self.sessions.values() if session.disk)

    def budget(self) -> sweeper.Budget:
        """What the settings allow."""
        settings = self.settings
        memory = settings.memory_mb * 1_000_000 if settings.memory_mb is not None else self._default_memory()
        disk = settings.disk_gb * GB if self.is_persistent else 0
        user = settings.user_disk_gb
        return sweeper.Budget(
            memory_bytes=memory if self.slots.is_memory else 0,
            disk_bytes=int(disk),
            user_disk_bytes=None if user is None else int(user * GB),
            memory_ttl_s=settings.memory_ttl_s,
            disk_ttl_s=settings.disk_ttl_days * 86400,
        )

    async def room_for(self, session: Session, size_bytes: int) -> Path | None:
        """Where a snapshot of about that size can be written: the slot folder, or a file on disk. None: nowhere.

        Makes room by letting less valuable ones go.
        """
        budget = self.budget()
        if budget.memory_bytes and size_bytes <= budget.memory_bytes:
            if not self._fits_memory(session, size_bytes, budget):
                await self.sweep(wanted_memory=size_bytes)
            if self._fits_memory(session, size_bytes, budget) and free_bytes(self.slots.path) > size_bytes * 1.1:
                return self.slots.path
        if size_bytes > budget.disk_bytes or self.settings.encrypt:  # it would lie there in the clear
            return None
        if not await self._room_on_disk(session, size_bytes):
            return None
        folder = self._make_owner_folder(session)
        return folder / f"{session.id}.{secrets.token_hex(8)}.kv"

    def saved(self, session: Session, snapshot: Snapshot, *, is_memory: bool) -> None:
        """A new snapshot that was checked. The one before goes once a record names this one."""
        self.saves += 1
        replaced = [session.memory] if is_memory else [session.memory, session.disk]
        files = [self.path(session, old) for old in replaced if old is not None]
        if is_memory:
            session.memory = snapshot
        else:
            session.memory, session.disk = None, snapshot
        if self._writes_records and session.id not in self._superseded:
            self._superseded[session.id] = files
        else:  # no record names them: nobody writes any, or the last one names those that are kept already
            for file in files:
                _remove_stray(file)

    async def plain_file(self, session: Session, snapshot: Snapshot) -> Path:
        """A file that the engine could read; for a packed one a fresh copy, that `dispose` removes.

        Raises:
            AtRestError, OSError: there is none that can be used.
        """
        path = self.path(session, snapshot)
        if path.suffix != ".kvp":
            return path
        plain = self.slots.path / f"{secrets.token_hex(16)}.in"
        await asyncio.to_thread(self._unpack, session, path, plain)
        return plain

    def dispose(self, session: Session, snapshot: Snapshot, plain: Path) -> None:
        """`plain_file` is not needed any more."""
        if plain != self.path(session, snapshot):
            plain.unlink(missing_ok=True)

    def quarantine(self, session: Session, snapshot: Snapshot) -> None:
        """A snapshot failed its check: it is never offered again."""
        self.refused += 1
        path = self.path(session, snapshot)
        bad = path.with_name(path.name + ".bad")
        try:
            path.rename(bad)
            self._bad.append((session.id, bad))
            if len(self._bad) > BAD_KEPT:
                self._bad.popleft()[1].unlink(missing_ok=True)
        except OSError:  # it is gone, or cannot be touched; it is out of the books anyway
            pass
        if session.memory is snapshot:
            session.memory = None
        if session.disk is snapshot:
            session.disk = None

    async def copy_to_disk(self, session: Session) -> bool:
        """Have on disk what is in memory. False: it could not be done; what was there before is intact."""
        async with session.kv_lock:
            snapshot = session.memory
            if snapshot is None or self.is_on_disk(session):
                return snapshot is not None
            old, target = session.disk, None
            try:
                if not await self._room_on_disk(session, snapshot.size_bytes):
                    return False
                suffix = "kvp" if self._is_packed else "kv"
                target = self._owner_folder(session) / f"{session.id}.{secrets.token_hex(8)}.{suffix}"
                # A bad one must not take the place of a good older one.
                await asyncio.to_thread(snapshots.check_bytes, self.path(session, snapshot), snapshot)
                await asyncio.to_thread(self._pack, session, self.path(session, snapshot), target)
                session.disk = replace(snapshot, file=target.name)
                await asyncio.to_thread(self.write_record, session)
                if self.sessions.get(session.id) is not session:
                    raise OSError("it was forgotten meanwhile")
            except (OSError, atrest.AtRestError, SlotFileError) as error:
                session.disk = old
                if isinstance(error, SlotFileError):
                    self.quarantine(session, snapshot)
                if target is not None:
                    _remove_stray(target)
                logger.warning("session %s of '%s' was not copied to disk: %s", session.id, self.name, error)
                return False
            self._remove(session, old)
            return True

    def is_on_disk(self, session: Session) -> bool:
        """Whether the disk has what memory has, or memory has nothing."""
        if session.memory is None:
            return True
        return session.disk is not None and session.disk.checksum == session.memory.checksum

    async def sweep(self, *, wanted_memory: int = 0) -> None:
        """Let go what is too old or too much; `wanted_memory`: bytes that must fit besides."""
        kept = self._kept(time.monotonic())
        plan = sweeper.plan(kept, self.budget(), wanted_memory=wanted_memory)
        for session in self._named(plan.forget):
            if not session.turn_lock.locked():
                self.forget(session)
        for session in self._named(plan.leave_disk):
            await self._leave(session, "disk")
        without_disk = set(plan.leave_disk)
        for session in self._named(plan.leave_memory):
            if session.id not in without_disk:
                await self.copy_to_disk(session)
            await self._leave(session, "memory")

    # ---- what is written down

    def write_record(self, session: Session) -> None:
        """Write a session down. Blocks on the disk.

        Raises:
            OSError: the disk is full, or may not be written.
        """
        with self._writing(session) as folder:
            if folder is not None:
                write_private(folder / f"{session.id}.json", orjson.dumps(session.to_json()).decode())
                self._remove_superseded(session)

    def write_messages(self, session: Session, messages: list[Any]) -> None:
        """Write down what was said. Blocks on the disk.

        Raises:
            OSError: as `write_record`.
        """
        with self._writing(session) as folder:
            if folder is None:
                return
            sealed = atrest.seal(
                orjson.dumps(messages), key=self._key(session), compress=self.settings.compress, bound_to=session.id
            )
            path = folder / f"{session.id}.talk"
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.unlink(missing_ok=True)
            with atrest.private_file(temporary) as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)

    def read_messages(self, session: Session) -> list[Any] | None:
        """What was said; None where it was not written down, or cannot be read. Blocks on the disk."""
        try:
            with atrest.opened(self._owner_folder(session) / f"{session.id}.talk") as file:
                sealed = file.read()
            key = self._keys.key(session.owner.digest) if atrest.is_encrypted(sealed) else None
            messages = orjson.loads(atrest.unseal(sealed, key=key, bound_to=session.id))
        except FileNotFoundError:
            return None
        except (OSError, atrest.AtRestError, orjson.JSONDecodeError) as error:
            logger.warning("the transcript of session %s cannot be read: %s", session.id, error)
            return None
        return messages if isinstance(messages, list) else None

    def close(self) -> None:
        """Let another gateway have the store. Blocks on the disk."""
        if not self.is_persistent:
            for file in self.slots.path.iterdir():
                _remove_stray(file)
        try:
            self.slots.path.rmdir()
            if self.slots.is_memory:
                self.slots.path.parent.rmdir()
        except OSError:  # something is kept there
            pass
        self._lock.release()

    def path(self, session: Session, snapshot: Snapshot) -> Path:
        """Where a snapshot is."""
        folder = self.slots.path if snapshot is session.memory else self._owner_folder(session)
        return folder / snapshot.file

    # ---- details

    @property
    def _is_packed(self) -> bool:
        return self.settings.compress or self.settings.encrypt

    def _default_memory(self) -> int:
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(min(ram // RAM_SHARE, total_bytes(self.slots.path) // 2))

    def _fits_memory(self, session: Session, size_bytes: int, budget: sweeper.Budget) -> bool:
        own = session.memory.size_bytes if session.memory else 0
        return self.memory_bytes - own + size_bytes <= budget.memory_bytes

    async def _room_on_disk(self, session: Session, size_bytes: int) -> bool:
        budget = self.budget()
        limits = (budget.disk_bytes, budget.user_disk_bytes)
        if not self.is_persistent or any(limit is not None and size_bytes > limit for limit in limits):
            return False
        await self._make_room_on_disk(session, size_bytes, budget)
        return free_bytes(self._folder) > size_bytes + SPARE_DISK_BYTES

    async def _make_room_on_disk(self, session: Session, size_bytes: int, budget: sweeper.Budget) -> None:
        of_owner = sum(s.disk.size_bytes for s in self.sessions.values() if s.disk and s.owner == session.owner)
        is_full = self.disk_bytes + size_bytes > budget.disk_bytes
        if is_full or (budget.user_disk_bytes is not None and of_owner + size_bytes > budget.user_disk_bytes):
            disk_only = replace(budget, memory_bytes=sys.maxsize, memory_ttl_s=math.inf, disk_ttl_s=math.inf)
            plan = sweeper.plan(
                self._kept(time.monotonic()), disk_only, wanted_disk=size_bytes, wanted_owner=session.owner.digest
            )
            for victim in self._named(plan.leave_disk):
                if not victim.kv_lock.locked():  # or it would wait for us, perhaps
                    await self._leave(victim, "disk")

    async def _leave(self, session: Session, tier: Literal["memory", "disk"]) -> None:
        async with session.kv_lock:
            self._remove(session, getattr(session, tier))
            setattr(session, tier, None)
            try:
                await asyncio.to_thread(self.write_record, session)
            except OSError as error:  # the record names a file that is gone: it is looked for when it is read
                logger.warning("session %s of '%s' was not written down: %s", session.id, self.name, error)
        if not session.is_worth_keeping and not session.turn_lock.locked() and not self.is_in_slot(session):
            self.forget(session)

    def _kept(self, now: float) -> list[sweeper.Kept]:
        return [
            sweeper.Kept(
                session=session.id,
                owner=session.owner.digest,
                memory_bytes=session.memory.size_bytes if session.memory else 0,
                disk_bytes=session.disk.size_bytes if session.disk else 0,
                is_on_disk=self.is_on_disk(session),
                tokens=newest.tokens if (newest := session.newest) else 0,
                turns=session.turns,
                idle_s=now - session.quiet_since,
                is_pinned=session.is_pinned,
                is_busy=session.kv_lock.locked(),
            )
            for session in self.sessions.values()
        ]

    def _named(self, ids: Iterable[str]) -> list[Session]:
        return [session for named in ids if (session := self.sessions.get(named)) is not None]

    def _remove(self, session: Session, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            return
        for folder in (self.slots.path, self._owner_folder(session)):
            _remove_stray(folder / snapshot.file)

    @property
    def _writes_records(self) -> bool:
        return self.is_persistent and self.settings.disk_gb > 0

    @contextmanager
    def _writing(self, session: Session) -> Iterator[Path | None]:
        """The folder of a session's owner, to write into; None where nothing is written. Forgotten meanwhile: it goes.

        In a thread, while the loop goes on: who forgets the session has not seen what is being written.
        """
        if not self._writes_records or self.sessions.get(session.id) is not session:
            yield None
            return
        self._written.add(session.id)
        try:
            yield self._make_owner_folder(session)
        finally:
            if self.sessions.get(session.id) is not session:
                self.forget(session)

    def _remove_superseded(self, session: Session) -> None:
        for file in self._superseded.pop(session.id, ()):
            _remove_stray(file)

    def _pack(self, session: Session, source: Path, target: Path) -> None:
        with self._writing(session) as folder:
            if folder is None:
                raise OSError("it was forgotten meanwhile")
            atrest.pack(source, target, key=self._key(session), compress=self.settings.compress, bound_to=session.id)

    def _unpack(self, session: Session, source: Path, target: Path) -> None:
        """By what the file is, not by the settings: they may have been others when it was written."""
        with atrest.opened(source) as file:
            is_encrypted = atrest.is_encrypted(file.read(atrest.HEADER_BYTES))
        key = self._keys.key(session.owner.digest) if is_encrypted else None
        atrest.unpack(source, target, key=key, bound_to=session.id)

    def _key(self, session: Session) -> bytes | None:
        return self._keys.key(session.owner.digest) if self.settings.encrypt else None

    def _owner_folders(self) -> list[Path]:
        """Ours; what else somebody made there (`lost+found`) is not touched."""
        entries = [entry for entry in os.scandir(self._folder) if _OWNER.fullmatch(entry.name)]
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _owner_folder(self, session: Session) -> Path:
        return self._folder / session.owner.digest

    def _make_owner_folder(self, session: Session) -> Path:
        folder = self._owner_folder(session)
        folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        return folder

    def _forget_owner(self, digest: str) -> None:
        folder = self._folder / digest
        if folder.is_dir():
            for file in folder.iterdir():
                _remove_stray(file)
            try:
                folder.rmdir()
            except OSError as error:
                logger.warning("%s is nobody's, and cannot be removed: %s", folder, error.strerror)
        self._keys.forget(digest)

    def _load_owner(self, folder: Path, in_memory: set[str], now: float, wall: float) -> list[Session]:
        names = {entry.name for entry in os.scandir(folder)}
        known: set[str] = set()
        found = []
        for name in (name for name in names if name.endswith(".json")):
            try:
                with atrest.opened(folder / name) as file:
                    session = Session.from_json(orjson.loads(file.read()))
                if session.owner.digest != folder.name or name != f"{session.id}.json":
                    raise ValueError("it belongs elsewhere")
            except (OSError, ValueError) as error:
                logger.warning("the session record %s cannot be read: %s", folder / name, error)
                continue
            if session.memory and session.memory.file not in in_memory:
                session.memory = None
            if session.disk and session.disk.file not in names:
                session.disk = None
            known |= {name, f"{session.id}.talk"} | ({session.disk.file} if session.disk else set())
            grace_s = max(self.settings.disk_ttl_days * 86400 - EXPIRY_GRACE_S, 0)
            session.quiet_since = now - min(max(wall - session.used_at, 0), grace_s)
            found.append(session)
        for name in names - known:
            _remove_stray(folder / name)
        if not found:
            self._forget_owner(folder.name)
        return found


def _remove_stray(path: Path) -> None:
    """Remove what belongs to no session; what cannot be removed is no reason to do without the others."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s is not needed, and cannot be removed: %s", path, error.strerror)
