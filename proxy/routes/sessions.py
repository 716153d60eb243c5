"""What is kept of conversations, for those who run the gateway; and for everybody, their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, BinaryIO

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from hugind.proxy.access.principal import Principal
from hugind.proxy.disconnect import DisconnectWatch
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.admin import require_admin
from hugind.proxy.routes.status import principal_of
from hugind.proxy.sessions.desk import Desk, Which, find_session, list_sessions
from hugind.proxy.sessions.record import Owner, Session

logger = logging.getLogger(__name__)

PREFIX = "/admin/sessions"
MAX_LISTED = 100_000

Limit = Annotated[int, Query(ge=0, le=MAX_LISTED)]


class PinRequest(BaseModel):
    """The body of a pin."""

    model_config = ConfigDict(strict=True, extra="forbid")

    pinned: bool


def sessions_router(gateway: Gateway) -> APIRouter:
    """The admin's routes, 403 for everybody else, and `/v1/sessions` for the caller's own."""
    router = APIRouter()
    _add_admin_routes(router, gateway)
    _add_own_routes(router, gateway)
    return router


def _add_admin_routes(router: APIRouter, gateway: Gateway) -> None:
    @router.get(PREFIX)
    async def list_all(
        request: Request,
        user: str | None = None,
        principal: str | None = None,
        engine: str | None = None,
        id: str | None = None,  # noqa: A002 - the name of the parameter
        limit: Limit = 1000,
    ) -> Response:
        """The sessions, newest first, and what each engine can do with them. `id`: how it begins."""
        require_admin(request)
        desks = _desks(gateway, engine, request)
        rows, total = await list_sessions(desks, Which(principal, user, id), limit)
        return _json({"engines": [desk.summary() for desk in desks], "sessions": rows, "total": total})

    @router.delete(PREFIX)
    async def forget_many(
        request: Request,
        user: str | None = None,
        principal: str | None = None,
        engine: str | None = None,
        all: bool = False,  # noqa: A002 - the name of the parameter
    ) -> Response:
        """Forget every session of a user, or all."""
        require_admin(request)
        if user is None and not all:
            raise ApiError(400, "say whose: user=NAME, or all=true", param="user")
        if user is not None and all:
            raise ApiError(400, "user=NAME or all=true, not both", param="all")
        forgotten: list[str] = []
        busy: list[ApiError] = []
        for desk in _desks(gateway, engine, request):
            await desk.load()
            try:
                forgotten += await desk.forget_all(Which(principal, user))
            except ApiError as error:
                busy.append(error)
        if busy:
            raise busy[0]
        return _json({"forgotten": forgotten})

    @router.get(PREFIX + "/{session_id}")
    async def show(session_id: str, request: Request) -> Response:
        """One session, with what was said where that is known."""
        require_admin(request)
        desk, session = await find_session(_desks(gateway, None, request), session_id)
        about = desk.describe(session, desk.seats())
        return _json({**about, "messages": await desk.transcript(session)})

    @router.delete(PREFIX + "/{session_id}")
    async def forget(session_id: str, request: Request) -> Response:
        """Forget one session."""
        require_admin(request)
        desk, session = await find_session(_desks(gateway, None, request), session_id)
        await desk.forget(session)
        return _json({"forgotten": [session_id]})

    @router.post(PREFIX + "/{session_id}/pin")
    async def pin(session_id: str, wanted: PinRequest, request: Request) -> Response:
        """Keep a session whatever its age, or not any more."""
        require_admin(request)
        desk, session = await find_session(_desks(gateway, None, request), session_id)
        desk.pin(session, is_pinned=wanted.pinned)
        return _json(desk.describe(session, desk.seats()))

    @router.get(PREFIX + "/{session_id}/export")
    async def export(session_id: str, request: Request) -> Response:
        """One session as a file: the record, what was said, the snapshot."""
        require_admin(request)
        desk, session = await find_session(_desks(gateway, None, request), session_id)
        chunks = desk.export(session)
        return _Download(session, await anext(chunks), chunks)

    @router.post(PREFIX + "/import", status_code=201)
    async def bring_in(
        request: Request, engine: str, principal: str | None = None, user: str | None = None
    ) -> Response:
        """A new session from such a file."""
        require_admin(request)
        (desk,) = _desks(gateway, engine, request)
        owner = Owner(_known_principal(gateway, engine, principal), user or None)
        with desk.upload() as file:
            await _receive(request, file, desk.max_import_bytes)
            try:
                imported = await desk.bring_in(file, owner)
            except OSError as error:
                raise ApiError(507, f"the session cannot be written: {error.strerror or error}") from error
        about = desk.describe(imported.session, desk.seats())
        has_snapshot = imported.session.newest is not None
        return _json({**about, "snapshot_kept": has_snapshot, "problem": imported.problem}, 201)


def _add_own_routes(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/v1/sessions")
    async def list_own(request: Request, user: str | None = None, limit: Limit = 1000) -> Response:
        """The caller's own sessions, newest first."""
        principal = principal_of(request)
        rows, total = await list_sessions(_own_desks(gateway, principal), Which(principal.name, user), limit)
        return _json({"object": "list", "data": rows, "total": total})

    @router.delete("/v1/sessions/{session_id}")
    async def forget_own(session_id: str, request: Request) -> Response:
        """Forget one of them; somebody else's does not exist."""
        principal = principal_of(request)
        desk, session = await find_session(_own_desks(gateway, principal), session_id)
        if session.owner.principal != principal.name:
            raise ApiError(404, f"there is no session '{session_id}'", code="session_not_found")
        await desk.forget(session)
        return _json({"forgotten": [session_id]})


class _Download(StreamingResponse):
    """A session on its way out. Ends when its reader leaves, and its source with it."""

    def __init__(self, session: Session, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._rest = rest
        headers = {"content-disposition": f'attachment; filename="{session.id}.tar"'}
        super().__init__(_joined(first, rest), headers=headers, media_type="application/x-tar")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._rest), DisconnectWatch(scope["exchange"]):
                await self.stream_response(send)
        except ClientGone:
            logger.info("%s: the reader of an export went away", scope["request_id"])


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _receive(request: Request, file: BinaryIO, limit: int) -> None:
    """The whole body, which ends at the file's beginning."""
    declared = request.headers.get("content-length", "")
    received = int(declared) if declared.isdigit() else 0
    if received <= limit:
        received = 0
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > limit:
                    break
                await asyncio.to_thread(file.write, chunk)
        except ClientDisconnect:
            raise ClientGone from None
    if received > limit:
        raise ApiError(413, f"there is room for {limit // 1_000_000:,} MB", code="request_too_large")
    file.seek(0)


def _desks(gateway: Gateway, engine: str | None, request: Request) -> list[Desk]:
    """Of one engine, or of all that hold sessions."""
    if engine is None:
        return _all_desks(gateway)
    found = gateway.engine_for(engine, principal_of(request))
    if found.config.model.task != "chat":
        raise ApiError(400, f"'{engine}' serves {found.config.model.task}: it holds no sessions", param="engine")
    keeper = gateway.keeper(found)
    return [Desk(keeper.store, keeper)]


def _own_desks(gateway: Gateway, principal: Principal) -> list[Desk]:
    return [desk for desk in _all_desks(gateway) if principal.may_use(desk.store.name)]


def _all_desks(gateway: Gateway) -> list[Desk]:
    """Of those that are served; one that drains after a reload has the same store as its successor."""
    served = [engine for engine in gateway.fleet.engines.values() if engine.config.model.task == "chat"]
    return [Desk(keeper.store, keeper) for keeper in map(gateway.keeper, served)]


def _known_principal(gateway: Gateway, engine: str, wanted: str | None) -> str:
    known = gateway.keyring.principals(engine)
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        raise ApiError(400, f"say whose it shall be, principal=NAME: one of {', '.join(known)}", param="principal")
    return wanted


def _json(value: Any, status: int = 200) -> Response:
    """Without FastAPI's own encoder, which takes milliseconds for what this does in one."""
    return Response(orjson.dumps(value), status, media_type="application/json")
