"""What a slot holds of a session can be had again, whole or not at all, from wherever it is the most."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hugind.proxy.sessions.record import Label, Session
from hugind.proxy.sessions.store import Store
from hugind.supervisor.errors import WorkerUnreachable
from tests.eventually import eventually
from tests.proxy.sessions.parts import STORY, Parts, parts
from tests.proxy.sessions.storing import files_in, memory_folder, needs_memory, record_of, sessions_folder

pytestmark = needs_memory

SHORT, LONG = STORY * 4, STORY * 8
NEXT = "And then? "
STRAIGHT_TO_DISK = {"memory_mb": 0}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


def tokens_of(text: str) -> int:
    """As the stand-in counts."""
    return -(-len(text) // 4)


async def bring_back(made: Parts, session: Session, base: Session | None = None) -> Label | None:
    """Into the second slot."""
    return await made.vault.bring_back(made.place(1), session, base)


def drop_memory(store: Store, session: Session) -> None:
    """As after a reboot."""
    assert session.memory
    store.path(session, session.memory).unlink()
    session.memory = None


def flip_memory(store: Store, session: Session) -> None:
    """One bit of what memory has is another."""
    assert session.memory
    path = store.path(session, session.memory)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# ---- there and back


async def test_what_was_saved_comes_back(tmp_path: Path, memory: Path) -> None:
    """From memory, into any slot: whoever goes on there finds every token of it."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved(LONG)
        label = await bring_back(made, session)
        held = await made.tokens(1)
        reused = await made.sit(session, LONG + NEXT, slot=1)

    assert ("warm", tokens_of(LONG), tokens_of(LONG)) == (label, held, reused)


async def test_what_was_saved_is_in_the_books(tmp_path: Path, memory: Path) -> None:
    """The seat holds no more than the snapshot, which is noted to be written down."""
    async with parts(tmp_path, memory) as made:
        session = made.session()
        session.messages = [{"role": "user", "content": STORY}]
        await made.sit(session, LONG)
        await made.vault.save(made.place(), session)

        assert session.memory
        assert (tokens_of(LONG), made.policy.fingerprint) == (session.memory.tokens, session.memory.fingerprint)
        assert 1 == made.shelf.store.saves
        assert (False, False, tokens_of(LONG)) == (made.seat().is_dirty, made.seat().has_failed, made.seat().tokens)
        assert [{"role": "user", "content": STORY}] == made.shelf.scribe.noted(session)
        assert None is session.messages


async def test_a_kept_history_stays_at_hand(tmp_path: Path, memory: Path) -> None:
    """The next turn needs it again."""
    async with parts(tmp_path, memory) as made:
        session = made.session(name="mine", is_kept=True)
        session.messages = [{"role": "user", "content": STORY}]
        await made.sit(session)
        await made.vault.save(made.place(), session)

        assert session.memory
        assert [{"role": "user", "content": STORY}] == session.messages


async def test_what_is_too_short_is_not_saved(tmp_path: Path, memory: Path) -> None:
    """As `sessions.min_tokens` says: the seat stays as it was."""
    async with parts(tmp_path, memory) as made:
        session = made.session()
        await made.sit(session, "Hello.")
        await made.vault.save(made.place(), session)

        assert None is session.newest
        assert (True, False) == (made.seat().is_dirty, made.seat().has_failed)


async def test_memory_is_gone(tmp_path: Path, memory: Path) -> None:
    """What the disk has is restored."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved(LONG, is_on_disk=True)
        drop_memory(made.store, session)

        assert "cold" == await bring_back(made, session)
        assert tokens_of(LONG) == await made.tokens(1)


async def test_no_memory_at_all(tmp_path: Path, memory: Path) -> None:
    """A slot is saved straight to the disk, and restored from there."""
    async with parts(tmp_path, memory, **STRAIGHT_TO_DISK) as made:
        session = await made.saved(LONG)

        assert None is session.memory
        assert set() == files_in(made.store.slots.path)
        assert "cold" == await bring_back(made, session)
        assert tokens_of(LONG) == await made.tokens(1)
        assert set() == files_in(made.store.slots.path)


async def test_what_is_packed(tmp_path: Path, memory: Path) -> None:
    """Is unpacked for the engine, and nothing of that is left."""
    async with parts(tmp_path, memory, compress=True, encrypt=True) as made:
        session = await made.saved(LONG, is_on_disk=True)
        drop_memory(made.store, session)

        assert "cold" == await bring_back(made, session)
        assert tokens_of(LONG) == await made.tokens(1)
        assert set() == files_in(made.store.slots.path)


@pytest.mark.parametrize(
    ("on_disk", "in_memory", "label"), [(SHORT, LONG, "warm"), (LONG, SHORT, "warm"), (LONG, LONG, "warm")]
)
async def test_the_better_of_two_first(tmp_path: Path, memory: Path, on_disk: str, in_memory: str, label: str) -> None:
    """The later snapshot is restored, that in memory: more tokens may be of what is said otherwise since."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved(on_disk, is_on_disk=True)
        await made.sit(session, in_memory)
        await made.vault.save(made.place(), session)

        assert label == await bring_back(made, session)
        assert tokens_of(in_memory) == await made.tokens(1)


async def test_there_is_nothing(tmp_path: Path, memory: Path) -> None:
    """The slot stays as it is."""
    async with parts(tmp_path, memory) as made:
        assert None is await bring_back(made, made.session())
        assert made.seat(1).is_clean


# ---- whose


async def test_where_it_branched_off(tmp_path: Path, memory: Path) -> None:
    """A session without a snapshot goes on from that of the one that it branched off; its own comes first."""
    async with parts(tmp_path, memory) as made:
        session = made.session()
        session.source = await made.saved(SHORT)
        first = await bring_back(made, session), await made.tokens(1)
        await made.sit(session, LONG)
        await made.vault.save(made.place(), session)
        second = await bring_back(made, session), await made.tokens(1)

    assert [("warm", tokens_of(SHORT)), ("warm", tokens_of(LONG))] == [first, second]


async def test_the_system_prompt(tmp_path: Path, memory: Path) -> None:
    """One that begins with the config's own is new, and has its tokens."""
    async with parts(tmp_path, memory) as made:
        base, session = await made.saved(SHORT), made.session()
        session.source = base

        assert "new" == await bring_back(made, session, base)
        assert tokens_of(SHORT) == await made.tokens(1)


async def test_branches_of_what_can_only_be_extended(tmp_path: Path, memory: Path) -> None:
    """They go elsewhere, so a snapshot of the other branch is of no use; that of the system prompt is."""
    async with parts(tmp_path, memory, "--extend-only") as made:
        base, session = await made.saved(SHORT), made.session()
        session.source = base

        assert None is await bring_back(made, session)
        assert "new" == await bring_back(made, session, base)


# ---- what is not restored


async def test_of_another_engine(tmp_path: Path, memory: Path) -> None:
    """A snapshot with another fingerprint is left alone: the engine that made it may come back."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved()
        assert session.memory
        session.memory = replace(session.memory, fingerprint="another")

        assert None is await bring_back(made, session)
        assert (0, True) == (made.store.refused, made.seat(1).is_clean)
        assert made.store.path(session, session.memory).exists()


@pytest.mark.parametrize(("beyond", "label"), [(-1, "warm"), (0, None), (1, None)])
async def test_more_than_the_context(tmp_path: Path, memory: Path, beyond: int, label: Label | None) -> None:
    """What leaves no room for another token is not restored."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved("four" * (made.engine.config.context.ctx_size - 1))
        assert session.memory
        if beyond >= 0:
            session.memory = replace(session.memory, tokens=session.memory.tokens + 1 + beyond)

        assert label == await bring_back(made, session)
        assert 0 == made.store.refused


async def test_hollow_restores(tmp_path: Path, memory: Path) -> None:
    """A session whose restores saved nothing is restored no more."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved()
        session.hollow = session.hits["warm"] = 3

        assert None is await bring_back(made, session)


# ---- bad files


async def test_a_bad_file(tmp_path: Path, memory: Path) -> None:
    """It never reaches the engine and is never offered again; the next one is used."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved(LONG, is_on_disk=True)
        flip_memory(made.store, session)

        assert "cold" == await bring_back(made, session)
        assert tokens_of(LONG) == await made.tokens(1)
        assert 1 == made.store.refused
        assert None is session.memory
        assert session.disk


async def test_nothing_but_bad_files(tmp_path: Path, memory: Path) -> None:
    """The slot holds nobody's: it must be erased before a turn."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved()
        flip_memory(made.store, session)

        assert None is await bring_back(made, session)
        assert (None, False) == (made.seat(1).holder, made.seat(1).is_clean)
        assert (1, None) == (made.store.refused, session.newest)


async def test_a_bad_packed_file(tmp_path: Path, memory: Path) -> None:
    """It is found out while it is unpacked, and treated the same."""
    async with parts(tmp_path, memory, compress=True) as made:
        session = await made.saved(is_on_disk=True)
        drop_memory(made.store, session)
        assert session.disk
        os.truncate(made.store.path(session, session.disk), 100)

        assert None is await bring_back(made, session)
        assert 1 == made.store.refused
        assert None is session.disk
        assert set() == files_in(made.store.slots.path)


async def test_a_file_that_is_good_perhaps(tmp_path: Path, memory: Path) -> None:
    """One that cannot be unpacked just now, for want of a folder to unpack to, stays and is tried again."""
    async with parts(tmp_path, memory, compress=True) as made:
        session = await made.saved(is_on_disk=True)
        drop_memory(made.store, session)
        slots, aside = made.store.slots.path, memory / "aside"
        slots.rename(aside)
        slots.write_bytes(b"in the way")
        before = await bring_back(made, session)
        slots.unlink()
        aside.rename(slots)

        assert None is before
        assert 0 == made.store.refused
        assert "cold" == await bring_back(made, session)


# ---- workers that die


async def die_of(made: Parts, session: Session) -> None:
    """The worker is killed while it should restore; waits for its next life."""
    spawn = made.served.spawn()
    os.kill(spawn.process.pid, signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        restoring = group.create_task(_fails(made, session))
        await eventually(lambda: not made.seat(1).is_clean or restoring.done())
        os.kill(spawn.process.pid, signal.SIGKILL)
    await made.next_life(spawn)


async def _fails(made: Parts, session: Session) -> None:
    with pytest.raises(WorkerUnreachable):
        await bring_back(made, session)


@asynccontextmanager
async def _stopped(made: Parts) -> AsyncIterator[None]:
    """The worker does nothing meanwhile."""
    pid = made.served.spawn().process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_worker_that_dies_of_it(tmp_path: Path, memory: Path) -> None:
    """The file is tried once more, because it may have been somebody else's doing; after the second it is not."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved()
        await die_of(made, session)
        after_one = made.store.refused, session.memory is not None
        await die_of(made, session)
        after_two = made.store.refused, session.memory is not None

        assert [(0, True), (1, False)] == [after_one, after_two]
        assert None is await bring_back(made, session)


async def test_deaths_that_a_file_is_not_to_blame_for(tmp_path: Path, memory: Path) -> None:
    """What went well since is counted anew: workers that die now and then do not use up a system prompt."""
    async with parts(tmp_path, memory) as made:
        session = await made.saved()
        await die_of(made, session)
        between = await bring_back(made, session)
        await made.empty(1)
        await die_of(made, session)

        assert "warm" == between
        assert "warm" == await bring_back(made, session)
        assert 0 == made.store.refused


# ---- saves that come to nothing


@pytest.mark.parametrize("settings", [{}, STRAIGHT_TO_DISK], ids=["memory", "disk"])
async def test_forgotten_while_it_is_saved(tmp_path: Path, memory: Path, settings: dict[str, int]) -> None:
    """No file of it is left, wherever it would have gone."""
    async with parts(tmp_path, memory, **settings) as made:
        other, session = await made.saved(), made.session("another")
        await eventually(record_of(tmp_path, other).exists)
        before = files_in(memory), files_in(sessions_folder(tmp_path))
        await made.sit(session)
        async with asyncio.TaskGroup() as group, _stopped(made):
            group.create_task(made.vault.save(made.place(), session))
            await eventually(session.kv_lock.locked)
            made.store.forget(session)

        assert before == (files_in(memory), files_in(sessions_folder(tmp_path)))
        assert (None, True) == (session.newest, other.newest is not None)


@pytest.mark.parametrize("fault", ["no folder", "empty slot"])
async def test_a_save_that_fails(tmp_path: Path, memory: Path, fault: str) -> None:
    """Marks the seat, so that it is not tried again and again; the last good snapshot is as good as before."""
    async with parts(tmp_path, memory) as made:
        session, slots, aside = await made.saved(SHORT), made.store.slots.path, memory / "aside"
        await made.sit(session, LONG)
        if fault == "no folder":
            slots.rename(aside)
        else:
            await made.served.spawn().client.erase(0)
        await made.vault.save(made.place(), session)
        marks = made.seat().has_failed, made.seat().is_dirty
        if fault == "no folder":
            aside.rename(slots)

        assert (True, True) == marks
        assert "warm" == await bring_back(made, session)
        assert tokens_of(SHORT) == await made.tokens(1)
        assert 1 == len(files_in(slots))


async def test_no_room(tmp_path: Path, memory: Path) -> None:
    """Where neither memory nor disk may be used nothing is saved, and that is no failure."""
    async with parts(tmp_path, memory, **STRAIGHT_TO_DISK, disk_gb=0) as made:
        made.policy.rates.bytes_per_token = 1
        session = await made.saved()

        assert None is session.newest
        assert not made.seat().has_failed


async def test_a_worker_that_is_gone(tmp_path: Path, memory: Path) -> None:
    """Who saves hears of it; nothing is marked, and no file is left."""
    async with parts(tmp_path, memory) as made:
        session = made.session()
        await made.sit(session)
        place, seat, spawn = made.place(), made.seat(), made.served.spawn()
        os.kill(spawn.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerUnreachable):
            await made.vault.save(place, session)

        assert (False, None) == (seat.has_failed, session.newest)
        assert set() == files_in(made.store.slots.path)


# ---- models that can only be extended


SAID = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "It was empty. "}]
RENDERED = f"<|user|>{STORY}\n<|assistant|>It was empty. \n"


async def test_what_can_only_be_extended_is_rendered_first(tmp_path: Path, memory: Path) -> None:
    """The snapshot holds the conversation as the next turn begins, not as it was answered, with its thinking."""
    async with parts(tmp_path, memory, "--extend-only") as made:
        session = made.session()
        session.messages = SAID
        await made.sit(session, f"<|user|>{STORY}\n<|assistant|><think>Hm, let me see.</think>It was empty. ")
        await made.vault.save(made.place(), session)
        label = await bring_back(made, session)
        reused = await made.sit(session, f"{RENDERED}<|user|>And then?\n<|assistant|>", slot=1)

    assert session.newest
    assert ("warm", tokens_of(RENDERED)) == (label, session.newest.tokens)
    assert 0 == len(RENDERED) % 4
    assert tokens_of(RENDERED) == reused


async def test_what_was_said_is_not_known(tmp_path: Path, memory: Path) -> None:
    """A plain prompt is saved as it is."""
    async with parts(tmp_path, memory, "--extend-only") as made:
        session = await made.saved(LONG)

    assert session.newest
    assert tokens_of(LONG) == session.newest.tokens


async def test_what_cannot_be_rendered(tmp_path: Path, memory: Path) -> None:
    """Is not saved: it would be of no use."""
    async with parts(tmp_path, memory, "--extend-only") as made:
        session = made.session()
        await made.sit(session)
        session.messages = [{"role": "user", "content": "four" * made.engine.config.context.ctx_size}]
        await made.vault.save(made.place(), session)

        assert (None, True) == (session.newest, made.seat().has_failed)
