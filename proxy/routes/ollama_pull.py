"""Ollama's route that fetches a model from the hub."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hugind.proxy.dialects.ollama import error_line
from hugind.proxy.dialects.ollama_models import progress_line
from hugind.proxy.disconnect import DisconnectWatch
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.gateway import Gateway
from hugind.proxy.pulls import Pulls, Step
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.callers import actor_of, principal_of
from hugind.proxy.routes.ollama_asking import NDJSON, SUCCESS, find, name_in, progress, read_object
from hugind.proxy.routes.records import Records
from hugind.supervisor.errors import HugindError
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.download_plan import DownloadError, Plan
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.library import Library
from hugind.supervisor.models.repository import Reference, ReferenceProblem, parse_reference

logger = logging.getLogger(__name__)

MakeHub = Callable[[str | None], Hub]
"""The hub, as whoever has this token sees it."""

_NOT_THERE = "pull model manifest: file does not exist"
"""What Ollama's clients look for."""
_STATUSES = {"not_found": 404, "not_gguf": 404, "no_quant": 404, "disk": 507, "cancelled": 499}
_SHORT_DIGEST = 12
_MANIFEST = progress_line("pulling manifest")
_NOT_SERVED = progress_line("fetched; 'hugind serve' serves it, or a config that names it")


def pull_router(
    gateway: Gateway,
    reloader: Reloader | None,
    records: Records,
    make_hub: MakeHub = lambda token: Hub(token=token),
) -> APIRouter:
    """Without a reloader, what is fetched is served after the next start."""
    router = APIRouter()
    pulls = Pulls(gateway.home)

    @router.post("/api/pull")
    async def pull(request: Request) -> Response:
        """Fetch a model, unless it is here. `trust_remote_code` is ignored: no code of a repository is ever run."""
        body = await read_object(request)
        name, revision = name_in(body), body.get("revision") or None
        if revision is None and _is_served(gateway, request, name):
            return progress(body, [_MANIFEST, SUCCESS])
        async with DisconnectWatch(request.scope["exchange"]):
            is_here = revision is None and await asyncio.to_thread(_is_in_library, gateway, name)
            hub = make_hub(_token(gateway))
            plan = None if is_here else await _plan(pulls, hub, name, revision)
        lines = fetch(request, name, plan, hub)
        if body.get("stream") is not False:
            return _Lines(lines)
        async with DisconnectWatch(request.scope["exchange"]), aclosing(lines):
            last = [line async for line in lines][-1]
        if last != SUCCESS:
            return Response(last, 500, media_type="application/json")
        return Response(last, media_type="application/json")

    async def fetch(request: Request, name: str, plan: Plan | None, hub: Hub) -> AsyncGenerator[bytes]:
        """The lines of the answer. Its end is `success`, or an error."""
        yield _MANIFEST
        try:
            if plan is not None:
                async with aclosing(pulls.follow(plan, hub)) as steps:
                    async for step in steps:
                        yield _line(step)
                yield progress_line("verifying sha256 digest")
                await records.note(actor_of(request), "model.pull", f"{plan.user}/{plan.repo}", _detail(plan))
        except DownloadError as error:
            logger.warning("%s: pull of %s: %s", request.scope["request_id"], name, error.message)
            yield error_line(_words(error))
            return
        yield progress_line("writing manifest")
        if (problem := await _serve(reloader)) is not None:
            yield progress_line(f"fetched, and not served yet: {problem}")
        elif not _is_served(gateway, request, name):
            yield _NOT_SERVED
        yield SUCCESS

    return router


class _Lines(StreamingResponse):
    """Progress on its way out. Ends when its reader leaves, and its source with it."""

    def __init__(self, lines: AsyncGenerator[bytes]) -> None:
        self._lines = lines
        super().__init__(lines, headers={"x-accel-buffering": "no"}, media_type=NDJSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._lines), DisconnectWatch(scope["exchange"]):
                await self.stream_response(send)
        except ClientGone:
            logger.info("%s: who waited for a pull went away", scope["request_id"])


async def _plan(pulls: Pulls, hub: Hub, name: str, revision: object) -> Plan:
    try:
        return await pulls.plan(_reference(name, revision), hub)
    except ReferenceProblem as error:
        raise ApiError(404, f"{_NOT_THERE}: {_words(error)}", code="model_not_found") from None
    except DownloadError as error:
        status = _STATUSES.get(error.problem, 502)
        words = _words(error)
        raise ApiError(status, f"{_NOT_THERE}: {words}" if status == 404 else words) from None


async def _serve(reloader: Reloader | None) -> str | None:
    """Bring the gateway in line with what is there; why that cannot be."""
    if reloader is None:
        return None
    try:
        await reloader.reload()
    except HugindError as error:
        return _words(error)
    return None


def _reference(name: str, revision: object) -> Reference:
    reference = parse_reference(name)
    if revision is None:
        return reference
    if not isinstance(revision, str):
        raise ApiError(400, "revision must be a text", param="revision")
    checked = parse_reference(f"{reference.user}/{reference.repo}@{revision}")
    return replace(reference, revision=checked.revision)


def _is_served(gateway: Gateway, request: Request, name: str) -> bool:
    try:
        find(gateway, principal_of(request), name)
    except ApiError:
        return False
    return True


def _is_in_library(gateway: Gateway, name: str) -> bool:
    """Blocks on the disk."""
    known = [one for model in Library(gateway.home).models() for one in (model.name, *model.other_names)]
    return match_name(name, known) is not None


def _token(gateway: Gateway) -> str | None:
    token = gateway.books.rules.hub_token
    return token.get_secret_value() if token else None


def _line(step: Step) -> bytes:
    figures: dict[str, Any] = {"total": step.total, "completed": step.done, "file": step.name}
    if step.sha256 is None:
        return progress_line(f"pulling {step.name}", **figures)
    return progress_line(f"pulling {step.sha256[:_SHORT_DIGEST]}", digest=f"sha256:{step.sha256}", **figures)


def _detail(plan: Plan) -> dict[str, Any]:
    return {"model": plan.model, "revision": plan.revision, "bytes": plan.size_bytes}


def _words(error: HugindError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
