"""Conversations that the gateway keeps: what was said, item by item, for whoever owns them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.records.database import Database
from hugind.proxy.records.owned import Reader, belongs_to, owner_columns, seen_by
from hugind.proxy.records.schema import conversation_items, conversations, responses
from hugind.proxy.records.usage import storable
from hugind.proxy.sessions.record import Owner

Item = dict[str, Any]
Order = Literal["asc", "desc"]

PREFIX = "conv_"
BATCH_ROWS = 100


class ConversationLockedError(Exception):
    """A response is being made in it."""


class TooLargeError(Exception):
    """It would hold, or holds, more than is allowed."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes")
        self.size_bytes = size_bytes


@dataclass(frozen=True)
class Conversation:
    """One of them, without what was said."""

    id: str
    created_at: datetime
    notes: dict[str, str]
    """The client's own."""
    end: int
    """The position of what is said next."""
    size_bytes: int
    """Of what was said."""


class Conversations:
    """All that are kept in a database. Lives as long as the gateway; every call may raise DatabaseAway."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._held: set[str] = set()

    @contextmanager
    def hold(self, conversation_id: str) -> Iterator[None]:
        """Nobody else makes a response in it meanwhile, through this gateway.

        Raises:
            ConversationLockedError: somebody does.
        """
        if conversation_id in self._held:
            raise ConversationLockedError
        self._held.add(conversation_id)
        try:
            yield
        finally:
            self._held.discard(conversation_id)

    async def create(self, owner: Owner, notes: dict[str, str], items: Sequence[Item]) -> Conversation:
        """A new one."""
        now = self._now()
        made = Conversation(f"{PREFIX}{secrets.token_hex(16)}", now, notes, 0, 0)
        async with self._database.begin() as connection:
            row = {
                **owner_columns(owner),
                "id": made.id,
                "created_at": now,
                "used_at": now,
                "notes": orjson.dumps(notes).decode(),
                "next_position": 0,
                "size_bytes": 0,
            }
            await connection.execute(insert(conversations).values(row))
            await self.append_in(connection, made.id, items)
        return made

    async def find(self, reader: Reader, conversation_id: str) -> Conversation | None:
        """One of them; None: there is none for who asks."""
        wanted = conversations.c.id == storable(conversation_id), seen_by(conversations, reader)
        async with self._database.read() as connection:
            row = (await connection.execute(select(conversations).where(*wanted))).one_or_none()
        return None if row is None else _conversation(row)

    async def note(self, reader: Reader, conversation_id: str, notes: dict[str, str]) -> Conversation | None:
        """Give it other notes."""
        wanted = conversations.c.id == storable(conversation_id), seen_by(conversations, reader)
        changed = update(conversations).where(*wanted).values(notes=orjson.dumps(notes).decode(), used_at=self._now())
        async with self._database.begin() as connection:
            row = (await connection.execute(changed.returning(conversations))).one_or_none()
        return None if row is None else _conversation(row)

    async def remove(self, reader: Reader, conversation_id: str) -> bool:
        """Forget it and what was said in it. False: there is none."""
        wanted = conversations.c.id == storable(conversation_id), seen_by(conversations, reader)
        async with self._database.begin() as connection:
            return await _remove(connection, select(conversations.c.id).where(*wanted)) > 0

    async def append(self, conversation_id: str, items: Sequence[Item], limit_bytes: int | None = None) -> bool:
        """Say more in it. False: it is gone.

        Raises:
            TooLargeError: it would hold more than `limit_bytes`.
        """
        async with self._database.begin() as connection:
            return await self.append_in(connection, conversation_id, items, limit_bytes)

    async def items(self, conversation: Conversation, limit_bytes: int) -> list[Item]:
        """All that was said in it, as far as it was known when it was looked up.

        Raises:
            TooLargeError: that is more than `limit_bytes`.
        """
        if conversation.size_bytes > limit_bytes:
            raise TooLargeError(conversation.size_bytes)
        async with self._database.read() as connection:
            return await items_of(connection, conversation.id, conversation.end)

    async def list_items(
        self, conversation_id: str, limit: int, order: Order, after: str | None
    ) -> tuple[list[Item], bool]:
        """A page of what was said, and whether there is more behind it. `after`: an item's id, unknown ones ignored."""
        column = conversation_items.c.position
        query = select(conversation_items.c.body).where(conversation_items.c.conversation_id == conversation_id)
        if after is not None:
            known = _item(conversation_id, after).with_only_columns(column).scalar_subquery()
            position = func.coalesce(known, -1 if order == "asc" else 2**31 - 1)
            query = query.where(column > position if order == "asc" else column < position)
        query = query.order_by(column.asc() if order == "asc" else column.desc()).limit(limit + 1)
        async with self._database.read() as connection:
            found = [orjson.loads(body) for body in await connection.scalars(query)]
        return found[:limit], len(found) > limit

    async def find_item(self, conversation_id: str, item_id: str) -> Item | None:
        """One thing that was said."""
        async with self._database.read() as connection:
            body = await connection.scalar(_item(conversation_id, item_id))
        return None if body is None else orjson.loads(body)

    async def remove_item(self, conversation_id: str, item_id: str) -> bool:
        """Unsay one thing. False: nobody said it."""
        named = conversation_items.c.conversation_id == conversation_id, conversation_items.c.id == storable(item_id)
        async with self._database.begin() as connection:
            body = await connection.scalar(
                delete(conversation_items).where(*named).returning(conversation_items.c.body)
            )
            if body is None:
                return False
            left = conversations.c.size_bytes - len(body.encode())
            await connection.execute(
                update(conversations).where(conversations.c.id == conversation_id).values(size_bytes=left)
            )
            return True

    async def forget(self, principal: str | None = None, user: str | None = None) -> int:
        """Forget those of a principal, of a person, or all; returns how many."""
        async with self._database.begin() as connection:
            return await forget_conversations(connection, principal, user)

    async def remove_older(self, moment: datetime) -> int:
        """Forget those that were last used before `moment`, in short transactions; returns how many.

        Not those that a response that is kept began in: it could not be gone on from.
        """
        begun_there = select(responses.c.id).where(responses.c.conversation_id == conversations.c.id).exists()
        oldest = (conversations.c.used_at < moment) & ~begun_there
        removed = 0
        while True:
            async with self._database.begin() as connection:
                batch = select(conversations.c.id).where(oldest).order_by(conversations.c.used_at, conversations.c.id)
                count = await _remove(connection, batch.limit(BATCH_ROWS))
            removed += count
            if count < BATCH_ROWS:
                return removed

    async def append_in(
        self, connection: AsyncConnection, conversation_id: str, items: Sequence[Item], limit_bytes: int | None = None
    ) -> bool:
        """As `append`, within a transaction."""
        bodies = [orjson.dumps(item) for item in items]
        row = (
            await connection.execute(
                update(conversations)
                .where(conversations.c.id == conversation_id)
                .values(
                    next_position=conversations.c.next_position + len(items),
                    size_bytes=conversations.c.size_bytes + sum(map(len, bodies)),
                    used_at=self._now(),
                )
                .returning(conversations.c.next_position, conversations.c.size_bytes)
            )
        ).one_or_none()
        if row is None:
            return False
        if limit_bytes is not None and row.size_bytes > limit_bytes:
            raise TooLargeError(row.size_bytes)
        first = row.next_position - len(items)
        lines = [
            {"conversation_id": conversation_id, "position": first + index, "id": item["id"], "body": body.decode()}
            for index, (item, body) in enumerate(zip(items, bodies, strict=True))
        ]
        if lines:
            await connection.execute(insert(conversation_items), lines)
        return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


async def items_of(connection: AsyncConnection, conversation_id: str, end: int | None = None) -> list[Item]:
    """What was said in a conversation, before the position `end` where one is given."""
    query = select(conversation_items.c.body).where(conversation_items.c.conversation_id == conversation_id)
    if end is not None:
        query = query.where(conversation_items.c.position < end)
    found = await connection.scalars(query.order_by(conversation_items.c.position))
    return [orjson.loads(body) for body in found]


async def forget_conversations(connection: AsyncConnection, principal: str | None, user: str | None) -> int:
    """Forget those of a principal, of a person, or all; returns how many."""
    return await _remove(connection, select(conversations.c.id).where(*belongs_to(conversations, principal, user)))


async def _remove(connection: AsyncConnection, which: Any) -> int:
    ids = list(await connection.scalars(which))
    for at in range(0, len(ids), BATCH_ROWS):
        batch = ids[at : at + BATCH_ROWS]
        await connection.execute(delete(conversations).where(conversations.c.id.in_(batch)))
        await connection.execute(delete(conversation_items).where(conversation_items.c.conversation_id.in_(batch)))
    return len(ids)


def _item(conversation_id: str, item_id: str) -> Any:
    named = conversation_items.c.conversation_id == conversation_id, conversation_items.c.id == storable(item_id)
    return select(conversation_items.c.body).where(*named)


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(row.id, row.created_at, orjson.loads(row.notes), row.next_position, row.size_bytes)
