"""What is on record, for those who run the gateway: everything of the admin API that needs no gateway to run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp, Receive, Scope, Send

from hugind.proxy.access.accounts import Accounts
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.failures import add_handlers
from hugind.proxy.records.audit import Actor, Filters, entries, record
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.routes.accounts import keys_router, users_router
from hugind.proxy.routes.operators import Name, operators_router
from hugind.proxy.routes.usage import Before, Limit, Since, usage_router

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """The database, and who wants to know of changes. Holds nothing of its own; the database is its maker's."""

    database: Database
    accounts: Accounts
    changed: Callable[[], Awaitable[None]] | None = None
    """Called after every change of users and keys, so that it holds here at once."""
    forget_sessions: Callable[[str], Awaitable[int]] | None = None
    """Forgets the sessions of a principal; returns how many there were. None: no gateway runs here."""

    async def tell(self) -> None:
        """Users or keys have changed, and that is on record: whatever fails now does not undo it."""
        if self.changed is not None:
            try:
                await self.changed()
            except DatabaseError as error:
                logger.warning("a change of users and keys is noticed later: %s", error.message)

    async def forget_all_of(self, username: str) -> int | None:
        """Forget the sessions of a user who is gone; None: nobody here holds any."""
        return None if self.forget_sessions is None else await self.forget_sessions(username)

    async def note(self, actor: Actor, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
        """Put on record what was done with the gateway itself. A database that is away hinders nobody from doing it."""
        try:
            async with self.database.begin() as connection:
                await record(connection, actor, action, target, detail)
        except DatabaseError as error:
            logger.warning("not on record: %s by %s: %s %s: %s", action, actor.name, target, detail, error.message)


class Entry(BaseModel):
    """One change."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime
    actor: str
    """A user, or `control`: a command of the gateway's owner."""
    actor_key_id: str | None
    action: str
    target: str
    detail: dict[str, Any]
    client_ip: str | None
    request_id: str | None


class Entries(BaseModel):
    entries: list[Entry]
    next: int | None
    """For `before`, to go on; null: that was all."""


class DatabaseAnswer(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    kind: str
    address: str
    """Without its password."""
    revision: str | None
    """Of its tables; null: there are none yet."""
    head: str
    """The revision that this release works with."""
    is_current: bool


def records_router(records: Records) -> APIRouter:
    """Users, keys, usage, changes, and the database itself."""
    router = APIRouter()
    for part in (users_router(records), keys_router(records), usage_router(records), _audit_router(records)):
        router.include_router(part)
    return router


def records_app(records: Records, actor_name: str) -> FastAPI:
    """The same without a gateway, for a command that has the database at hand: whoever calls it may do everything.

    `actor_name` is on record for what it changes.
    """
    app = FastAPI(title="hugind", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(records_router(records))
    app.add_middleware(_Alone, actor_name=actor_name)
    add_handlers(app)
    return app


def _audit_router(records: Records) -> APIRouter:
    router = operators_router("records")

    @router.get("/audit")
    async def list_changes(
        actor: Annotated[Name | None, Query()] = None,
        action: Annotated[
            Name | None, Query(description="Such as `key.rotate`, or `key` for all that was done with keys.")
        ] = None,
        target: Annotated[Name | None, Query(description="A user's name, a key's public part, an engine.")] = None,
        since: Since = None,
        limit: Limit = 100,
        before: Before = None,
    ) -> Entries:
        """What was changed, the latest first."""
        filters = Filters(actor=actor, action=action, target=target, since=since)
        found = await entries(records.database, filters, limit=limit, before=before)
        return Entries(
            entries=[Entry.model_validate(entry) for entry in found],
            next=found[-1].id if len(found) == limit else None,
        )

    @router.get("/database")
    async def show_database() -> DatabaseAnswer:
        """Where everything is on record."""
        return DatabaseAnswer.model_validate(await records.database.status())

    return router


class _Alone:
    """Makes every request one of the same principal, who may do everything. No connection leads here."""

    def __init__(self, app: ASGIApp, actor_name: str) -> None:
        self._app = app
        self._principal = Principal(actor_name, scopes=ALL_SCOPES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "principal": self._principal, "client": None, "request_id": None}
        await self._app(scope, receive, send)
