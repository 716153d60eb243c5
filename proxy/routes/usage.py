"""What was used, for those who run the gateway."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from hugind.proxy.records.usage import By, report, rows
from hugind.proxy.routes.account_shapes import Time
from hugind.proxy.routes.operators import Name, operators_router

if TYPE_CHECKING:
    from hugind.proxy.routes.records import Records

MAX_ROWS = 1000
MAX_SUMS = 100_000
MAX_ID = 2**63 - 1

User = Annotated[Name | None, Query(description="A user's name, or `config:NAME`, `environment`, `anonymous`.")]
KeyId = Annotated[Name | None, Query(description="The public part of a key.")]
Model = Annotated[Name | None, Query()]
Since = Annotated[Time | None, Query(description="From then on: a date or a time in ISO 8601.")]
Until = Annotated[Time | None, Query(description="Before then.")]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
Before = Annotated[int | None, Query(ge=1, le=MAX_ID, description="Go on from there: `next` of the page before.")]


class Sums(BaseModel):
    """Of turns that were admitted."""

    requests: int
    failed: int
    """Not served to their end: refused by the engine, broken off, or given up by who asked."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts': those that the engine had already."""
    completion_tokens: int
    duration_ms: float


class SumsBy(Sums):
    """With what they are of, under the name that was asked for."""

    day: date | None = None
    hour: datetime | None = None
    user: str | None = None
    model: str | None = None
    key: str | None = None
    """The public part; null: not one out of the database."""


class Usage(BaseModel):
    rows: list[SumsBy]
    """Without `by`: none."""
    total: Sums


class Turn(BaseModel):
    """One turn."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    request_id: str
    created_at: datetime
    username: str
    end_user: str | None
    """On whose behalf a delegating key asked."""
    key_id: str | None
    path: str
    dialect: str
    model: str
    status_code: int
    duration_ms: float
    queue_ms: float
    ttft_ms: float | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    request_bytes: int
    response_bytes: int
    stream: bool
    finish_reason: str | None
    error_code: str | None
    client_ip: str | None


class Turns(BaseModel):
    requests: list[Turn]
    next: int | None
    """For `before`, to go on; null: that was all."""


def usage_router(records: Records) -> APIRouter:
    """Sums and single turns."""
    router = operators_router("usage")

    @router.get("/usage", response_model_exclude_unset=True)
    async def show_usage(
        user: User = None,
        key: KeyId = None,
        model: Model = None,
        since: Since = None,
        until: Until = None,
        by: By | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_SUMS)] = MAX_ROWS,
    ) -> Usage:
        """Sums of turns. Days and hours in order, the last `limit` of them; others with the most tokens first."""
        database = records.database
        total = await report(database, user=user, key_id=key, model=model, since=since, until=until)
        found = []
        if by is not None:
            found = await report(database, user=user, key_id=key, model=model, since=since, until=until, by=by)
            found = found[-limit:] if by in ("day", "hour") else found[:limit]
        return Usage(rows=[SumsBy(**row) for row in found], total=Sums(**total[0]))

    @router.get("/usage/requests")
    async def list_requests(
        user: User = None,
        key: KeyId = None,
        model: Model = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        before: Before = None,
    ) -> Turns:
        """Single turns, the latest first. They are kept for as long as `usage.retention_days` says."""
        found = await rows(
            records.database, user=user, key_id=key, model=model, since=since, until=until, limit=limit + 1,
            before_id=before,
        )  # fmt: skip
        turns = [Turn(**row) for row in found[:limit]]
        return Turns(requests=turns, next=turns[-1].id if len(found) > limit else None)

    return router
