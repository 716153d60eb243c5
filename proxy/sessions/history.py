"""What was said: replies that are read for later, and histories kept for clients that send only what is new."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.sessions.policy import Policy
from hugind.proxy.sessions.prompts import reply_of
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.transcript import Talk, count_head

logger = logging.getLogger(__name__)

TEMPLATE_KEYS = ("tools", "tool_choice", "chat_template_kwargs", "reasoning_effort", "parallel_tool_calls")
"""What of a request shapes its prompt besides the messages."""


class History:
    """Lives as long as its engine's keeper."""

    def __init__(self, shelf: Shelf, policy: Policy) -> None:
        self._store = shelf.store
        self._scribe = shelf.scribe
        self._policy = policy

    def wants_reply(self, talk: Talk) -> bool:
        """Whether the answer must be read: to keep the history, or to save a model that can only be extended."""
        return talk.is_kept or (talk.messages is not None and self._policy.must_render)

    def note_request(self, session: Session, request: dict[str, Any]) -> None:
        """A request goes to the engine. Of a kept history nothing is remembered before the answer."""
        messages = request.get("messages")
        if isinstance(messages, list) and not session.is_kept:
            session.messages = messages
            session.template = {key: request[key] for key in TEMPLATE_KEYS if key in request}

    def note_reply(self, session: Session, request: dict[str, Any], recorded: list[bytes] | None) -> None:
        """The turn ended well; `recorded` is the engine's stream, if it was wanted."""
        messages = request.get("messages")
        if recorded is None or not isinstance(messages, list):
            return
        try:
            session.messages = [*messages, reply_of(recorded)]
        except EngineStreamError as error:
            logger.warning("session %s: the answer cannot be read: %s", session.id, error)
            return
        if session.is_kept:
            self._scribe.note(session, session.messages)

    async def whole(self, session: Session, talk: Talk) -> list[Any]:
        """What a kept session said so far, with the new messages of a request behind it.

        A system prompt in the request takes the place of the one there was.
        """
        known = session.messages
        if known is None:
            known = await asyncio.to_thread(self._store.read_messages, session) or []
        new = talk.messages or []
        head = count_head(new)
        if head:
            return [*new[:head], *known[count_head(known) :], *new[head:]]
        return [*known, *new]
