"""The parts of a keeper by themselves: over an engine that never runs, or over one whose slots nobody else uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugind.proxy.queue import Place
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.prompts import hold_prompt
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.scribe import Scribe
from hugind.proxy.sessions.slots import Seat, SlotTable
from hugind.proxy.sessions.store import Store
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.vault import Vault
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import own_run_folder
from hugind.supervisor.spawn import Spawn
from tests.eventually import eventually
from tests.proxy.serving import Served, serving, standin_config
from tests.proxy.sessions.storing import ENGINE, open_store, talk_of

LATER = 3600
MIN_TOKENS = 8
STORY = "Once upon a time there was a slot. "


@dataclass
class Idle:
    """What a policy needs to know, and no worker. Lives inside `idle`."""

    engine: Engine
    store: Store
    policy: Policy

    @property
    def shelf(self) -> Shelf:
        """Its scribe writes on `flush` only."""
        return Shelf(self.store, Scribe(self.store))


@contextmanager
def idle(folder: Path, memory: Path, **settings: Any) -> Iterator[Idle]:
    """An engine that never runs; `settings` of its sessions."""
    store = open_store(folder, memory, **settings)
    home = Home(folder)
    config = standin_config(folder, sessions={"memory_folder": str(memory), **settings})
    with own_run_folder(home) as run_folder:
        engine = Engine(ENGINE, config, resolve_binary(config.engine.binary), home, run_folder, store.slots.path)
        yield Idle(engine, store, Policy(engine, store))
    store.close()


@dataclass
class Parts:
    """A vault with a table of its own, beside a keeper that has no turns. Lives inside `parts`."""

    served: Served
    shelf: Shelf
    policy: Policy
    table: SlotTable[Spawn]
    vault: Vault

    @property
    def engine(self) -> Engine:
        return self.served.engine()

    @property
    def store(self) -> Store:
        return self.shelf.store

    def place(self, slot: int = 0) -> Place[Spawn]:
        """A slot of the worker that lives now."""
        return Place(self.served.spawn(), slot)

    def seat(self, slot: int = 0) -> Seat:
        return self.table[self.place(slot)]

    def session(self, said: str = STORY, **fields: Any) -> Session:
        """A new one."""
        return self.store.create(talk_of(said, **fields))

    async def sit(self, session: Session, text: str = STORY * 4, slot: int = 0) -> int:
        """Have a slot hold a text as the session's; returns how many tokens of it were there already."""
        reused = await hold_prompt(self.served.spawn().client, slot, text)
        place = self.place(slot)
        self.table.hold(place, session.id, turns=1, now=0)
        self.table[place].is_dirty, self.table[place].tokens = True, await self.tokens(slot)
        return reused

    async def saved(self, text: str = STORY * 4, *, is_on_disk: bool = False, **fields: Any) -> Session:
        """A session that was saved from the first slot, and left it."""
        session = self.session(text, **fields)
        await self.sit(session, text)
        await self.vault.save(self.place(), session)
        if is_on_disk:
            assert await self.store.copy_to_disk(session)
        await self.empty()
        return session

    async def empty(self, slot: int = 0) -> None:
        """Nobody is in the slot any more."""
        self.table.vacate(self.place(slot))
        await self.served.spawn().client.erase(slot)
        self.table[self.place(slot)].is_clean = True

    async def tokens(self, slot: int = 0) -> int:
        """What the engine itself says of a slot."""
        return (await self.served.spawn().client.slots(5))[slot].tokens

    async def next_life(self, old: Spawn) -> None:
        """Wait for the worker that replaces a dead one."""
        slots = self.engine.config.server.max_slots
        await eventually(lambda: self.served.worker().spawn not in (None, old) and self.served.leases().free == slots)
        self.table.remove_worker(old)
        self.table.add_worker(self.served.spawn(), slots)


@asynccontextmanager
async def parts(folder: Path, memory: Path, *flags: str, **settings: Any) -> AsyncIterator[Parts]:
    """A gateway over the stand-in with `flags`; `settings` of its sessions."""
    sessions = {"min_tokens": MIN_TOKENS, "memory_folder": str(memory), "disk_after_s": LATER, **settings}
    config = standin_config(folder, sessions=sessions, engine={"extra_args": flags})
    async with serving(folder, {ENGINE: config}) as served:
        keeper = served.gateway.keeper(served.engine())
        shelf = Shelf(keeper.store, keeper.scribe)
        table: SlotTable[Spawn] = SlotTable()
        table.add_worker(served.spawn(), config.server.max_slots)
        made = Parts(served, shelf, keeper.policy, table, Vault(served.engine(), shelf, keeper.policy, table))
        for slot in range(config.server.max_slots):  # before its first prompt the stand-in tells nothing of a slot
            await hold_prompt(served.spawn().client, slot, STORY)
            await made.empty(slot)
        yield made
