"""A session's KV on its way between a slot and the store. The slot is idle, and nobody else has it on lease."""

from __future__ import annotations

import errno
import logging
from collections import Counter

from hugind.proxy.queue import Place
from hugind.proxy.sessions import snapshots
from hugind.proxy.sessions.atrest import AtRestError
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.prompts import hold_prompt
from hugind.proxy.sessions.record import Label, Session, Snapshot
from hugind.proxy.sessions.slots import SlotTable
from hugind.proxy.sessions.stores import Shelf
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused
from hugind.supervisor.spawn import Spawn

logger = logging.getLogger(__name__)

RENDER_TIMEOUT_S = 60
DEADLY_LIMIT = 2
"""A file during whose restore a worker died so often is not tried again."""


class Vault:
    """Lives as long as its engine's keeper."""

    def __init__(self, engine: Engine, shelf: Shelf, policy: Policy, table: SlotTable[Spawn]) -> None:
        self._engine = engine
        self._store = shelf.store
        self._scribe = shelf.scribe
        self._policy = policy
        self._table = table
        self._deadly: Counter[str] = Counter()
        """Files during whose restore the worker died, since it last went well; it may have been others' doing."""

    async def save(self, place: Place[Spawn], session: Session) -> None:
        """Save what a slot holds of a session. What cannot be saved is told in the log and changes nothing.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        seat = self._table[place]
        if not self._policy.is_worth_saving(seat.tokens):
            return
        async with session.kv_lock:
            try:
                if self._policy.must_render:
                    await self._render(place, session)
                client, rates = place.worker.client, self._policy.rates
                room = await self._store.room_for(session, rates.predicted_bytes(seat.tokens))
                if room is None:
                    return
                folder = self._store.slots.path
                target = None if room == folder else room
                snapshot = await snapshots.save(client, place.slot, folder, self._policy.fingerprint, target, rates)
            except (snapshots.SnapshotError, SlotActionRefused, OSError) as error:
                logger.warning("%s: session %s: %s", self._engine.name, session.id, error)
                seat.has_failed = True
                return
            if self._store.sessions.get(session.id) is not session:  # forgotten meanwhile
                (folder / snapshot.file if target is None else target).unlink(missing_ok=True)
                return
            self._store.saved(session, snapshot, is_memory=target is None)
            seat.is_dirty, seat.tokens = False, snapshot.tokens
        self._scribe.note(session, session.messages)
        if not session.is_kept:
            session.messages = None

    async def bring_back(self, place: Place[Spawn], session: Session, base: Session | None) -> Label | None:
        """Restore the session's snapshot, or that of the session that it branched off; None where there is none.

        "new" where it was the config's own system prompt, `base`: of the session itself nothing was there.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        for owner in self._owners(session, base):
            async with owner.kv_lock:  # a save that runs is waited for: what it makes is what is wanted
                for snapshot in filter(None, (owner.memory, owner.disk)):  # the disk never has a later one
                    label: Label = "warm" if snapshot is owner.memory else "cold"
                    if await self._restore(place, owner, snapshot):
                        return "new" if owner is base else label
        return None

    def _owners(self, session: Session, base: Session | None) -> list[Session]:
        """Whose snapshots the session could go on from, the best first."""
        if not self._policy.is_worth_restoring(session):
            return []
        source = session.source
        if source is None or (source is not base and self._policy.must_render):
            return [session]
        return [session, source]

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

    async def _restore(self, place: Place[Spawn], owner: Session, snapshot: Snapshot) -> bool:
        config = self._engine.config
        if snapshot.fingerprint != self._policy.fingerprint or snapshot.tokens >= config.context.ctx_size:
            return False
        client, folder = place.worker.client, self._store.slots.path
        self._table.vacate(place)
        try:
            plain = await self._store.plain_file(owner, snapshot)
            try:
                await snapshots.restore(client, place.slot, snapshot, plain, folder, config.server.max_slots)
            finally:
                self._store.dispose(owner, snapshot, plain)
        except WorkerUnreachable:
            self._deadly[snapshot.file] += 1
            if self._deadly[snapshot.file] >= DEADLY_LIMIT:
                logger.exception("%s: session %s: its worker died of it, twice", self._engine.name, owner.id)
                self._store.quarantine(owner, snapshot)
            raise
        except (snapshots.SnapshotError, AtRestError, OSError) as error:
            logger.warning("%s: session %s: not restored: %s", self._engine.name, owner.id, error)
            is_bad = error.is_bad if isinstance(error, snapshots.SnapshotError) else not _may_pass(error)
            if is_bad:
                self._store.quarantine(owner, snapshot)
                self._scribe.note(owner)
            return False
        self._deadly.pop(snapshot.file, None)
        return True


def _may_pass(error: Exception) -> bool:
    """Whether a file that could not be unpacked is good perhaps: there was no room, or no right to read it."""
    return isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ELOOP, errno.EINVAL)
