"""What happens in turns is written down behind them: soon, in full, and however often something goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.scribe import Scribe
from hugind.proxy.sessions.store import Store
from hugind.supervisor import tasks
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.paths import Home
from tests.eventually import eventually
from tests.proxy.sessions.storing import (
    ALICE,
    ENGINE,
    files_in,
    memory_folder,
    needs_memory,
    open_store,
    record_of,
    save,
    sessions_folder,
    talk_of,
)

pytestmark = needs_memory

LATER = 3600


class SlowStore(Store):
    """Writes when it may, and counts."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.may_write = threading.Event()
        self.may_write.set()
        self.writes: list[str] = []
        self.breaks: Exception | None = None
        self.bad: Session | None = None
        """Only this one breaks; None: whichever."""

    def write_record(self, session: Session) -> None:
        self._write("record", session)
        super().write_record(session)

    def write_messages(self, session: Session, messages: list[Any]) -> None:
        self._write(f"messages {len(messages)}", session)
        super().write_messages(session, messages)

    def _write(self, what: str, session: Session) -> None:
        self.writes.append(what)
        assert self.may_write.wait(20)
        if self.breaks and self.bad in (None, session):
            raise self.breaks


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def store(tmp_path: Path, memory: Path) -> Iterator[SlowStore]:
    """A store that copies to disk at once."""
    home = Home(tmp_path)
    home.create()
    made = SlowStore(ENGINE, home, SessionsSection(memory_folder=str(memory), disk_after_s=0))
    made.load()
    yield made
    made.may_write.set()
    made.close()


def later(store: Store) -> None:
    """Copies have to wait."""
    store.settings = store.settings.model_copy(update={"disk_after_s": LATER})


@asynccontextmanager
async def writing(store: Store) -> AsyncIterator[Scribe]:
    """A scribe at work."""
    scribe = Scribe(store)
    task = tasks.start(scribe.run(), "scribe")
    yield scribe
    await tasks.cancel(task)


async def test_all_of_a_session_is_written(store: SlowStore, tmp_path: Path) -> None:
    """Record, transcript, and the copy of its snapshot."""
    session = store.create(talk_of("one"))
    save(store, session)
    async with writing(store) as scribe:
        scribe.note(session, ["said"])
        await eventually(lambda: session.disk)
        await eventually(lambda: not session.kv_lock.locked())

    assert ["said"] == store.read_messages(session)
    assert store.is_on_disk(session)
    assert 3 == len(files_in(sessions_folder(tmp_path)))
    assert scribe.noted(session) is None


async def test_a_copy_waits_for_quiet(store: SlowStore, tmp_path: Path) -> None:
    """What was said is written at once; the snapshot is copied when no turn came for a while."""
    later(store)
    session = store.create(talk_of("one"))
    save(store, session)
    async with writing(store) as scribe:
        scribe.note(session, ["said"])
        await eventually(record_of(tmp_path, session).exists)
        copied = session.disk
        store.use(store.settings.model_copy(update={"disk_after_s": 0}))
        scribe.note(session)
        await eventually(lambda: session.disk)

    assert copied is None
    assert ["said"] == store.read_messages(session)


async def test_what_was_said_last_counts(store: SlowStore) -> None:
    """However often something is noted before it can be written, nothing that was said gets lost."""
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    async with writing(store) as scribe:
        store.may_write.clear()
        scribe.note(other)
        await eventually(lambda: store.writes)
        scribe.note(session, ["one"])
        scribe.note(session, ["one", "two"])
        scribe.note(session)
        noted = scribe.noted(session)
        store.may_write.set()
        await eventually(lambda: store.read_messages(session))

    assert ["one", "two"] == noted == store.read_messages(session)
    assert ["record", "messages 2", "record"] == store.writes


async def test_what_comes_while_it_is_written_is_written_next(store: SlowStore) -> None:
    """A turn that ends in the middle of it is not forgotten."""
    session = store.create(talk_of("one"))
    async with writing(store) as scribe:
        store.may_write.clear()
        scribe.note(session, ["one"])
        await eventually(lambda: store.writes)
        scribe.note(session, ["one", "two"])
        store.may_write.set()
        await eventually(lambda: store.read_messages(session) == ["one", "two"])

    assert ["messages 1", "record", "messages 2", "record"] == store.writes


async def test_flush_leaves_nothing_undone(store: SlowStore, tmp_path: Path, memory: Path) -> None:
    """At the end everything is on disk, whatever was due later or never noted; the next start finds it."""
    later(store)
    noted, unnoted, short = (store.create(talk_of(text)) for text in ("one", "two", "three"))
    for session in (noted, unnoted):
        save(store, session)
    scribe = Scribe(store)
    scribe.note(noted, ["said"])
    await scribe.flush()
    store.close()
    following = open_store(tmp_path, memory)
    found = following.sessions
    following.close()

    assert {noted.id, unnoted.id} == set(found)
    assert all(session.disk for session in found.values())
    assert ["said"] == following.read_messages(found[noted.id])
    assert short.id not in found


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
async def test_flush_writes_what_it_can(store: SlowStore, error: Exception) -> None:
    """One that cannot be written costs no other."""
    later(store)
    bad, *good = [store.create(talk_of(text)) for text in ("one", "two", "three")]
    for session in (bad, *good):
        save(store, session)
    scribe = Scribe(store)
    store.bad, store.breaks = bad, error
    scribe.note(bad, ["said"])
    scribe.note(good[0], ["said"])
    await scribe.flush()

    assert all(store.is_on_disk(session) for session in good)
    assert ["said"] == store.read_messages(good[0])
    assert store.read_messages(bad) is None


async def test_nothing_is_written_in_part(store: SlowStore) -> None:
    """A scribe that is ended while it writes finishes that first; two would be in each other's way."""
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    scribe = Scribe(store)
    task = tasks.start(scribe.run(), "scribe")
    store.may_write.clear()
    scribe.note(session, ["said"])
    scribe.note(other, ["said, too"])
    await eventually(lambda: store.writes)
    task.cancel()
    await asyncio.sleep(0)
    is_at_it = not task.done()
    store.may_write.set()
    await asyncio.wait([task])
    first = list(store.writes)
    await scribe.flush()

    assert is_at_it
    assert ["messages 1", "record"] == first
    assert [["said"], ["said, too"]] == [store.read_messages(one) for one in (session, other)]
    assert ["messages 1", "record"] * 2 == store.writes


async def test_a_session_that_is_forgotten_meanwhile(store: SlowStore, tmp_path: Path) -> None:
    """Before or while it is written: nothing of it comes back, not even the folder of its owner."""
    waiting, at_work = store.create(talk_of("one")), store.create(talk_of("two"))
    async with writing(store) as scribe:
        store.may_write.clear()
        scribe.note(at_work, ["said"])
        await eventually(lambda: store.writes)
        scribe.note(waiting, ["said"])
        for session in (waiting, at_work):
            store.forget(session)
        store.may_write.set()
        await eventually(lambda: not at_work.kv_lock.locked())
        await eventually(lambda: scribe.noted(waiting) is None and scribe.noted(at_work) is None)

    assert set() == files_in(sessions_folder(tmp_path))
    assert not (sessions_folder(tmp_path) / ALICE.digest).exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
async def test_one_that_cannot_be_written_does_not_stop_the_others(store: SlowStore, error: Exception) -> None:
    """A full disk, or a bug, costs what could not be written, and nothing after that."""
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    async with writing(store) as scribe:
        store.breaks = error
        scribe.note(session, ["lost"])
        await eventually(lambda: store.writes)
        store.breaks = None
        scribe.note(other, ["said"])
        await eventually(lambda: store.read_messages(other))

    assert ["said"] == store.read_messages(other)


async def test_what_could_not_be_written_is_tried_again(store: SlowStore) -> None:
    """When there is room again, and as long as it is the last that is known."""
    later(store)
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    async with writing(store) as scribe:
        store.breaks = OSError(28, "No space left on device")
        scribe.note(session, ["said"])
        await eventually(lambda: store.writes)
        store.breaks = None
        scribe.note(other)
        await eventually(lambda: store.read_messages(session))

    assert ["said"] == store.read_messages(session)


async def test_a_damaged_key_stops_nobody_else(store: SlowStore, tmp_path: Path) -> None:
    """What cannot be sealed is not written; others are."""
    store.settings = store.settings.model_copy(update={"encrypt": True})
    session = store.create(talk_of("one"))
    other = store.create(talk_of("two", owner=type(ALICE)("bob")))
    store.write_messages(session, ["first"])
    (key,) = (tmp_path / "session_keys").rglob("*.key")
    key.write_bytes(b"short")
    async with writing(store) as scribe:
        scribe.note(session, ["said"])
        scribe.note(other, ["said"])
        await eventually(lambda: store.read_messages(other))

    assert ["said"] == store.read_messages(other)
    assert store.read_messages(session) is None


async def test_nothing_is_copied_where_there_is_no_disk(store: SlowStore, tmp_path: Path) -> None:
    """`sessions.disk_gb: 0` means it."""
    store.settings = store.settings.model_copy(update={"disk_gb": 0})
    session = store.create(talk_of("one"))
    save(store, session)
    async with writing(store) as scribe:
        scribe.note(session, ["said"])
        await eventually(lambda: scribe.noted(session) is None)
        await scribe.flush()

    assert session.disk is None
    assert set() == files_in(sessions_folder(tmp_path))
