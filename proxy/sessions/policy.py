"""What the snapshots of one engine are worth: by what its model is, what a test said, and what was seen since."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hugind.proxy.sessions.fingerprint import Identity, identify
from hugind.proxy.sessions.rates import Rates
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.selftest import Ability, SelfTestFailed, Verdict, Verdicts, self_test
from hugind.proxy.sessions.store import Store
from hugind.supervisor.engine import Engine
from hugind.supervisor.models.family import Family
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.watch import Stock, files_of

logger = logging.getLogger(__name__)

HOLLOW_LIMIT = 3
"""So many restores of a session that saved nothing, more than half of all, and it is restored no more. Those of so many
principals in a row, and nobody's is: one alone, who says something else each time, must not spoil it for all."""
HOLLOW_SHARE = 0.5
"""A restore is hollow when less than this share of its tokens was reused by a request that continues the session."""


class Policy:
    """Lives as long as its engine's keeper. Knows nothing until `learn`."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.identity: Identity | None = None
        """None: no worker was ready yet."""
        self.verdict: Verdict | None = None
        """None: as above."""
        self.rates = Rates()
        self._engine = engine
        self._files: Stock = frozenset()
        self._is_untested = False
        """The verdict says nothing about the model: its test could not be done."""
        self._store = store
        self._settings = engine.config.sessions
        self._hollow_in_a_row: set[str] = set()
        """Whose restores saved nothing since the last good one."""

    async def learn(self, spawn: Spawn) -> None:
        """Find out what the model is, and what a restored slot is worth with it, on a worker that nobody uses yet.

        Raises:
            WorkerUnreachable: the worker is gone.
        """
        engine = self._engine
        files = await asyncio.to_thread(files_of, engine.config, engine.home)
        if self.identity is None or files != self._files:  # replaced, perhaps, while it was not loaded
            self.identity = await asyncio.to_thread(identify, engine.config, engine.binary.build, engine.home)
            self.verdict, self._files = None, files
        if self.verdict is None or self._is_untested:
            self.verdict = await self._find_verdict(spawn, self.identity)
            logger.info("%s: sessions: %s (%s)", self._engine.name, self.verdict.ability, self.verdict.reason)

    @property
    def fingerprint(self) -> str:
        """Of the engine's slot files; only after `learn`."""
        assert self.identity is not None
        return self.identity.fingerprint

    @property
    def can_restore(self) -> bool:
        """Whether a snapshot can be of any use."""
        return self.verdict is not None and self.verdict.is_worth_saving

    @property
    def must_render(self) -> bool:
        """Whether a restored slot can only be extended: it must hold the conversation as the next turn begins."""
        return self.verdict is not None and self.verdict.ability is Ability.EXTENSION

    def is_worth_restoring(self, session: Session) -> bool:
        """Whether a snapshot can be of use to this session."""
        restored = session.hits["warm"] + session.hits["cold"]
        return self.can_restore and not (session.hollow >= HOLLOW_LIMIT and session.hollow * 2 > restored)

    def is_worth_saving(self, tokens: int) -> bool:
        """Whether so many tokens are. 0: not known, so look."""
        if not self.can_restore:
            return False
        return tokens == 0 or (tokens >= self._settings.min_tokens and self.rates.is_worth_saving(tokens))

    def saw_turn(self, timings: dict[str, Any], tokens: int) -> None:
        """The engine's own figures of a turn; `tokens` are in the slot after it."""
        self.rates.saw_prefill(int(timings.get("prompt_n", 0)), float(timings.get("prompt_ms", 0)) / 1000)
        if not self.rates.is_worth_saving(tokens):
            self.rates.saw_no_save()

    def judge_restore(self, session: Session, restored: int, reused: int) -> None:
        """A session was brought back with so many tokens, and the engine could use so many of them."""
        if reused >= restored * HOLLOW_SHARE:
            self._hollow_in_a_row.clear()
            return
        session.hollow += 1
        self._store.hollow += 1
        self._hollow_in_a_row.add(session.owner.principal)
        logger.warning(
            "%s: hollow restore: %d of %d tokens of session %s were reused",
            self._engine.name, reused, restored, session.id,
        )  # fmt: skip
        if len(self._hollow_in_a_row) >= HOLLOW_LIMIT:
            self.verdict = Verdict(Ability.NONE, f"the restores of {HOLLOW_LIMIT} users in a row saved nothing")

    async def _find_verdict(self, spawn: Spawn, identity: Identity) -> Verdict:
        config, self._is_untested = self._engine.config, False
        if not self._settings.enabled:
            return Verdict(Ability.NONE, "sessions.enabled is false")
        if identity.family is Family.SWA and config.context.swa_full:
            # Only the end of a window is saved, and with this flag the engine does not notice what is missing: text
            # that goes back a little was wrong, with status 200 (measured on b11549, test_slotfile_real.py).
            return Verdict(Ability.NONE, "with context.swa_full a restored window has holes that the engine overlooks")
        verdicts = Verdicts(self._engine.home.sessions / "verdicts.json")
        known = await asyncio.to_thread(verdicts.get, identity.fingerprint)
        if known is not None:
            return known
        slots, ctx_size, folder = config.server.max_slots, config.context.ctx_size, self._store.slots.path
        try:
            verdict = await self_test(spawn.client, 0, folder, slots, ctx_size, identity.family, identity.window)
        except SelfTestFailed as error:  # the next worker that starts tries again
            self._is_untested = True
            return Verdict(Ability.NONE, error.message)
        await asyncio.to_thread(verdicts.put, identity.fingerprint, verdict)
        return verdict
