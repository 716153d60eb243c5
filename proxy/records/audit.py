"""Who changed what, when, from where. Rows are only added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import audit

MAX_ENTRIES = 1000

_MOST = 2**63 - 1
"""What fits into a row's number."""


@dataclass(frozen=True)
class Actor:
    """Who makes a change."""

    name: str
    """A principal's name, or who ran a command."""
    key_id: str | None = None
    client_ip: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Entry:
    """One change."""

    id: int
    created_at: datetime
    actor: str
    actor_key_id: str | None
    action: str
    """Such as `key.rotate`."""
    target: str
    """What was changed: a user's name, a key's public id, an engine."""
    detail: dict[str, Any]
    client_ip: str | None
    request_id: str | None


@dataclass(frozen=True)
class Filters:
    """Which entries."""

    actor: str | None = None
    action: str | None = None
    """The whole, or its first word: `key` for all that was done with keys."""
    target: str | None = None
    since: datetime | None = None
    """With its zone."""


async def record(
    connection: AsyncConnection, actor: Actor, action: str, target: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Add an entry in the transaction of the change itself, so that there is neither without the other.

    `detail` is JSON, and never holds a secret or its digest.
    """
    await connection.execute(
        audit.insert().values(
            created_at=datetime.now(UTC),
            actor=_fitting(actor.name, 128),
            actor_key_id=_fitting(actor.key_id, 16),
            action=action,
            target=_fitting(target, 256),
            detail=dict(detail or {}),
            client_ip=_fitting(actor.client_ip, 64),
            request_id=_fitting(actor.request_id, 64),
        )
    )


async def entries(
    database: Database, filters: Filters | None = None, limit: int = 100, before: int | None = None
) -> list[Entry]:
    """The latest first; `before`: those older than the entry with this id. At most `MAX_ENTRIES`.

    Raises:
        DatabaseAway: it cannot be reached.
    """
    filters = filters or Filters()
    columns = audit.c
    wanted = select(audit).order_by(columns.id.desc()).limit(max(0, min(limit, MAX_ENTRIES)))
    for column, value in ((columns.actor, filters.actor), (columns.target, filters.target)):
        if value is not None:
            wanted = wanted.where(column == _fitting(value))
    if filters.action is not None:
        action = _fitting(filters.action)
        wanted = wanted.where(or_(columns.action == action, columns.action.startswith(f"{action}.", autoescape=True)))
    if filters.since is not None:
        wanted = wanted.where(columns.created_at >= filters.since)
    if before is not None:
        wanted = wanted.where(columns.id < max(0, min(before, _MOST)))
    async with database.read() as connection:
        return [Entry(**row) for row in (await connection.execute(wanted)).mappings()]


def _fitting(text: str | None, length: int | None = None) -> Any:
    """What every database can keep, and compare with: no NUL, no half of a character, not too long."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "?")[:length]
