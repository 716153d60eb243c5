"""Writes sessions down behind the turns: records and transcripts at once, snapshots to disk when it is quiet."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from hugind.proxy.sessions.atrest import AtRestError
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.store import Store
from hugind.supervisor import tasks

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 30


@dataclass
class _Due:
    messages: list[Any] | None
    is_written: bool
    copy_at: float


class Scribe:
    """One for each store. Lives from `run` until it is cancelled; `flush` does at once what is due later."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due: dict[str, _Due] = {}
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._swept_at = time.monotonic()

    def note(self, session: Session, messages: list[Any] | None = None) -> None:
        """A session has changed; `messages`: what was said, if that has too. Returns at once."""
        before = self._due.get(session.id)
        if messages is None and before is not None and not before.is_written:
            messages = before.messages
        copy_at = time.monotonic() + self._store.settings.disk_after_s
        self._due[session.id] = _Due(messages, is_written=False, copy_at=copy_at)
        self._woken.set()

    async def run(self) -> None:
        """Write what is noted, until cancelled. What is being written then is finished: a thread cannot be stopped."""
        while True:
            self._woken.clear()
            now = time.monotonic()
            await self._write(now)
            if now - self._swept_at > SWEEP_INTERVAL_S:
                self._swept_at = now
                await self._sweep()
            next_at = min((due.copy_at for due in self._due.values()), default=now + SWEEP_INTERVAL_S)
            try:
                async with asyncio.timeout(min(max(next_at - now, 0), SWEEP_INTERVAL_S)):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def flush(self) -> None:
        """Write everything down now, snapshots included. What cannot be written is told in the log."""
        await self._write(float("inf"))
        for session in list(self._store.sessions.values()):
            if session.is_worth_keeping and not self._store.is_on_disk(session):
                await self._copy(session)

    def noted(self, session: Session) -> list[Any] | None:
        """What was said last, where it may not be written yet."""
        due = self._due.get(session.id)
        return due.messages if due else None

    async def _write(self, until: float) -> None:
        async with self._one_at_a_time:
            for session_id, due in list(self._due.items()):
                session = self._store.sessions.get(session_id)
                if session is None:
                    self._forget(session_id, due)
                    continue
                if not due.is_written:
                    await tasks.finish(self._write_down(session, due), "write a session down")
                if due.copy_at <= until:
                    self._forget(session_id, due)
                    if session.memory is not None and self._store.settings.disk_gb:
                        await tasks.finish(self._copy(session), "copy a session to disk")

    def _forget(self, session_id: str, due: _Due) -> None:
        if self._due.get(session_id) is due:  # nothing newer came meanwhile
            del self._due[session_id]

    async def _write_down(self, session: Session, due: _Due) -> None:
        """What is not possible is tried again when something else is written, until the copy is due."""
        due.is_written = True
        try:
            async with session.kv_lock:
                if self._store.sessions.get(session.id) is not session:  # forgotten meanwhile: nothing may come back
                    return
                if due.messages is not None:
                    await asyncio.to_thread(self._store.write_messages, session, due.messages)
                await asyncio.to_thread(self._store.write_record, session)
        except (OSError, AtRestError) as error:
            logger.warning("session %s of '%s' was not written down: %s", session.id, self._store.name, error)
            due.is_written = False
        except Exception:
            # A bug that one session meets must not end the writing of the others; it would meet it again.
            logger.exception("writing down session %s of '%s' broke", session.id, self._store.name)

    async def _copy(self, session: Session) -> None:
        try:
            await self._store.copy_to_disk(session)
        except Exception:
            logger.exception("copying session %s of '%s' to disk broke", session.id, self._store.name)

    async def _sweep(self) -> None:
        try:
            await self._store.sweep()
        except Exception:
            logger.exception("sweeping the sessions of '%s' broke", self._store.name)
