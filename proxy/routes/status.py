"""Is it alive, is it ready, what does it serve? The first three need no key."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.callers import principal_of
from hugind.proxy.sessions.desk import ability_of
from hugind.supervisor.engine import Engine

PUBLIC_PATHS = frozenset({"/health", "/livez", "/readyz"})

_READ = ["GET", "HEAD"]  # load balancers ask with either


def status_router(gateway: Gateway) -> APIRouter:
    """The routes about the gateway as a whole and its models."""
    router = APIRouter(include_in_schema=False)
    created = int(time.time())
    release = version("hugind")

    @router.api_route("/livez", methods=_READ)
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.api_route("/readyz", methods=_READ)
    @router.api_route("/health", methods=_READ)
    async def readyz() -> JSONResponse:
        """200 when some engine can serve and none is loading: one that failed must not take the others out.

        `status` is ok, degraded (one failed), loading or failed. Names no model: it needs no key.
        """
        states = [engine.state for engine in gateway.fleet.engines.values()]
        if gateway.fleet.is_ready:
            status = "ok"
        elif "loading" in states:
            status = "loading"
        else:
            status = "degraded" if "ready" in states else "failed"
        return JSONResponse({"status": status, "engines": states}, 200 if status in ("ok", "degraded") else 503)

    @router.get("/version")
    async def show_version() -> dict[str, str]:
        """The release of hugind."""
        return {"name": "hugind", "version": release}

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The models that the caller may use."""
        visible = gateway.visible_engines(principal_of(request))
        return {"object": "list", "data": [_model(gateway, engine, created) for engine in visible]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One of them."""
        return _model(gateway, gateway.engine_for(name, principal_of(request)), created)

    return router


def _model(gateway: Gateway, engine: Engine, created: int) -> dict[str, Any]:
    return {
        "id": engine.name,
        "object": "model",
        "created": created,
        "owned_by": "hugind",
        "meta": {
            "state": engine.state,
            "task": engine.config.model.task,
            "n_ctx": engine.config.context.ctx_size,
            "sessions": _sessions(gateway, engine),
        },
    }


def _sessions(gateway: Gateway, engine: Engine) -> dict[str, str | None]:
    """What a conversation with the model is worth once it has left its slot."""
    task = engine.config.model.task
    if task != "chat":
        return {"ability": "none", "reason": f"an engine for {task} holds no sessions", "family": None}
    return ability_of(gateway.keeper(engine))
