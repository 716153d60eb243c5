"""The books of the sessions agree with what is in memory and on disk, whatever happens to either."""

from __future__ import annotations

import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from hugind.proxy.sessions.atrest import AtRestError
from hugind.proxy.sessions.record import Owner, Session, Snapshot
from hugind.proxy.sessions.store import BAD_KEPT, EXPIRY_GRACE_S, Store
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home
from tests.proxy.sessions.storing import (
    ALICE,
    BOB,
    ENGINE,
    KB,
    files_in,
    memory_folder,
    needs_memory,
    open_store,
    owner_folder,
    record_of,
    save,
    sessions_folder,
    talk_of,
)

pytestmark = needs_memory

DAY_S = 86400
WAYS: list[dict[str, Any]] = [{}, {"compress": True}, {"encrypt": True}, {"compress": True, "encrypt": True}]
SECRET = "nobody else may read this"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


Open = Callable[..., Store]


@pytest.fixture
def reopen(tmp_path: Path, memory: Path) -> Iterator[Open]:
    """Opens the store with these settings; the one before is closed, as at the end of a gateway."""
    opened: list[Store] = []

    def open_it(**settings: Any) -> Store:
        for store in opened:
            store.close()
        opened[:] = [open_store(tmp_path, memory, **settings)]
        return opened[0]

    yield open_it
    for store in opened:
        store.close()


def newest(session: Session) -> Snapshot:
    """The snapshot that there must be."""
    assert session.newest is not None
    return session.newest


def on_disk(session: Session) -> Snapshot:
    """The one on disk that there must be."""
    assert session.disk is not None
    return session.disk


def in_memory(session: Session) -> Snapshot:
    """The one in memory that there must be."""
    assert session.memory is not None
    return session.memory


async def written(store: Store, *said: str, owner: Owner = ALICE, is_copied: bool = True, **fields: Any) -> Session:
    """A session with a snapshot in memory, written down, and copied to disk unless told otherwise."""
    session = store.create(talk_of(*said, owner=owner, **fields))
    save(store, session)
    store.write_record(session)
    if is_copied:
        assert await store.copy_to_disk(session)
    return session


# ---- what the next start finds


@pytest.mark.parametrize("is_copied", [True, False])
async def test_sessions_outlive_their_gateway(reopen: Open, is_copied: bool) -> None:
    """All that was written down is known to the next start, and is found by what was said."""
    store = reopen()
    known = await written(store, "one", "two", owner=BOB, is_copied=is_copied, name="my chat")
    known.is_pinned, known.hits["hot"] = True, 3
    store.write_record(known)
    store = reopen()
    match, whole = store.find(talk_of("one", "two", "three", owner=BOB))

    assert [known.to_json()] == [session.to_json() for session in store.sessions.values()]
    assert (2, [known.id]) == (match.shared, [session.id for session in whole])
    assert store.path(whole[0], newest(whole[0])).stat().st_size == 100 * KB
    assert store.is_on_disk(whole[0]) is is_copied


async def test_files_of_no_session_are_removed(reopen: Open, tmp_path: Path) -> None:
    """What a gateway left behind when it was killed takes up no room for long, and nothing else is touched."""
    store = reopen()
    session = await written(store, "one")
    store.write_messages(session, [1])
    before = files_in(sessions_folder(tmp_path)), files_in(store.slots.path)
    folder = owner_folder(tmp_path, session)
    for name in (f"{session.id}.0123.kv", "ses_other.talk", ".ses_other.json.7.tmp", f"{session.disk}.bad", "stray"):
        (folder / name.replace("/", "_")[:99]).write_bytes(b"x")
    for name in ("0123.kv", "0123.kv.part", "0123.in", "0123.kv.bad"):
        (store.slots.path / name).write_bytes(b"x")
    (store.slots.path / "link.in").symlink_to(folder / "stray")
    store = reopen()

    assert before == (files_in(sessions_folder(tmp_path)), files_in(store.slots.path))
    assert not (store.slots.path / "link.in").is_symlink()


async def test_what_cannot_be_removed_is_in_nobodys_way(reopen: Open, tmp_path: Path) -> None:
    """A folder that somebody made among our files costs no session."""
    store = reopen()
    session = await written(store, "one")
    (owner_folder(tmp_path, session) / "ses_x.json").mkdir()
    (owner_folder(tmp_path, session) / "a").mkdir()
    (store.slots.path / "b").mkdir()
    store = reopen()

    assert [session.id] == list(store.sessions)
    assert store.is_persistent


def _spoil(record: Path, spoilt: bytes) -> None:
    record.write_bytes(spoilt)


def _elsewhere(record: Path, owner: Owner) -> None:
    folder = record.parent.with_name(owner.digest)
    folder.mkdir(exist_ok=True)
    record.rename(folder / record.name)


BREAKS: dict[str, Callable[[Path], object]] = {
    "empty": lambda record: _spoil(record, b""),
    "cut": lambda record: _spoil(record, record.read_bytes()[:-20]),
    "no record": lambda record: _spoil(record, b'["ses_1"]'),
    "no fields": lambda record: _spoil(record, b"{}"),
    "of another version": lambda record: _spoil(record, record.read_bytes().replace(b'"version":1', b'"version":99')),
    "more fields": lambda record: _spoil(record, record.read_bytes().replace(b'"turns":', b'"rounds":1,"turns":')),
    "other types": lambda record: _spoil(record, record.read_bytes().replace(b'"turns":1', b'"turns":"many"')),
    "of another owner": lambda record: _elsewhere(record, BOB),
    "under another id": lambda record: record.rename(record.with_name("ses_0.json")),
    "nowhere": lambda record: record.unlink(),
}


@pytest.mark.parametrize("broken", BREAKS)
async def test_a_record_that_cannot_be_trusted_is_not(reopen: Open, tmp_path: Path, broken: str) -> None:
    """Its session starts anew; the others are as they were, and nobody gets what was another's."""
    store = reopen()
    lost, kept = await written(store, "one"), await written(store, "two")
    other = await written(store, "one", owner=BOB)
    BREAKS[broken](record_of(tmp_path, lost))
    store = reopen()

    assert {kept.id, other.id} == set(store.sessions)
    assert [] == store.find(talk_of("one"))[1]
    assert [other.id] == [session.id for session in store.find(talk_of("one", owner=BOB))[1]]
    assert all(lost.id not in name for name in files_in(tmp_path))


@pytest.mark.parametrize("tiers", [("memory",), ("disk",), ("memory", "disk")])
async def test_a_snapshot_that_is_gone_is_not_offered(reopen: Open, tiers: tuple[str, ...]) -> None:
    """After a reboot memory is empty; a session is known even with no snapshot left."""
    store = reopen()
    session = await written(store, "one")
    for tier in tiers:
        store.path(session, getattr(session, tier)).unlink()
    found = reopen().sessions[session.id]

    assert [tier in tiers for tier in ("memory", "disk")] == [found.memory is None, found.disk is None]


@pytest.mark.parametrize("away_s", [-10 * 365 * DAY_S, -3600, 0, 3600, 29 * DAY_S, 10 * 365 * DAY_S])
async def test_the_wall_clock_may_be_wrong(reopen: Open, away_s: float) -> None:
    """A session that seems to be from the future, or years old, is neither negative nor gone within the first hour."""
    store = reopen()
    session = await written(store, "one")
    session.used_at = time.time() - away_s
    store.write_record(session)
    store = reopen()
    idle_s = time.monotonic() - store.sessions[session.id].quiet_since
    await store.sweep()

    assert 0 <= idle_s <= 30 * DAY_S - EXPIRY_GRACE_S + 60
    assert min(max(away_s, 0), 30 * DAY_S - EXPIRY_GRACE_S) == pytest.approx(idle_s, abs=60)
    assert session.id in store.sessions


async def test_what_was_read_is_not_read_again(reopen: Open) -> None:
    """A second worker of the engine finds the store as it is."""
    store = reopen()
    session = await written(store, "one")
    store = reopen()
    found = store.sessions[session.id]
    store.load()

    assert store.sessions[session.id] is found


async def test_hundreds_of_sessions(reopen: Open) -> None:
    """Each is found by its own words, and by nobody else's."""
    store = reopen()
    owners = [Owner("app", f"user {number}") for number in range(10)]
    made = []
    for number in range(300):
        session = store.create(talk_of("hello", f"I am {number}", owner=owners[number % 10]))
        session.turns = 1
        store.write_record(session)
        made.append(session.id)
    store = reopen()
    found = [
        [session.id for session in store.find(talk_of("hello", f"I am {n}", "who?", owner=owners[n % 10]))[1]]
        for n in range(300)
    ]

    assert [[session] for session in made] == found
    assert [] == store.find(talk_of("hello", "I am 4", "who?", owner=owners[5]))[1]


# ---- sessions come and go


async def test_a_session_is_known_by_the_last_that_was_said(reopen: Open) -> None:
    """It grows with its turns, and is found by all that it says now."""
    store = reopen()
    session = store.create(talk_of("one"))
    store.learn(session, talk_of("one", "two").chain)

    assert [session] == store.find(talk_of("one", "two", "three"))[1]
    assert ([], session.id) == ((found := store.find(talk_of("one")))[1], found[0].parent)
    assert [] == store.find(talk_of("one", "two", owner=BOB))[1]


@pytest.mark.parametrize("settings", WAYS)
async def test_nothing_is_left_of_what_was_forgotten(reopen: Open, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Its files go, those of its owner's other sessions stay; with the last one the folder and the key go, too."""
    store = reopen(**settings)
    before = files_in(tmp_path) | files_in(store.slots.path)
    first, second = await written(store, "one"), await written(store, "two")
    for session in (first, second):
        store.write_messages(session, ["said"])
    other = await written(store, "one", owner=BOB)
    others = {name for name in files_in(tmp_path) - before if ALICE.digest not in name}
    store.forget(first)
    after_one = files_in(tmp_path) - before
    store.forget(second)

    assert [other.id] == list(store.sessions)
    assert ([], [other]) == (store.find(talk_of("one"))[1], store.find(talk_of("one", owner=BOB))[1])
    assert 3 + bool(settings.get("encrypt")) == len([name for name in after_one if ALICE.digest in name])
    assert others == files_in(tmp_path) - before
    assert not owner_folder(tmp_path, first).exists()
    assert {in_memory(other).file} == files_in(store.slots.path)


async def test_a_key_is_for_one_engine(reopen: Open, tmp_path: Path, memory: Path) -> None:
    """Who is forgotten by one engine is known to the others as before."""
    store = reopen(encrypt=True)
    session = await written(store, "one")
    other = Store("other", Home(tmp_path), SessionsSection(memory_folder=str(memory), encrypt=True))
    other.load()
    there = other.create(talk_of("one"))
    other.write_messages(there, ["hello"])
    store.forget(session)

    assert ["hello"] == other.read_messages(there)
    other.close()


async def test_a_forgotten_session_does_not_come_back(reopen: Open, tmp_path: Path) -> None:
    """Whoever still has it in hand may write it down or say what it says: it stays forgotten."""
    store = reopen()
    session = await written(store, "one")
    store.forget(session)
    store.learn(session, talk_of("one", "two").chain)
    store.write_record(session)

    assert not await store.copy_to_disk(session)
    assert [] == store.find(talk_of("one", "two"))[1]
    assert set() == files_in(sessions_folder(tmp_path))


async def test_what_was_never_written_is_only_dropped(reopen: Open, tmp_path: Path) -> None:
    """A short question leaves no trace."""
    store = reopen()
    store.discard(store.create(talk_of("one")))

    assert ({}, 0) == (store.sessions, len(store.index))
    assert set() == files_in(sessions_folder(tmp_path))


async def test_what_was_written_once_is_dropped_with_its_files(reopen: Open, tmp_path: Path) -> None:
    """A session whose snapshots are all gone leaves no record behind when it is dropped."""
    store = reopen()
    session = await written(store, "one")
    for tier in ("memory", "disk"):
        store.quarantine(session, getattr(session, tier))
    store.discard(session)
    store = reopen()

    assert {} == store.sessions
    assert set() == files_in(sessions_folder(tmp_path))


# ---- budgets


async def test_room_in_memory(reopen: Open) -> None:
    """What fits goes into the slot folder."""
    store = reopen(memory_mb=1)
    session = store.create(talk_of("one"))

    assert store.slots.path == await store.room_for(session, 900 * KB)


async def test_room_is_made_in_memory(reopen: Open) -> None:
    """The less valuable one leaves, and is on disk by then."""
    store = reopen(memory_mb=1)
    old, new, coming = (store.create(talk_of(text)) for text in ("old", "new", "coming"))
    for session in (old, new):
        save(store, session, 400 * KB)
    old.quiet_since -= 1000
    room = await store.room_for(coming, 500 * KB)

    assert store.slots.path == room
    assert (None, True) == (old.memory, old.disk is not None)
    assert (True, None) == (new.memory is not None, new.disk)
    assert 400 * KB == store.memory_bytes


async def test_a_session_makes_room_for_itself(reopen: Open) -> None:
    """The snapshot that is about to be replaced does not count, and does not leave."""
    store = reopen(memory_mb=1)
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    save(store, session, 500 * KB)
    save(store, other, 300 * KB)
    async with session.kv_lock:
        room = await store.room_for(session, 600 * KB)

    assert store.slots.path == room
    assert [500 * KB, 300 * KB] == [in_memory(session).size_bytes, in_memory(other).size_bytes]


@pytest.mark.parametrize("settings", [{"memory_mb": 0}, {"memory_mb": 1}])
async def test_room_on_disk(reopen: Open, tmp_path: Path, settings: dict[str, Any]) -> None:
    """What is too large for memory goes straight to disk, into its owner's private folder."""
    store = reopen(**settings)
    session = store.create(talk_of("one"))
    room = await store.room_for(session, 2000 * KB)

    assert room is not None
    assert owner_folder(tmp_path, session) == room.parent
    assert 0o700 == stat.S_IMODE(room.parent.stat().st_mode)
    assert room.name.startswith(session.id)
    assert room.suffix == ".kv"
    assert not room.exists()


@pytest.mark.parametrize(
    "settings",
    [{"disk_gb": 0}, {"disk_gb": 0.0019}, {"encrypt": True}, {"disk_gb": 1, "user_disk_gb": 0.001}],
    ids=["no disk", "too small", "in the clear", "too much for one"],
)
async def test_no_room(reopen: Open, settings: dict[str, Any]) -> None:
    """What fits nowhere is not saved; nor does it lie on disk unencrypted where that was asked for."""
    store = reopen(memory_mb=1, **settings)

    assert None is await store.room_for(store.create(talk_of("one")), 2000 * KB)


async def test_saved_straight_to_disk(reopen: Open, tmp_path: Path) -> None:
    """It replaces what was in memory and on disk, as soon as it is written down."""
    store = reopen(memory_mb=1)
    session = await written(store, "one")
    room = await store.room_for(session, 2000 * KB)
    assert room is not None
    save(store, session, 2000 * KB, target=room)
    store.write_record(session)

    assert (None, room.name) == (session.memory, on_disk(session).file)
    assert {f"{session.owner.digest}/{name}" for name in (room.name, f"{session.id}.json")} == files_in(
        sessions_folder(tmp_path)
    )
    assert set() == files_in(store.slots.path)


async def test_the_disk_has_a_limit(reopen: Open) -> None:
    """The least valuable snapshot leaves the disk before another comes."""
    store = reopen(disk_gb=0.001)
    made = [store.create(talk_of(str(number))) for number in range(4)]
    for age, session in enumerate(made):
        save(store, session, 400 * KB)
        session.quiet_since += age * 100 - 1000
        assert await store.copy_to_disk(session)

    assert [False, False, True, True] == [session.disk is not None for session in made]
    assert all(session.memory for session in made)


async def test_one_user_cannot_fill_the_disk(reopen: Open) -> None:
    """Who has used up their part makes room in it, and takes nothing from others."""
    store = reopen(disk_gb=1, user_disk_gb=0.001)
    other = await written(store, "hello", owner=BOB)
    other.quiet_since -= DAY_S
    mine = [store.create(talk_of(str(number))) for number in range(3)]
    for age, session in enumerate(mine):
        save(store, session, 400 * KB)
        session.quiet_since += age * 100 - 1000
        assert await store.copy_to_disk(session)
    large = store.create(talk_of("large"))
    save(store, large, 1100 * KB)

    assert not await store.copy_to_disk(large)
    assert [False, True, True] == [session.disk is not None for session in mine]
    assert other.disk


async def test_what_was_quiet_for_long_leaves_memory(reopen: Open) -> None:
    """It goes to disk first."""
    store = reopen(memory_ttl_s=100)
    quiet, busy = await written(store, "one", is_copied=False), await written(store, "two", is_copied=False)
    quiet.quiet_since -= 101
    await store.sweep()

    assert (None, True) == (quiet.memory, quiet.disk is not None)
    assert (True, None) == (busy.memory is not None, busy.disk)


async def test_what_was_quiet_for_very_long_is_forgotten(reopen: Open, tmp_path: Path) -> None:
    """Unless it is pinned, or at its turn."""
    store = reopen(disk_ttl_days=1)
    quiet, pinned, at_turn = [await written(store, text) for text in ("one", "two", "three")]
    pinned.is_pinned = True
    await at_turn.turn_lock.acquire()
    for session in (quiet, pinned, at_turn):
        session.quiet_since -= DAY_S + 1
    await store.sweep()

    assert {pinned.id, at_turn.id} == set(store.sessions)
    assert not any(quiet.id in name for name in files_in(tmp_path))


@pytest.mark.parametrize("still", ["nowhere", "in a slot", "at its turn", "its history is kept"])
async def test_what_does_not_fit_anywhere_is_let_go(reopen: Open, still: str) -> None:
    """Without a disk, what leaves memory is gone, and its session with it, unless somebody has more of it."""
    store = reopen(memory_mb=1, disk_gb=0)
    old, new = store.create(talk_of("one", name="a", is_kept="kept" in still)), store.create(talk_of("two"))
    save(store, old, 600 * KB)
    old.quiet_since -= 100
    save(store, new, 600 * KB)
    if still == "in a slot":
        store.is_in_slot = lambda session: session is old
    if still == "at its turn":
        await old.turn_lock.acquire()
    await store.sweep()

    assert (None, None) == (old.memory, old.disk)
    assert ([new] if still == "nowhere" else [old, new]) == list(store.sessions.values())
    assert 600 * KB == store.memory_bytes


# ---- copies on disk


@pytest.mark.parametrize("settings", WAYS)
async def test_a_copy_comes_back_as_it_was(reopen: Open, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Plain, compressed or encrypted, private, and nothing is left of reading it."""
    store = reopen(**settings)
    session = store.create(talk_of("one"))
    content = save(store, session, text=SECRET).read_bytes()
    copied = await store.copy_to_disk(session), await store.copy_to_disk(session)
    snapshot = on_disk(session)
    packed = store.path(session, snapshot)
    plain = await store.plain_file(session, snapshot)
    back = plain.read_bytes()
    store.dispose(session, snapshot, plain)

    assert (True, True) == copied
    assert content == back
    assert settings == {} or packed.suffix == ".kvp"
    assert settings.get("encrypt", False) is (SECRET.encode() not in packed.read_bytes())
    assert (0o600, 0o700) == tuple(stat.S_IMODE(path.stat().st_mode) for path in (packed, packed.parent))
    assert session.memory
    assert {session.memory.file} == files_in(store.slots.path)
    assert {packed.name, f"{session.id}.json"} == files_in(owner_folder(tmp_path, session))


async def test_the_next_copy_replaces_the_one_before(reopen: Open, tmp_path: Path) -> None:
    """There is one snapshot of a session on disk."""
    store = reopen()
    session = await written(store, "one")
    save(store, session)

    assert not store.is_on_disk(session)
    assert await store.copy_to_disk(session)
    assert {on_disk(session).file, f"{session.id}.json"} == files_in(owner_folder(tmp_path, session))


class Watched(Store):
    """Tells what files there are while a record is being written."""

    there: list[set[str]]

    def write_record(self, session: Session) -> None:
        self.there = [*getattr(self, "there", []), files_in(self.path(session, on_disk(session)).parent)]
        super().write_record(session)


async def test_the_one_before_goes_last(tmp_path: Path, memory: Path) -> None:
    """Until a record names the new snapshot, the old one is there: the power may go at any time."""
    store = Watched(ENGINE, Home(tmp_path), SessionsSection(memory_folder=str(memory)))
    session = store.create(talk_of("one"))
    for _ in "ab":
        save(store, session)
        await store.copy_to_disk(session)
    store.close()

    assert [1, 3] == [len(names) for names in store.there]


@pytest.mark.parametrize("is_memory", [True, False])
async def test_a_snapshot_is_there_until_the_next_is_written_down(reopen: Open, is_memory: bool) -> None:
    """A gateway that is killed right after a save has the snapshot before, whichever tier the new one went to."""
    store = reopen()
    session = await written(store, "one", is_copied=not is_memory)
    if not is_memory:
        await store.sweep(wanted_memory=store.budget().memory_bytes)
        assert session.memory is None
    before = session.newest
    for _ in "abc":
        target = None if is_memory else await store.room_for(session, store.budget().memory_bytes + 1)
        save(store, session, target=target)
    found = reopen().sessions[session.id]

    assert before == found.newest
    assert store.path(found, newest(found)).exists()


async def test_no_more_than_two_generations_are_kept(reopen: Open) -> None:
    """However many saves come before a record is written, memory has the newest and the one that is recorded."""
    store = reopen()
    session = await written(store, "one", is_copied=False)
    sizes = []
    for _ in "abc":
        save(store, session)
        sizes.append(len(files_in(store.slots.path)))
    store.write_record(session)

    assert [2, 2, 2] == sizes
    assert {in_memory(session).file} == files_in(store.slots.path)


async def test_nothing_waits_for_a_record_that_nobody_writes(reopen: Open) -> None:
    """Without a disk, the snapshot before goes at once."""
    store = reopen(disk_gb=0)
    session = store.create(talk_of("one"))
    for _ in "abc":
        save(store, session)

    assert {in_memory(session).file} == files_in(store.slots.path)


def _block_record(home: Path, session: Session) -> None:
    record = record_of(home, session)
    record.unlink()
    record.mkdir()  # nothing can be renamed over a folder


def _block_folder(home: Path, session: Session) -> None:
    folder = owner_folder(home, session)
    folder.rename(folder.with_name("moved"))
    folder.write_bytes(b"")


@pytest.mark.parametrize("fails", ["source", "record", "folder"])
async def test_a_copy_that_fails_changes_nothing(reopen: Open, tmp_path: Path, fails: str) -> None:
    """The snapshot that was on disk is there and in the books; nothing of the new one is."""
    store = reopen()
    session = await written(store, "one")
    before, old = session.disk, store.path(session, on_disk(session))
    new = save(store, session)
    names = files_in(tmp_path)
    if fails == "source":
        new.unlink()
    elif fails == "record":
        _block_record(tmp_path, session)
    else:
        _block_folder(tmp_path, session)
        old = old.parent.with_name("moved") / old.name
    copied = await store.copy_to_disk(session)

    assert not copied
    assert before == session.disk
    assert old.exists()
    assert {name for name in names if name.endswith(".kv")} == {
        name.replace("moved", ALICE.digest) for name in files_in(tmp_path) if name.endswith(".kv")
    }
    assert not session.kv_lock.locked()


async def test_a_full_disk_gets_no_more(reopen: Open) -> None:
    """A copy that would not fit into the budget is not begun."""
    store = reopen(disk_gb=0.0001)
    session = store.create(talk_of("one"))
    save(store, session, 101 * KB)

    assert not await store.copy_to_disk(session)
    assert not await store.copy_to_disk(store.create(talk_of("two")))


# ---- snapshots that are not what they were


async def test_a_bad_snapshot_is_never_offered_again(reopen: Open) -> None:
    """It is out of the books; what the other tier has stays."""
    store = reopen()
    session = await written(store, "one")
    bad = store.path(session, in_memory(session))
    store.quarantine(session, in_memory(session))

    assert (None, True, 1) == (session.memory, session.disk is not None, store.refused)
    assert not bad.exists()


async def test_only_some_bad_snapshots_are_kept(reopen: Open) -> None:
    """For whoever looks into it: the last few, until the next start."""
    store = reopen()
    for number in range(BAD_KEPT + 3):
        session = store.create(talk_of(str(number)))
        save(store, session)
        store.quarantine(session, in_memory(session))

    assert BAD_KEPT == len(files_in(store.slots.path))
    assert set() == files_in(reopen().slots.path)


async def test_a_bad_snapshot_that_is_gone(reopen: Open) -> None:
    """There need not be a file."""
    store = reopen()
    session = await written(store, "one")
    store.path(session, on_disk(session)).unlink()
    store.quarantine(session, on_disk(session))

    assert session.disk is None


async def test_bad_snapshots_are_forgotten_with_their_session(reopen: Open, tmp_path: Path) -> None:
    """What somebody said goes when they ask for it, readable or not."""
    store = reopen()
    session, other = await written(store, "one"), await written(store, "two")
    for tier in ("memory", "disk"):
        store.quarantine(session, getattr(session, tier))
    store.forget(session)

    assert {in_memory(other).file} == files_in(store.slots.path)
    assert not any(session.id in name for name in files_in(tmp_path))


@pytest.mark.parametrize("change", ["cut", "flipped", "of another session"])
async def test_a_changed_copy_is_refused(reopen: Open, change: str) -> None:
    """A packed file that was tampered with is not unpacked, and leaves nothing."""
    store = reopen(encrypt=True)
    session, other = await written(store, "one"), await written(store, "two")
    packed = store.path(session, on_disk(session))
    data = packed.read_bytes()
    changed = {
        "cut": data[:-1],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "of another session": store.path(other, on_disk(other)).read_bytes(),
    }
    packed.write_bytes(changed[change])
    before = files_in(store.slots.path)
    with pytest.raises(AtRestError):
        await store.plain_file(session, on_disk(session))

    assert before == files_in(store.slots.path)


# ---- what was said


@pytest.mark.parametrize("settings", WAYS)
async def test_what_was_said_comes_back(reopen: Open, tmp_path: Path, settings: dict[str, Any]) -> None:
    """By the next start, too; the file is private, and with a key nobody reads it."""
    store = reopen(**settings)
    session = store.create(talk_of("one"))
    messages = [{"role": "user", "content": secrets.token_hex(8) + SECRET, "x": [None, 1.5, "ä"]}]
    for said in ([], messages):
        store.write_messages(session, said)
    store.write_record(session)
    store = reopen(**settings)
    file = owner_folder(tmp_path, session) / f"{session.id}.talk"

    assert messages == store.read_messages(store.sessions[session.id])
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert not settings.get("encrypt") or SECRET.encode() not in file.read_bytes()
    assert {file.name, f"{session.id}.json"} == files_in(owner_folder(tmp_path, session))


async def test_nothing_was_said(reopen: Open) -> None:
    """There is no transcript of what was never written."""
    store = reopen()

    assert store.read_messages(store.create(talk_of("one"))) is None


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("spoilt", ["cut", "flipped", "no list", "of another session"])
async def test_a_spoilt_transcript_is_none(reopen: Open, tmp_path: Path, settings: dict[str, Any], spoilt: str) -> None:
    """It is not believed; another session's passes for nobody's where there is a key."""
    store = reopen(**settings)
    session, other = store.create(talk_of("one")), store.create(talk_of("two"))
    store.write_messages(session, ["mine"])
    store.write_messages(other, ["theirs"])
    mine, theirs = (owner_folder(tmp_path, one) / f"{one.id}.talk" for one in (session, other))
    data = mine.read_bytes()
    if spoilt == "cut":
        mine.write_bytes(data[: len(data) // 2])
    elif spoilt == "flipped":
        mine.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif spoilt == "no list":
        store.write_messages(session, {"a": 1})  # type: ignore[arg-type]
    elif settings.get("encrypt"):
        theirs.replace(mine)
    else:
        pytest.skip("without a key nothing tells whose it is but its name")

    assert store.read_messages(session) is None


@pytest.mark.parametrize("after", WAYS)
@pytest.mark.parametrize("before", WAYS)
async def test_other_settings_lose_nothing(reopen: Open, before: dict[str, Any], after: dict[str, Any]) -> None:
    """What was kept in one way is there after a start with another."""
    store = reopen(**before)
    session = await written(store, "one")
    content = store.path(session, in_memory(session)).read_bytes()
    store.write_messages(session, ["said"])
    store = reopen(**after)
    found = store.sessions[session.id]
    plain = await store.plain_file(found, on_disk(found))

    assert ["said"] == store.read_messages(found)
    assert content == plain.read_bytes()


# ---- two gateways


async def test_a_second_gateway_leaves_nothing(reopen: Open, tmp_path: Path, memory: Path) -> None:
    """It serves from memory alone, changes nothing that the first one has, and takes all with it when it ends."""
    store = reopen()
    session = await written(store, "one")
    before = files_in(tmp_path), files_in(memory)
    second = open_store(tmp_path, memory)
    guest = second.create(talk_of("one"))
    room = await second.room_for(guest, 100 * KB)
    save(second, guest)
    second.write_record(guest)
    second.write_messages(guest, ["hello"])
    copied = await second.copy_to_disk(guest)
    forgotten = second.create(talk_of("two"))
    save(second, forgotten)
    second.forget(forgotten)
    await second.sweep()
    held = second.sessions
    second.close()

    assert (True, False) == (store.is_persistent, second.is_persistent)
    assert ([guest.id], [session.id]) == (list(held), list(store.sessions))
    assert (second.slots.path, False) == (room, copied)
    assert second.slots.path != store.slots.path
    assert before == (files_in(tmp_path), files_in(memory))
    assert not second.slots.path.exists()


async def test_the_next_gateway_takes_over(reopen: Open, tmp_path: Path, memory: Path) -> None:
    """A store can be had once it is closed, from whatever thread that was."""
    store = reopen()
    session = await written(store, "one")
    thread = threading.Thread(target=store.close)
    thread.start()
    thread.join()
    second = open_store(tmp_path, memory)
    second.close()

    assert second.is_persistent
    assert [session.id] == list(second.sessions)


# ---- without memory


async def test_without_a_tmpfs_all_is_on_disk(tmp_path: Path) -> None:
    """Slot files are written to disk then, and the store says why."""
    store = open_store(tmp_path, None, memory_mb=100)
    session = store.create(talk_of("one"))
    room = await store.room_for(session, 100 * KB)
    save(store, session, target=room)
    store.write_record(session)
    store.close()

    assert (False, 0) == (store.slots.is_memory, store.budget().memory_bytes)
    assert room is not None
    assert owner_folder(tmp_path, session) == room.parent
    assert "No such file" in store.slots.reason


async def test_nothing_lies_on_disk_in_the_clear(tmp_path: Path) -> None:
    """Encryption without a tmpfs is refused, with what to do about it."""
    store = open_store(tmp_path, None)
    settings = SessionsSection(memory_folder=str(tmp_path / "none"), encrypt=True)
    with pytest.raises(ConfigError) as refused:
        store.use(settings)
    store.use(settings.model_copy(update={"enabled": False}))
    store.close()

    assert "sessions.encrypt" == refused.value.key
    assert "sessions.memory_folder" in (refused.value.hint or "")


def test_records_say_nothing_of_names(reopen: Open, tmp_path: Path) -> None:
    """No file or folder is named after a user, an id, or anything that a client chose."""
    store = reopen()
    session = store.create(talk_of("one", owner=Owner("../alice", "../../bob"), name="/etc/passwd"))
    save(store, session)
    store.write_record(session)
    record = orjson.loads(record_of(tmp_path, session).read_bytes())

    assert "/etc/passwd" == record["name"]
    assert {f"{session.owner.digest}/{session.id}.json"} == files_in(sessions_folder(tmp_path))


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    """What lies beside the owners' folders is nobody's, and neither read nor removed."""
    store = open_store(tmp_path, None)
    store.close()
    foreign = sessions_folder(tmp_path) / "lost+found"
    foreign.mkdir()
    (foreign / "file").write_text("somebody's")
    store = open_store(tmp_path, None)
    store.close()

    assert "somebody's" == (foreign / "file").read_text()
