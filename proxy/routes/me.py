"""What every key may know of itself, and do: its limits, its usage, its sessions."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request

from hugind.proxy.access.principal import Allowance, Principal
from hugind.proxy.gateway import Gateway
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.records.usage import report, report_of_person
from hugind.proxy.routes.callers import end_user_of, principal_of
from hugind.proxy.routes.sessions import forget_each, own_desks, own_sessions

USAGE_DAYS = 30


def me_router(gateway: Gateway) -> APIRouter:
    """With a key that asks on behalf of a person, it is that person's usage and sessions."""
    router = APIRouter(prefix="/v1/me", include_in_schema=False)

    @router.get("")
    async def show_me(request: Request) -> dict[str, Any]:
        """The caller. What only the database knows is null while that is away."""
        principal, end_user = principal_of(request), end_user_of(request)
        about: dict[str, Any] = {"user": principal.name}
        if end_user is not None:
            about["end_user"] = end_user
        about["key"] = _key(principal)
        about["limits"] = {"user": _set_limits(principal.limits), "key": _set_limits(principal.key_limits)}
        try:
            about["remaining"] = await gateway.books.limiter.remaining(principal)
            about["usage"] = await _usage(gateway.books.database, principal.name, end_user)
        except DatabaseError:
            about = {"remaining": None, "usage": None} | about
        about["sessions"] = await _sessions(gateway, request)
        return about

    @router.delete("/sessions")
    async def forget_mine(request: Request) -> dict[str, list[str]]:
        """Forget all of the caller's conversations. 409 names those in use; the others are gone."""
        which = own_sessions(request)
        forgotten, busy = await forget_each(own_desks(gateway, principal_of(request)), which)
        await gateway.books.responses.forget(which.principal, which.user)
        if busy is not None:
            raise busy
        return {"forgotten": forgotten}

    return router


def _key(principal: Principal) -> dict[str, Any] | None:
    if principal.key_id is None:
        return None
    ends = principal.expires_at
    return {
        "id": principal.key_id,
        "scopes": sorted(principal.scopes),
        "models": None if principal.engines is None else sorted(principal.engines),
        "expires_at": None if ends is None else datetime.fromtimestamp(ends, UTC),
    }


def _set_limits(allowance: Allowance) -> dict[str, float]:
    limits = {name: amount for name, amount in asdict(allowance).items() if amount is not None}
    if allowance.requests is None:
        del limits["window_s"]
    return limits


async def _usage(database: Database, user: str, end_user: str | None) -> dict[str, Any]:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = {}
    for name, since in (("today", midnight), ("days30", midnight - timedelta(days=USAGE_DAYS - 1))):
        if end_user is None:
            (found[name],) = await report(database, user=user, since=since)
        else:
            found[name] = await report_of_person(database, user, end_user, since)
    return found


async def _sessions(gateway: Gateway, request: Request) -> dict[str, int]:
    which = own_sessions(request)
    snapshots = {"count": 0, "memory_bytes": 0, "disk_bytes": 0}
    for desk in own_desks(gateway, principal_of(request)):
        await desk.load()
        for session in filter(which.fits, desk.store.sessions.values()):
            snapshots["count"] += 1
            snapshots["memory_bytes"] += session.memory.size_bytes if session.memory else 0
            snapshots["disk_bytes"] += session.disk.size_bytes if session.disk else 0
    return snapshots
