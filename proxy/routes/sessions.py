"""What is kept of conversations, for those who run the gateway; and for everybody, their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, BinaryIO

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from hugind.proxy.access.principal import Principal
from hugind.proxy.disconnect import DisconnectWatch, connection_of
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.callers import actor_of, end_user_of, principal_of
from hugind.proxy.routes.operators import Name, Refusal, operators_router
from hugind.proxy.routes.records import Records
from hugind.proxy.routes.session_shapes import (
    Forgotten,
    ImportedSession,
    SessionAnswer,
    SessionList,
    SessionWithMessages,
)
from hugind.proxy.sessions.desk import Desk, Which, find_session, list_sessions
from hugind.proxy.sessions.record import Owner, Session

logger = logging.getLogger(__name__)

MAX_LISTED = 100_000
MAX_NAMED = 20
"""Principals in a message."""

Limit = Annotated[int, Query(ge=0, le=MAX_LISTED)]
Wanted = Annotated[Name | None, Query()]


class PinRequest(BaseModel):
    """The body of a pin."""

    model_config = ConfigDict(strict=True, extra="forbid")

    pinned: bool


def sessions_router(gateway: Gateway, records: Records) -> APIRouter:
    """The admin's routes, 403 for everybody else, and `/v1/sessions` for the caller's own."""
    router = APIRouter()
    router.include_router(_admin_router(gateway, records))
    router.include_router(_own_router(gateway))
    return router


async def forget_sessions_of(gateway: Gateway, principal: str) -> int:
    """Forget what a principal has with the engines that are served; returns how many. Those in use are left: logged.

    What is kept of its responses is forgotten with the user (`Accounts.delete_user`).
    """
    forgotten, busy = await forget_each(all_desks(gateway), Which(principal))
    if busy is not None:
        logger.warning("sessions of %s: %s", principal, busy.message)
    return len(forgotten)


async def forget_each(desks: Sequence[Desk], which: Which) -> tuple[list[str], ApiError | None]:
    """Forget what is meant at every desk: their ids, and why some are still there."""
    forgotten: list[str] = []
    busy: ApiError | None = None
    for desk in desks:
        await desk.load()
        try:
            forgotten += await desk.forget_all(which)
        except ApiError as error:
            busy = busy or error
    return forgotten, busy


def _admin_router(gateway: Gateway, records: Records) -> APIRouter:
    router = operators_router("sessions")

    @router.get("/sessions", response_model=SessionList)
    async def list_sessions_of_all(
        request: Request,
        user: Wanted = None,
        principal: Wanted = None,
        engine: Wanted = None,
        id: Wanted = None,  # noqa: A002 - the name of the parameter
        limit: Limit = 1000,
    ) -> Response:
        """The sessions, newest first, and what each engine can do with them. `id`: how it begins."""
        desks = _desks(gateway, engine, request)
        rows, total = await list_sessions(desks, Which(principal, user, id), limit)
        return _json({"engines": [desk.summary() for desk in desks], "sessions": rows, "total": total})

    @router.delete("/sessions", response_model=Forgotten)
    async def forget_sessions(
        request: Request,
        user: Wanted = None,
        principal: Wanted = None,
        engine: Wanted = None,
        all: bool = False,  # noqa: A002 - the name of the parameter
    ) -> Response:
        """Forget every session of a user, or all."""
        if user is None and not all:
            raise ApiError(400, "say whose: user=NAME, or all=true", param="user")
        if user is not None and all:
            raise ApiError(400, "user=NAME or all=true, not both", param="all")
        forgotten, busy = await forget_each(_desks(gateway, engine, request), Which(principal, user))
        if engine is None:
            await gateway.books.responses.forget(principal, user)
        which = {"user": user, "principal": principal, "engine": engine, "is_complete": busy is None}
        await records.note(actor_of(request), "session.forget_all", user or "all", which)
        if busy is not None:
            raise busy
        return _json({"forgotten": forgotten})

    @router.get("/sessions/{session_id}", response_model=SessionWithMessages)
    async def show_session(session_id: str) -> Response:
        """One session, with what was said where that is known."""
        desk, session = await find_session(all_desks(gateway), session_id)
        about = desk.describe(session, desk.seats())
        return _json({**about, "messages": await desk.transcript(session)})

    @router.delete("/sessions/{session_id}", response_model=Forgotten)
    async def forget_session(session_id: str, request: Request) -> Response:
        """Forget one session."""
        desk, session = await find_session(all_desks(gateway), session_id)
        await desk.forget(session)
        await records.note(actor_of(request), "session.forget", session_id, _whose(desk, session))
        return _json({"forgotten": [session_id]})

    @router.post("/sessions/{session_id}/pin", response_model=SessionAnswer)
    async def pin_session(session_id: str, wanted: PinRequest, request: Request) -> Response:
        """Keep a session whatever its age, or not any more."""
        desk, session = await find_session(all_desks(gateway), session_id)
        desk.pin(session, is_pinned=wanted.pinned)
        detail = {**_whose(desk, session), "pinned": wanted.pinned}
        await records.note(actor_of(request), "session.pin", session_id, detail)
        return _json(desk.describe(session, desk.seats()))

    @router.get(
        "/sessions/{session_id}/export",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def export_session(session_id: str, request: Request) -> Response:
        """One session as a file: the record, what was said, the snapshot."""
        desk, session = await find_session(all_desks(gateway), session_id)
        chunks = desk.export(session)
        first = await anext(chunks)
        await records.note(actor_of(request), "session.export", session_id, _whose(desk, session))
        return _Download(session, first, chunks)

    @router.post(
        "/sessions/import",
        status_code=201,
        response_model=ImportedSession,
        responses={507: {"model": Refusal, "description": "There is no room for it."}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def import_session(request: Request, engine: Name, principal: Wanted = None, user: Wanted = None) -> Response:
        """A new session from such a file."""
        (desk,) = _desks(gateway, engine, request)
        owner = Owner(await _known_principal(gateway, records, engine, principal), user or None)
        if connection := connection_of(request.scope):
            connection.expect_long_body()
        with desk.upload() as file:
            await _receive(request, file, desk.max_import_bytes)
            try:
                with gateway.fleet.use(gateway.engine_for(engine, principal_of(request))):
                    imported = await desk.bring_in(file, owner)
            except OSError as error:
                raise ApiError(507, f"the session cannot be written: {error.strerror or error}") from error
        session = imported.session
        await records.note(actor_of(request), "session.import", session.id, _whose(desk, session))
        about = desk.describe(session, desk.seats())
        return _json({**about, "snapshot_kept": session.newest is not None, "problem": imported.problem}, 201)

    return router


def _own_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/v1/sessions")
    async def list_own(request: Request, user: str | None = None, limit: Limit = 1000) -> Response:
        """The caller's own sessions, newest first."""
        which = own_sessions(request)
        desks = own_desks(gateway, principal_of(request))
        rows, total = await list_sessions(desks, which if which.user else Which(which.principal, user), limit)
        return _json({"object": "list", "data": rows, "total": total})

    @router.delete("/v1/sessions/{session_id}")
    async def forget_own(session_id: str, request: Request) -> Response:
        """Forget one of them; somebody else's does not exist."""
        desk, session = await find_session(own_desks(gateway, principal_of(request)), session_id)
        if not own_sessions(request).fits(session):
            raise ApiError(404, f"there is no session '{session_id}'", code="session_not_found")
        await desk.forget(session)
        return _json({"forgotten": [session_id]})

    return router


def own_sessions(request: Request) -> Which:
    """Those of the caller: of a key, or of the one person on whose behalf it asks."""
    return Which(principal_of(request).name, end_user_of(request))


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
        return all_desks(gateway)
    found = gateway.engine_for(engine, principal_of(request))
    if found.config.model.task != "chat":
        raise ApiError(400, f"'{engine}' serves {found.config.model.task}: it holds no sessions", param="engine")
    keeper = gateway.keeper(found)
    return [Desk(keeper.store, keeper)]


def own_desks(gateway: Gateway, principal: Principal) -> list[Desk]:
    """Of the engines that the caller may use."""
    return [desk for desk in all_desks(gateway) if principal.may_use(desk.store.name)]


def all_desks(gateway: Gateway) -> list[Desk]:
    """Of those that are served; one that drains after a reload has the same store as its successor."""
    served = [engine for engine in gateway.fleet.engines.values() if engine.config.model.task == "chat"]
    return [Desk(keeper.store, keeper) for keeper in map(gateway.keeper, served)]


async def _known_principal(gateway: Gateway, records: Records, engine: str, wanted: str | None) -> str:
    known = gateway.doorman.keyring.principals(engine) + [user.username for user in await records.accounts.users()]
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        some = ", ".join(known[:MAX_NAMED]) + (" ..." if len(known) > MAX_NAMED else "")
        raise ApiError(400, f"say whose it shall be, principal=NAME: one of {some}", param="principal")
    return wanted


def _whose(desk: Desk, session: Session) -> dict[str, Any]:
    return {"engine": desk.store.name, "principal": session.owner.principal, "user": session.owner.user}


def _json(value: Any, status: int = 200) -> Response:
    """Without FastAPI's own encoder, which takes milliseconds for what this does in one."""
    return Response(orjson.dumps(value), status, media_type="application/json")
