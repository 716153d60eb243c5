"""A config's own system prompt, computed once for everybody who begins with it: the only KV that is ever shared."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hugind.proxy.sessions import snapshots
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.prompts import common_prompt, hold_prompt, read_system_prompt
from hugind.proxy.sessions.record import Owner, Session
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain, count_head
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.client import SlotActionRefused
from hugind.supervisor.spawn import Spawn

logger = logging.getLogger(__name__)

BASE_OWNER = Owner("", "system prompt")
"""No principal has an empty name."""


class SystemPrompt:
    """Lives as long as its engine's keeper. Knows nothing until `learn`."""

    def __init__(self, engine: Engine, shelf: Shelf, policy: Policy) -> None:
        self.base: Session | None = None
        """A session of nobody's that holds the prompt and nothing else, once it was computed and saved."""
        self._engine = engine
        self._store = shelf.store
        self._scribe = shelf.scribe
        self._policy = policy
        self._text: str | None = None
        self._is_read = False
        self._learning = asyncio.Lock()
        """Workers start side by side, and one of them is enough."""

    async def learn(self, spawn: Spawn) -> None:
        """Read it, and have its KV saved, on a worker that nobody uses yet.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        async with self._learning:
            if not self._is_read:
                self._text = await asyncio.to_thread(read_system_prompt, self._engine.config, self._engine.home)
                self._is_read = True
            if not self._has_snapshot and self._text is not None and self._policy.can_restore:
                self.base = await self._compute(spawn, self._text)

    def put_before(self, messages: Any) -> Any:
        """A chat's messages, behind the prompt if they bring none of their own."""
        if self._text is None or not isinstance(messages, list) or count_head(messages[:1]):
            return messages
        return [{"role": "system", "content": self._text}, *messages]

    def is_before(self, messages: list[Any] | None) -> bool:
        """Whether a chat begins with it."""
        if not messages or self._text is None or not count_head(messages[:1]):
            return False
        return bool(messages[0].get("content") == self._text)

    @property
    def _has_snapshot(self) -> bool:
        """Not where it failed its check, or somebody forgot it."""
        return self.base is not None and self.base.newest is not None

    async def _compute(self, spawn: Spawn, text: str) -> Session | None:
        """None: it was not saved."""
        assert self._policy.identity is not None
        scope = Scope(BASE_OWNER, self._engine.name, self._policy.identity.model)
        talk = Talk(scope, chat_chain(scope, [{"role": "system", "content": text}]), name="base")
        _, known = self._store.find(talk)
        if known and known[0].newest is not None and known[0].newest.fingerprint == self._policy.fingerprint:
            return known[0]
        for old in [session for session in self._store.sessions.values() if session.owner == BASE_OWNER]:
            self._store.forget(old)
        try:
            prompt = await common_prompt(spawn.client, text)
            try:
                await hold_prompt(spawn.client, 0, prompt)
                snapshot = await snapshots.save(spawn.client, 0, self._store.slots.path, self._policy.fingerprint)
            finally:
                await spawn.client.erase(0)
        except (SlotActionRefused, snapshots.SnapshotError) as error:
            logger.warning("%s: the system prompt was not saved: %s", self._engine.name, error)
            return None
        session = self._store.create(talk)
        session.is_pinned = True
        self._store.saved(session, snapshot, is_memory=True)
        self._scribe.note(session)
        return session
