"""Slots are saved as soon as nobody is held up by it, and not much later where somebody always would be."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hugind.proxy.queue import Place
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.saver import Saver
from hugind.proxy.sessions.slots import Seat
from hugind.proxy.sessions.vault import Vault
from hugind.supervisor.spawn import Spawn
from tests.eventually import eventually
from tests.proxy.sessions.parts import LATER, Parts, parts
from tests.proxy.sessions.storing import memory_folder, needs_memory

pytestmark = needs_memory


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


class BuggyVault(Vault):
    """Has a bug with some sessions, and waits where the test wants it."""

    def __init__(self, made: Parts) -> None:
        super().__init__(made.engine, made.shelf, made.policy, made.table)
        self.breaks: set[str] = set()
        self.may_save = asyncio.Event()
        self.may_save.set()
        self.asked: list[str] = []

    async def save(self, place: Place[Spawn], session: Session) -> None:
        self.asked.append(session.id)
        await self.may_save.wait()
        if session.id in self.breaks:
            raise RuntimeError("a bug")
        await super().save(place, session)


@dataclass
class Saving:
    """A saver at work. Lives inside `saving`."""

    made: Parts
    vault: BuggyVault
    saver: Saver
    has_ended: asyncio.Event
    looks: list[str | None] = field(default_factory=list)
    """Who was in the slots, as the saver asked."""

    async def sit(self, slot: int = 0) -> Session:
        """A turn that ended just now; the saver is not told yet."""
        session = self.made.session()
        await self.made.sit(session, slot=slot)
        self.made.seat(slot).used_at = time.monotonic()
        return session

    async def wake(self) -> None:
        """Tell the saver, and wait until it has looked at every slot."""
        before = len(self.looks)
        self.saver.wake()
        await eventually(lambda: len(self.looks) >= before + 2)


@asynccontextmanager
async def saving(folder: Path, memory: Path, *, hold_back_s: float = LATER) -> AsyncIterator[Saving]:
    """A saver over the slots of a stand-in."""
    async with parts(folder, memory) as made:
        ended, looks, vault = asyncio.Event(), list[str | None](), BuggyVault(made)

        def session_of(seat: Seat) -> Session | None:
            looks.append(seat.holder)
            return made.store.sessions.get(seat.holder or "")

        saver = Saver(
            made.served.spawn(), made.served.leases(), made.table, vault, made.policy, session_of, ended.set,
            hold_back_s=hold_back_s,
        )  # fmt: skip
        try:
            yield Saving(made, vault, saver, ended, looks)
        finally:
            await saver.aclose()


# ---- when


async def test_right_after_the_reply(tmp_path: Path, memory: Path) -> None:
    """A slot is saved as soon as a turn ended, while nobody else streams; and free again after that."""
    async with saving(tmp_path, memory) as at:
        sessions = [await at.sit(), await at.sit(slot=1)]
        at.saver.wake()
        await eventually(lambda: all(session.memory for session in sessions))
        await eventually(lambda: at.made.served.leases().free == 2)

        assert [False, False] == [at.made.seat(slot).is_dirty for slot in (0, 1)]


async def test_held_back_while_a_neighbour_streams(tmp_path: Path, memory: Path) -> None:
    """It would hold that up; when the neighbour is done it is made up for."""
    async with saving(tmp_path, memory) as at:
        leases = at.made.served.leases()
        neighbour = await leases.acquire()
        slot = 1 - neighbour.slot
        session = await at.sit(slot)
        await at.wake()
        held_back = list(at.vault.asked), at.made.seat(slot).is_dirty
        leases.release(neighbour)
        at.saver.wake()
        await eventually(lambda: session.memory)

        assert ([], True) == held_back


async def test_there_is_always_a_neighbour(tmp_path: Path, memory: Path) -> None:
    """It is saved in the end all the same, without being told again: a crash would cost more than the last turn."""
    async with saving(tmp_path, memory, hold_back_s=0.05) as at:
        leases = at.made.served.leases()
        neighbour = await leases.acquire()
        session = await at.sit(1 - neighbour.slot)
        at.saver.wake()
        await eventually(lambda: session.memory)

        assert 1 == leases.free
        leases.release(neighbour)


async def test_its_own_turn_runs(tmp_path: Path, memory: Path) -> None:
    """A slot that is in use is not saved, however long it was not; it is when the turn ends."""
    async with saving(tmp_path, memory, hold_back_s=0.01) as at:
        leases = at.made.served.leases()
        lease = await leases.acquire()
        session = await at.sit(lease.slot)
        at.made.seat(lease.slot).used_at = 0
        await at.wake()
        await eventually(lambda: len(at.looks) > 6)
        meanwhile = list(at.vault.asked)
        leases.release(lease)
        await eventually(lambda: session.memory)

        assert [] == meanwhile


async def test_a_turn_comes_meanwhile(tmp_path: Path, memory: Path) -> None:
    """Who wants the slot waits until it is saved, and gets it then."""
    async with saving(tmp_path, memory) as at, asyncio.TaskGroup() as group:
        leases = at.made.served.leases()
        at.vault.may_save.clear()
        session = await at.sit()
        at.saver.wake()
        await eventually(lambda: at.vault.asked)
        first, waiting = await leases.acquire(), group.create_task(leases.acquire())
        await eventually(lambda: leases.waiting == 1)
        at.vault.may_save.set()
        second = await waiting

        assert (1, 0) == (first.slot, second.slot)
        assert session.memory
        leases.release(first)
        leases.release(second)


# ---- what


async def test_what_is_not_saved(tmp_path: Path, memory: Path) -> None:
    """Neither what a snapshot holds already, nor what could not be saved, nor what is too short."""
    async with saving(tmp_path, memory) as at:
        await at.sit()
        await at.sit(slot=1)
        for marks in ({"is_dirty": False}, {"has_failed": True}, {"tokens": 1}):
            for slot in (0, 1):
                seat = at.made.seat(slot)
                seat.is_dirty, seat.has_failed, seat.tokens = True, False, 100
                for name, value in marks.items():
                    setattr(seat, name, value)
            await at.wake()

        assert [] == at.vault.asked


async def test_a_session_that_was_forgotten(tmp_path: Path, memory: Path) -> None:
    """What a slot holds of it is not saved."""
    async with saving(tmp_path, memory) as at:
        at.made.store.forget(await at.sit())
        await at.wake()

        assert [] == at.vault.asked


# ---- what goes wrong


async def test_a_bug(tmp_path: Path, memory: Path) -> None:
    """One session that cannot be saved does not keep the others from it, nor is it tried without end."""
    async with saving(tmp_path, memory) as at:
        broken, other = await at.sit(), await at.sit(slot=1)
        at.vault.breaks.add(broken.id)
        at.saver.wake()
        await eventually(lambda: other.memory)
        later = await at.sit(slot=1)
        at.saver.wake()
        await eventually(lambda: later.memory)
        await eventually(lambda: at.made.served.leases().free == 2)

        assert [broken.id, other.id, later.id] == at.vault.asked
        assert at.made.seat().has_failed
        assert not at.has_ended.is_set()


async def test_the_worker_is_gone(tmp_path: Path, memory: Path) -> None:
    """Nothing comes of the save, and the saver goes on until it is told."""
    async with saving(tmp_path, memory) as at:
        spawn, leases = at.made.served.spawn(), at.made.served.leases()
        session = await at.sit()
        at.vault.may_save.clear()
        at.saver.wake()
        await eventually(lambda: at.vault.asked)
        os.kill(spawn.process.pid, signal.SIGKILL)
        at.vault.may_save.set()
        await eventually(lambda: leases.free == 2)

        assert None is session.memory
        assert not at.has_ended.is_set()


# ---- its end


async def test_it_ends_with_its_worker(tmp_path: Path, memory: Path) -> None:
    """Told to stop, it saves nothing more, and says that it has ended."""
    async with saving(tmp_path, memory) as at:
        await at.sit()
        at.saver.stop()
        await at.has_ended.wait()

        assert [] == at.vault.asked


async def test_stopped_while_it_saves(tmp_path: Path, memory: Path) -> None:
    """The save that runs is finished, and the last."""
    async with saving(tmp_path, memory) as at:
        at.vault.may_save.clear()
        session, other = await at.sit(), await at.sit(slot=1)
        at.saver.wake()
        await eventually(lambda: at.vault.asked)
        at.saver.stop()
        at.vault.may_save.set()
        await at.has_ended.wait()

        assert session.memory
        assert None is other.memory
        assert 2 == at.made.served.leases().free


async def test_closed_at_once(tmp_path: Path, memory: Path) -> None:
    """It waits for nothing, and gives back what it has."""
    async with saving(tmp_path, memory) as at:
        at.vault.may_save.clear()
        session = await at.sit()
        at.saver.wake()
        await eventually(lambda: at.vault.asked)
        await at.saver.aclose()
        await at.has_ended.wait()

        assert None is session.memory
        assert 2 == at.made.served.leases().free
