"""Nothing is believed of a slot file that was not checked, and nothing is left of one that was refused."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import xxhash

from hugind.proxy.sessions.prompts import hold_prompt
from hugind.proxy.sessions.record import Snapshot
from hugind.proxy.sessions.slotfile import SlotFileError, parse
from hugind.proxy.sessions.snapshots import SnapshotError, check, restore, save
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import Saved, SlotActionRefused, SlotState, WorkerClient
from tests.fakes.standin import StartStandin, standin_model, start_standin
from tests.proxy.serving import endless
from tests.proxy.sessions.engine_slots import SLOTS, TEXT, FakeSlots, client_of, slot_file

__all__ = ["standin_model", "start_standin"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The worker's slot folder."""
    made = tmp_path / "slots"
    made.mkdir()
    return made


@pytest.fixture
async def client(start_standin: StartStandin, folder: Path) -> AsyncIterator[WorkerClient]:
    """Of a stand-in that writes into the folder."""
    standin = start_standin("--parallel", str(SLOTS), "--slot-save-path", str(folder))
    made = client_of(standin)
    yield made
    made.close()


def snapshot_of(data: bytes, name: str = "a.kv") -> Snapshot:
    """What was noted of a file when it was written."""
    file = parse(data)
    return Snapshot(name, file.tokens, len(data), xxhash.xxh3_128_hexdigest(data), file.n_stream, "fp", 1.0)


def put(folder: Path, data: bytes, name: str = "a.kv") -> Path:
    """A file that was saved before."""
    (folder / name).write_bytes(data)
    return folder / name


# ---- with an engine's real files


async def test_a_slot_goes_to_a_file_and_back(client: WorkerClient, folder: Path) -> None:
    """Restored into another slot, all of it is reused; the file is private, and has a name of its own."""
    await hold_prompt(client, 0, TEXT)
    snapshot = await save(client, 0, folder, "fp")
    file = folder / snapshot.file
    await restore(client, 1, snapshot, file, folder, SLOTS)
    reused = await hold_prompt(client, 1, TEXT + "and more")

    assert ["fp", SLOTS, file.stat().st_size] == [snapshot.fingerprint, snapshot.n_stream, snapshot.size_bytes]
    assert snapshot.tokens == check(file, snapshot).tokens == len(TEXT.encode()) // 4 + 1
    assert snapshot.tokens - 1 == reused
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert [file] == list(folder.iterdir())


async def test_a_slot_goes_straight_to_disk(client: WorkerClient, folder: Path, tmp_path: Path) -> None:
    """Through a link that is gone afterwards: the engine only writes into its folder."""
    target = tmp_path / "ses_1.0123.kv"
    await hold_prompt(client, 0, TEXT)
    snapshot = await save(client, 0, folder, "fp", target)
    await restore(client, 1, snapshot, target, folder, SLOTS)
    reused = await hold_prompt(client, 1, TEXT)

    assert (target.name, target.stat().st_size) == (snapshot.file, snapshot.size_bytes)
    assert snapshot.tokens - 1 == reused
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert not target.is_symlink()
    assert [] == list(folder.iterdir())


@pytest.mark.parametrize("slots", [1, 3, 4])
async def test_another_number_of_slots(
    start_standin: StartStandin, client: WorkerClient, folder: Path, slots: int
) -> None:
    """A file is rewritten for a worker with more or fewer slots; the original stays as it was."""
    await hold_prompt(client, 0, TEXT)
    snapshot = await save(client, 0, folder, "fp")
    source = folder / snapshot.file
    data = source.read_bytes()
    other = client_of(start_standin("--parallel", str(slots), "--slot-save-path", str(folder)))
    await restore(other, slots - 1, snapshot, source, folder, slots)
    reused = await hold_prompt(other, slots - 1, TEXT)
    other.close()

    assert snapshot.tokens - 1 == reused
    assert data == source.read_bytes()
    assert [source] == list(folder.iterdir())


async def test_an_empty_slot_is_not_saved(client: WorkerClient, folder: Path) -> None:
    """The engine would write a file with nothing in it, and call that a success."""
    with pytest.raises(SnapshotError, match="nothing to save"):
        await save(client, 0, folder, "fp")

    assert [] == list(folder.iterdir())


async def test_a_slot_that_computes_is_not_saved(client: WorkerClient, folder: Path) -> None:
    """The save would wait for it, and everybody for the save."""
    body = orjson.dumps(endless(token_ms=60_000) | {"id_slot": 0})
    async with client.post("/v1/chat/completions", body):
        while not (await client.slots(5))[0].is_processing:
            pass
        with pytest.raises(SnapshotError, match="nothing to save"):
            await save(client, 0, folder, "fp")

    assert [] == list(folder.iterdir())


async def test_a_worker_without_room_says_so(client: WorkerClient, folder: Path, tmp_path: Path) -> None:
    """What the engine cannot write is an error of the save, not of the worker."""
    await hold_prompt(client, 0, TEXT)
    with pytest.raises(SnapshotError, match="Unable to save"):
        await save(client, 0, folder, "fp", tmp_path / "no folder" / "a.kv")

    assert [] == list(folder.iterdir())


# ---- when the engine lies

Change = Callable[[FakeSlots], None]


def _set(**values: object) -> Change:
    def change(slots: FakeSlots) -> None:
        for name, value in values.items():
            setattr(slots, name, value)

    return change


FILE = slot_file(20)
LIES: dict[str, Change] = {
    "fewer tokens": _set(saved=Saved(19, len(FILE))),
    "no tokens": _set(saved=Saved(0, len(FILE))),
    "more bytes": _set(saved=Saved(20, len(FILE) + 1)),
    "fewer bytes": _set(saved=Saved(20, len(FILE) - 1)),
    "a short file": _set(data=FILE[:-9]),
    "a short file, and it knows": _set(data=FILE[:-9], saved=Saved(20, len(FILE) - 9)),
    "a long file": _set(data=FILE + b"x", saved=Saved(20, len(FILE) + 1)),
    "an empty file": _set(data=b"", saved=Saved(20, 0)),
    "another slot's tokens": _set(data=slot_file(24), saved=Saved(24, len(slot_file(24)))),
    "no slot file": _set(data=bytes(len(FILE))),
    "a refusal": _set(fails=SlotActionRefused("no room")),
    "nothing to save": _set(state=SlotState(0, is_processing=False, tokens=0)),
    "at work": _set(state=SlotState(0, is_processing=True, tokens=20)),
    "no such slot": _set(state=None),
}


@pytest.mark.parametrize("is_memory", [True, False])
@pytest.mark.parametrize("lie", LIES)
async def test_a_save_that_is_not_what_it_says(folder: Path, tmp_path: Path, lie: str, is_memory: bool) -> None:
    """It does not count, and no file is left of it."""
    slots = FakeSlots(folder)
    LIES[lie](slots)
    with pytest.raises(SnapshotError):
        await save(slots.client, 0, folder, "fp", None if is_memory else tmp_path / "a.kv")

    assert [] == list(folder.iterdir())
    assert [folder] == list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [WorkerUnreachable("dead"), asyncio.CancelledError()])
async def test_a_save_that_is_cut_off(folder: Path, tmp_path: Path, error: BaseException) -> None:
    """A worker that dies, or a caller that gives up, leaves no half a file."""
    slots = FakeSlots(folder)
    slots.fails = error  # type: ignore[assignment]
    for target in (None, tmp_path / "a.kv"):
        with pytest.raises(type(error)):
            await save(slots.client, 0, folder, "fp", target)

    assert [] == list(folder.iterdir())
    assert [folder] == list(tmp_path.iterdir())


async def test_names_are_ours(folder: Path) -> None:
    """Each save has a fresh random name, and is not to be mistaken for a good one before it is checked."""
    slots = FakeSlots(folder)
    made = {(await save(slots.client, 0, folder, "fp")).file for _ in range(3)}

    assert 3 == len(made)
    assert all(len(name) == 35 and name.endswith(".kv") for name in made)
    assert made == {name.removesuffix(".part") for _, name in slots.asked}
    assert made == {file.name for file in folder.iterdir()}


async def test_a_fresh_save_is_what_it_says(folder: Path) -> None:
    """What is noted is what the file holds."""
    slots = FakeSlots(folder)
    snapshot = await save(slots.client, 0, folder, "fp")

    assert replace(snapshot_of(FILE, snapshot.file), saved_at=snapshot.saved_at) == snapshot


# ---- when the file is not what it was

SPOILT: dict[str, tuple[bytes, bool]] = {
    "cut": (FILE[:-1], True),
    "cut in the header": (FILE[:30], True),
    "empty": (b"", True),
    "one byte flipped": (FILE[:-5] + bytes([FILE[-5] ^ 1]) + FILE[-4:], True),
    "a token changed": (FILE[:24] + b"\xff" + FILE[25:], True),
    "something appended": (FILE + b"x", True),
    "another snapshot": (slot_file(21), True),
    "no slot file": (bytes(len(FILE)), True),
}


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_a_changed_file_never_reaches_the_engine(folder: Path, tmp_path: Path, spoilt: str) -> None:
    """From memory or disk: a cut one would abort the engine, a changed one would be restored without a word."""
    slots = FakeSlots(folder)
    data, is_bad = SPOILT[spoilt]
    for where in (folder, tmp_path):
        with pytest.raises(SnapshotError) as refused:
            await restore(slots.client, 0, snapshot_of(FILE), put(where, data), folder, SLOTS)

        assert is_bad == refused.value.is_bad
    assert [] == slots.asked
    assert ["a.kv"] == [file.name for file in folder.iterdir()]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """By its size, and where that was noted wrongly, by its structure."""
    whole = slot_file(5)
    for length in range(len(whole)):
        data = whole[:length]
        noted = replace(snapshot_of(whole), size_bytes=length, checksum=xxhash.xxh3_128_hexdigest(data))
        for expected in (snapshot_of(whole), noted):
            with pytest.raises(SlotFileError):
                check(put(tmp_path, data), expected)


def test_the_number_of_tokens_counts(tmp_path: Path) -> None:
    """A file with other tokens than noted is refused even if all else agrees."""
    with pytest.raises(SlotFileError, match="20 tokens instead of 19"):
        check(put(tmp_path, FILE), replace(snapshot_of(FILE), tokens=19))


@pytest.mark.parametrize("planted", ["link", "dangling link", "folder", "pipe", "nothing"])
async def test_only_plain_files_are_read(folder: Path, tmp_path: Path, planted: str) -> None:
    """Whatever somebody put in the place of a snapshot: it is not followed, and nothing hangs."""
    slots, good, source = FakeSlots(folder), put(tmp_path, FILE, "good"), folder / "a.kv"
    if planted == "link":
        source.symlink_to(good)
    elif planted == "dangling link":
        source.symlink_to(tmp_path / "none")
    elif planted == "folder":
        source.mkdir()
    elif planted == "pipe":
        os.mkfifo(source)
    before = list(folder.iterdir())
    async with asyncio.timeout(10):
        with pytest.raises(SnapshotError) as refused:
            await restore(slots.client, 0, snapshot_of(FILE), source, folder, SLOTS)

    assert refused.value.is_bad
    assert ([], before) == (slots.asked, list(folder.iterdir()))


# ---- how it is presented


async def test_a_file_in_the_folder_is_restored_as_it_is(folder: Path) -> None:
    """It is not copied."""
    slots = FakeSlots(folder)
    await restore(slots.client, 0, snapshot_of(FILE), put(folder, FILE), folder, SLOTS)

    assert [("restore", "a.kv")] == slots.asked


@pytest.mark.parametrize("slots_now", [1, SLOTS, 4])
async def test_a_file_elsewhere_gets_a_name_in_the_folder(folder: Path, tmp_path: Path, slots_now: int) -> None:
    """For as long as the restore takes; rewritten where the worker has another number of slots."""
    slots, source = FakeSlots(folder), put(tmp_path, FILE)
    await restore(slots.client, 0, snapshot_of(FILE), source, folder, slots_now)
    seen = parse(slots.seen)

    assert (slots_now, 20) == (seen.n_stream, seen.tokens)
    assert slots_now != SLOTS or slots.seen == FILE
    assert FILE == source.read_bytes()
    assert [] == list(folder.iterdir())
    assert slots.asked[0][1] != "a.kv"


@pytest.mark.parametrize("slots_now", [SLOTS, 4])
@pytest.mark.parametrize(
    ("change", "error", "is_bad"),
    [
        (_set(fails=SlotActionRefused("no")), SnapshotError, True),
        (_set(restored=19), SnapshotError, True),
        (_set(restored=0), SnapshotError, True),
        (_set(fails=WorkerUnreachable("dead")), WorkerUnreachable, None),
        (_set(fails=asyncio.CancelledError()), asyncio.CancelledError, None),
    ],
)
async def test_a_restore_that_fails(
    folder: Path, tmp_path: Path, slots_now: int, change: Change, error: type[BaseException], is_bad: bool | None
) -> None:
    """A file that the engine does not take, or takes otherwise, is to blame; a worker that died is not proof."""
    slots, source = FakeSlots(folder), put(tmp_path, FILE)
    change(slots)
    with pytest.raises(error) as refused:
        await restore(slots.client, 0, snapshot_of(FILE), source, folder, slots_now)

    assert is_bad is getattr(refused.value, "is_bad", None)
    assert [] == list(folder.iterdir())
    assert source.exists()


async def test_a_good_file_is_not_to_blame_for_a_full_disk(folder: Path, tmp_path: Path) -> None:
    """Where there is no room for the rewritten one, it is tried again another time."""
    data = slot_file(20_000)
    slots, source = FakeSlots(folder), put(tmp_path, data)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SnapshotError) as refused:
            await restore(slots.client, 0, snapshot_of(data), source, folder, SLOTS + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not refused.value.is_bad
    assert ([], []) == (slots.asked, list(folder.iterdir()))


async def test_a_good_file_is_not_to_blame_for_a_folder_that_is_gone(folder: Path, tmp_path: Path) -> None:
    """Nor where it cannot be presented."""
    slots, source = FakeSlots(folder), put(tmp_path, FILE)
    folder.rmdir()
    with pytest.raises(SnapshotError) as refused:
        await restore(slots.client, 0, snapshot_of(FILE), source, folder, SLOTS)

    assert not refused.value.is_bad
