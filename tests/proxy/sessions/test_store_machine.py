"""Whatever happens to sessions, in whatever order: the books, the records and the files agree."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hugind.proxy.sessions.record import Owner, Session
from hugind.proxy.sessions.store import Store
from tests.proxy.sessions.storing import (
    KB,
    files_in,
    memory_folder,
    needs_memory,
    open_store,
    owner_folder,
    save,
    sessions_folder,
    talk_of,
)

pytestmark = needs_memory

OWNERS = [Owner("alice"), Owner("alice", "a"), Owner("bob")]
MEMORY_MB = 1
DISK_KB, USER_DISK_KB = 2000, 1200
MOST = 5
WHICH = st.integers(0, MOST - 1)


class Sessions(RuleBasedStateMachine):
    """A store under every order of what a gateway does to it; a gateway may be killed at any point."""

    @initialize(packed=st.sampled_from([{}, {"compress": True}, {"encrypt": True}]))
    def open(self, packed: dict[str, bool]) -> None:
        self.stack = ExitStack()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.memory = self.stack.enter_context(memory_folder())
        self.home = Path(mkdtemp())
        self.stack.callback(shutil.rmtree, self.home)
        self.packed = packed
        self.texts = 0
        self.recorded: set[str] = set()
        """Sessions that have a record with a snapshot: a kill leaves them one."""
        self.store = self._open()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.stack.close()

    # ---- what a gateway does

    @precondition(lambda self: len(self.store.sessions) < MOST)
    @rule(owner=st.sampled_from(OWNERS), is_pinned=st.booleans())
    def create(self, owner: Owner, is_pinned: bool) -> None:
        self._create(owner).is_pinned = is_pinned

    @rule(which=WHICH, size_kb=st.sampled_from([20, 50, 300, 900]))
    def save(self, which: int, size_kb: int) -> None:
        """As the keeper: room is asked for by a guess, and held by the session meanwhile."""
        self.runner.run(self._save(self._session(which), size_kb * KB))

    @rule(which=WHICH)
    def write_down(self, which: int) -> None:
        session = self._session(which)
        self.store.write_record(session)
        self._note(session)

    @rule(which=WHICH)
    def copy(self, which: int) -> None:
        session = self._session(which)
        before = session.disk
        if self.runner.run(self.store.copy_to_disk(session)):
            self._note(session)
        else:
            assert before == session.disk

    @rule(which=WHICH, messages=st.lists(st.text(max_size=5), max_size=2))
    def say(self, which: int, messages: list[str]) -> None:
        session = self._session(which)
        self.store.write_messages(session, messages)

        assert messages == self.store.read_messages(session)

    @rule(which=WHICH, idle_s=st.sampled_from([0, 50, 150, 100_000]))
    def wait(self, which: int, idle_s: int) -> None:
        self._session(which).quiet_since -= idle_s

    @rule(which=WHICH)
    def spoil(self, which: int) -> None:
        session = self._session(which)
        if session.newest is not None:
            self.store.quarantine(session, session.newest)
            self.recorded.discard(session.id)

    @rule(which=WHICH)
    def forget(self, which: int) -> None:
        session = self._session(which)
        self.store.forget(session)

        assert not any(session.id in name for name in files_in(self.home))

    @rule()
    def sweep(self) -> None:
        """Budgets hold afterwards. What is pinned stays on disk, whatever that takes."""
        self.runner.run(self.store.sweep())
        on_disk: Counter[Owner] = Counter()
        for session in self.store.sessions.values():
            if session.disk and not session.is_pinned:
                on_disk[session.owner] += session.disk.size_bytes
        self._drop_what_left()

        assert self.store.memory_bytes <= MEMORY_MB * 1000 * KB
        assert on_disk.total() <= DISK_KB * KB
        assert max(on_disk.values(), default=0) <= USER_DISK_KB * KB

    @rule()
    def start_again(self) -> None:
        """A kill: nothing is written first. What had a record with a snapshot still has one."""
        owners = {session.id: session.owner for session in self.store.sessions.values()}
        known = [session.id for session in self.store.sessions.values() if session.id in self.recorded]
        self.store.close()
        self.store = self._open()
        found = self.store.sessions

        assert [] == [named for named in known if named not in found or found[named].newest is None]
        assert all(owners[named] == session.owner for named, session in found.items())
        self._check_files(is_fresh=True)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def every_snapshot_has_its_file(self) -> None:
        for session in self.store.sessions.values():
            for snapshot in filter(None, (session.memory, session.disk)):
                file = self.store.path(session, snapshot)

                assert file.exists()
                assert file.suffix == ".kvp" or file.stat().st_size == snapshot.size_bytes

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def every_file_has_its_owner(self) -> None:
        self._check_files(is_fresh=False)

    # ---- details

    def _open(self) -> Store:
        return open_store(
            self.home, self.memory, memory_mb=MEMORY_MB, disk_gb=DISK_KB / 1e6, user_disk_gb=USER_DISK_KB / 1e6,
            memory_ttl_s=100, disk_ttl_days=1, **self.packed,
        )  # fmt: skip

    async def _save(self, session: Session, size: int) -> None:
        async with session.kv_lock:
            room = await self.store.room_for(session, size)
            if room is None:
                return
            is_memory = room == self.store.slots.path

            assert is_memory or owner_folder(self.home, session) == room.parent
            save(self.store, session, size, target=None if is_memory else room)
            self._drop_what_left()

            assert self.store.memory_bytes <= MEMORY_MB * 1000 * KB

    def _session(self, which: int) -> Session:
        sessions = list(self.store.sessions.values())
        return sessions[which % len(sessions)] if sessions else self._create(OWNERS[0])

    def _create(self, owner: Owner) -> Session:
        self.texts += 1
        return self.store.create(talk_of(f"text {self.texts}", owner=owner))

    def _note(self, session: Session) -> None:
        (self.recorded.add if session.newest else self.recorded.discard)(session.id)
        self._drop_what_left()

    def _drop_what_left(self) -> None:
        """Budgets may take the last snapshot of a session."""
        self.recorded &= {session.id for session in self.store.sessions.values() if session.newest}

    def _check_files(self, *, is_fresh: bool) -> None:
        """Nothing lies anywhere that belongs to nobody; right after a start, exactly what the books say does."""
        sessions = self.store.sessions.values()
        allowed, needed = set(), set()
        for session in sessions:
            folder = session.owner.digest
            own = {f"{folder}/{session.id}.json", f"{folder}/{session.id}.talk"}
            snapshot = {f"{folder}/{session.disk.file}"} if session.disk else set()
            allowed |= own | snapshot
            needed |= snapshot
        there = files_in(sessions_folder(self.home))
        strays = there if is_fresh else {name for name in there if not _is_of(name, sessions)}

        assert needed <= there
        assert strays <= allowed
        in_memory = {session.memory.file for session in sessions if session.memory}
        assert in_memory <= files_in(self.store.slots.path)
        if is_fresh:
            assert in_memory == files_in(self.store.slots.path)
            keys = {name.removesuffix(".key") for name in files_in(self.home) if name.endswith(".key")}
            assert {Path(name).name for name in keys} <= {session.owner.digest for session in sessions}


def _is_of(name: str, sessions: Collection[Session]) -> bool:
    """Whether a file lies in the folder of the owner of the session that it is named after."""
    return any(name.startswith(f"{one.owner.digest}/{one.id}.") for one in sessions)


def test_any_order() -> None:
    """No file without an owner, no snapshot without its file, none lost by a kill, and budgets hold."""
    run_state_machine_as_test(Sessions, settings=settings(max_examples=100, stateful_step_count=50, deadline=None))
