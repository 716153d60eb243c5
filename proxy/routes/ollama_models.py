"""Ollama's routes about models: which there are, what they are, which are loaded; fetch, make, copy and remove them."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from hugind.proxy.dialects.ollama_models import (
    list_entry,
    loaded_entry,
    longest_first,
    newest_first,
    served_info,
    show_answer,
)
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.model_cards import dossier, loaded_cards, visible_cards
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.callers import principal_of
from hugind.proxy.routes.ollama_asking import find, name_in, read_object
from hugind.proxy.routes.ollama_blobs import blobs_router
from hugind.proxy.routes.ollama_changes import changes_router
from hugind.proxy.routes.ollama_pull import pull_router
from hugind.proxy.routes.records import Records

OLLAMA_VERSION = "0.33.3"
"""Whose API this is: clients compare it with what they need."""
_READ = ["GET", "HEAD"]


def ollama_models_router(gateway: Gateway, reloader: Reloader | None, records: Records) -> APIRouter:
    """Without a reloader, what is fetched or made is served after the next start."""
    router = APIRouter(include_in_schema=False)
    router.include_router(_about_router())
    router.include_router(_looking_router(gateway))
    router.include_router(changes_router(gateway, reloader, records))
    router.include_router(blobs_router(gateway))
    router.include_router(pull_router(gateway, reloader, records))
    return router


def _about_router() -> APIRouter:
    """What clients ask first. The first two need no key."""
    router = APIRouter()
    release = version("hugind")

    @router.api_route("/", methods=_READ)
    async def heartbeat() -> Response:
        """Somebody is there, and who clients take it for."""
        return PlainTextResponse("Ollama is running")

    @router.api_route("/api/version", methods=_READ)
    async def show_version() -> Response:
        """Ollama's, a number that clients can compare, and ours."""
        return _json({"version": OLLAMA_VERSION, "hugind": release})

    @router.get("/api/status")
    async def status() -> Response:
        """There is no cloud behind this."""
        return _json({"cloud": {"disabled": True, "source": "config"}})

    @router.post("/api/push")
    async def push() -> Response:
        """Nothing leaves this machine."""
        raise ApiError(501, "push is not supported: models are not published from here")

    return router


def _looking_router(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.api_route("/api/tags", methods=_READ)
    async def tags(request: Request) -> Response:
        """The models and aliases that the caller may use, the newest first."""
        return _json(await _tags(gateway, request))

    @router.api_route("/api/models", methods=_READ)
    async def models(request: Request) -> Response:
        """The same, under an older name."""
        return _json(
            await _tags(gateway, request), {"deprecation": "true", "link": '</api/tags>; rel="successor-version"'}
        )

    @router.get("/api/ps")
    async def ps(request: Request) -> Response:
        """Which of them are in memory, and for how long."""
        now = time.time()
        loaded = longest_first(await loaded_cards(gateway, principal_of(request)), now)
        return _json({"models": [loaded_entry(card, stand, now) for card, stand in loaded]})

    @router.post("/api/show")
    async def show(request: Request) -> Response:
        """What one of them is."""
        body = await read_object(request)
        name = name_in(body)
        target = find(gateway, principal_of(request), name)
        about = await dossier(target, name, is_verbose=body.get("verbose") is True)
        agent = request.headers.get("user-agent", "")
        info = served_info(about.model_info, about.card, about.parameters, name, agent)
        return _json(show_answer(about.card, about.settings, info, about.projector_info))

    return router


async def _tags(gateway: Gateway, request: Request) -> dict[str, Any]:
    cards = await visible_cards(gateway, principal_of(request))
    return {"models": [list_entry(card) for card in newest_first(cards)]}


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), headers=headers, media_type="application/json; charset=utf-8")
