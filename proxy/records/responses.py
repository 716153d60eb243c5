"""Responses that are kept: each a point that a conversation can go on from, in several directions.

A row holds what came with one request and what was answered; what was said before it is with the response that it went
on from. So a row stays as long as another goes on from it, also when it is old or its owner has deleted it: then nobody
sees it any more, but as a part of those.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, Select, delete, exists, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.dialects.responses_items import Item, response_of
from hugind.proxy.records.conversations import Conversations, TooLargeError, forget_conversations, items_of
from hugind.proxy.records.database import Database
from hugind.proxy.records.owned import Reader, belongs_to, owner_columns, seen_by
from hugind.proxy.records.retention import keep_to
from hugind.proxy.records.schema import conversations, responses
from hugind.proxy.records.usage import storable
from hugind.proxy.sessions.record import Owner
from hugind.supervisor import tasks

logger = logging.getLogger(__name__)

BATCH_ROWS = 1000
PAUSE_S = 0.05
"""Between two batches, so that others can write."""

_INSERT = insert(responses)


@dataclass(frozen=True)
class Past:
    """What was said before a request."""

    items: list[Item] = field(default_factory=list)
    size_bytes: int = 0
    previous_id: str | None = None
    """The response that it goes on from."""
    conversation_id: str | None = None
    conversation_end: int | None = None
    """Or the conversation, up to this position."""


class Responses:
    """All that are kept in a database. Lives as long as the gateway; an async context manager.

    It removes what is older than `retention_days` (0: never), conversations too. Every call may raise DatabaseAway.
    """

    def __init__(self, database: Database, retention_days: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.conversations = Conversations(database, clock)
        self._database = database
        self._retention_days = retention_days
        self._clock = clock
        self._removing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Responses:
        if self._retention_days:
            self._removing = tasks.start(self._remove_forever(), "remove old responses")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._removing is not None:
            await tasks.cancel(self._removing)

    async def find(self, reader: Reader, response_id: str) -> dict[str, Any] | None:
        """A response as it was answered; None: there is none for who asks."""
        async with self._database.read() as connection:
            row = await _visible(connection, reader, response_id)
        return None if row is None else orjson.loads(row.body)

    async def inputs(self, reader: Reader, response_id: str, limit_bytes: int) -> list[Item] | None:
        """All that a response was made from, the oldest first; None: there is none for who asks.

        Raises:
            TooLargeError: that is more than `limit_bytes`.
        """
        async with self._database.read() as connection:
            row = await _visible(connection, reader, response_id)
            before = None if row is None else await _before(connection, row, limit_bytes)
        return None if row is None or before is None else [*before, *orjson.loads(row.input)]

    async def past(self, reader: Reader, response_id: str, limit_bytes: int) -> Past | None:
        """What a request goes on from that names a response; None: there is none for who asks.

        Raises:
            TooLargeError: that is more than `limit_bytes`.
        """
        async with self._database.read() as connection:
            row = await _visible(connection, reader, response_id)
            if row is None:
                return None
            size = row.history_bytes + _size(row)
            if size > limit_bytes:
                raise TooLargeError(size)
            before = await _before(connection, row, limit_bytes)
        return None if before is None else Past([*before, *_said(row)], size, response_id)

    async def items(self, reader: Reader, item_ids: Iterable[str]) -> dict[str, Item]:
        """Those of the named items that belong to responses which who asks can see."""
        wanted = set(item_ids)
        response_ids = {response_id for item_id in wanted if (response_id := response_of(item_id)) is not None}
        found: dict[str, Item] = {}
        if not response_ids:
            return found
        async with self._database.read() as connection:
            for response_id in sorted(response_ids):
                row = await _visible(connection, reader, response_id)
                for item in [] if row is None else _said(row):
                    if item["id"] in wanted:
                        found[item["id"]] = item
        return found

    async def add(
        self, owner: Owner, body: dict[str, Any], given: list[Item], past: Past, *, is_stored: bool = True
    ) -> bool:
        """Keep a response, and what was said in its conversation. False: that is gone, and nothing is kept.

        `given`: what came with its request. `is_stored`: else the conversation alone knows of it.
        """
        row = {
            **owner_columns(owner),
            "id": body["id"],
            "created_at": datetime.fromtimestamp(self._clock(), UTC),
            "previous_id": past.previous_id,
            "conversation_id": past.conversation_id,
            "conversation_end": past.conversation_end,
            "history_bytes": past.size_bytes,
            "input": orjson.dumps(given).decode(),
            "body": orjson.dumps(body).decode(),
        }
        async with self._database.begin() as connection:
            if past.conversation_id is not None:
                said = [*given, *body["output"]]
                if not await self.conversations.append_in(connection, past.conversation_id, said):
                    return False
            if is_stored:
                await connection.execute(_INSERT, row)
        return True

    async def remove(self, reader: Reader, response_id: str) -> bool:
        """Nobody sees it any more. False: there is none for who asks."""
        named = _is_visible(reader, response_id)
        hidden = update(responses).where(*named).values(deleted_at=datetime.fromtimestamp(self._clock(), UTC))
        async with self._database.begin() as connection:
            if (await connection.execute(hidden)).rowcount == 0:
                return False
            left: str | None = response_id
            while left is not None:  # those that were hidden before, and that nothing goes on from now
                gone = delete(responses).where(responses.c.id == left, responses.c.deleted_at.is_not(None), _is_end())
                left = await connection.scalar(gone.returning(responses.c.previous_id))
            return True

    async def forget(self, principal: str | None = None, user: str | None = None) -> int:
        """Forget responses and conversations of a principal, of a person, or all; returns how many."""
        async with self._database.begin() as connection:
            return await forget_all(connection, principal, user)

    async def remove_older(self, moment: datetime) -> int:
        """Remove what is from before `moment` and what nothing goes on from, in short transactions; returns how many.

        Conversations go that were last used before.
        """
        removed = 0
        while True:
            old = (responses.c.created_at < moment) | responses.c.deleted_at.is_not(None)
            # In an order that all gateways keep to, or two of them could wait for each other.
            ends = select(responses.c.id).where(old, _is_end()).order_by(responses.c.created_at, responses.c.id)
            async with self._database.begin() as connection:
                gone = delete(responses).where(responses.c.id.in_(ends.limit(BATCH_ROWS)))
                count = (await connection.execute(gone)).rowcount
            removed += count
            if not count:
                return removed + await self.conversations.remove_older(moment)
            await asyncio.sleep(PAUSE_S)

    async def _remove_forever(self) -> None:
        try:
            await keep_to(self.remove_older, "responses", self._retention_days, self._clock)
        except Exception:
            logger.exception("removing old responses broke; it goes on with the next start")


async def forget_all(connection: AsyncConnection, principal: str | None, user: str | None = None) -> int:
    """Forget responses and conversations of a principal, of a person, or all; returns how many.

    What others of the same principal made of them stays, and cannot be gone on from.
    """
    gone = await connection.execute(delete(responses).where(*belongs_to(responses, principal, user)))
    return gone.rowcount + await forget_conversations(connection, principal, user)


async def _visible(connection: AsyncConnection, reader: Reader, response_id: str) -> Row[Any] | None:
    return (await connection.execute(select(responses).where(*_is_visible(reader, response_id)))).one_or_none()


def _is_visible(reader: Reader, response_id: str) -> tuple[ColumnElement[bool], ...]:
    return responses.c.id == storable(response_id), responses.c.deleted_at.is_(None), seen_by(responses, reader)


def _is_end() -> ColumnElement[bool]:
    """Nothing goes on from it."""
    later = responses.alias()
    return ~exists(select(literal(1)).where(later.c.previous_id == responses.c.id))


async def _before(connection: AsyncConnection, row: Row[Any], limit_bytes: int) -> list[Item] | None:
    """What was said before the request of a response; None: some of it is gone.

    Raises:
        TooLargeError: that is more than `limit_bytes`.
    """
    if row.history_bytes > limit_bytes:
        raise TooLargeError(row.history_bytes)
    items: list[Item] = []
    first = row
    if row.previous_id is not None:
        chain = list(await connection.execute(_chain(row.previous_id)))
        if not chain:
            return None
        first = chain[0]
        if first.previous_id is not None:
            return None
        for link in chain:
            items += _said(link)
    if first.conversation_id is None:
        return items
    known = select(conversations.c.id).where(conversations.c.id == first.conversation_id)
    if await connection.scalar(known) is None:
        return None
    return [*await items_of(connection, first.conversation_id, first.conversation_end), *items]


def _chain(response_id: str) -> Select[Any]:
    """A response and all that it goes on from, the first one first."""
    links = (
        select(responses.c.id, responses.c.previous_id, literal(0).label("depth"))
        .where(responses.c.id == response_id)
        .cte("links", recursive=True)
    )
    links = links.union_all(
        select(responses.c.id, responses.c.previous_id, links.c.depth + 1).where(responses.c.id == links.c.previous_id)
    )
    return select(responses).join(links, responses.c.id == links.c.id).order_by(links.c.depth.desc())


def _said(row: Row[Any]) -> list[Item]:
    """What came with the request, and what was answered."""
    return [*orjson.loads(row.input), *orjson.loads(row.body)["output"]]


def _size(row: Row[Any]) -> int:
    return len(row.input) + len(row.body)
