"""Is it alive, is it ready, which release is it? The first three need no key."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.models import models_router

PUBLIC_PATHS = frozenset({"/health", "/livez", "/readyz", "/", "/api/version"})
"""The last two are what Ollama's clients ask before they show who they are."""

_READ = ["GET", "HEAD"]  # load balancers ask with either


def status_router(gateway: Gateway) -> APIRouter:
    """The routes about the gateway as a whole, and its models."""
    router = APIRouter(include_in_schema=False)
    router.include_router(models_router(gateway))
    release = version("hugind")

    @router.api_route("/livez", methods=_READ)
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.api_route("/readyz", methods=_READ)
    @router.api_route("/health", methods=_READ)
    async def readyz(request: Request) -> JSONResponse:
        """200 when some engine can serve and none is loading: one that failed must not take the others out.

        Engines that are loaded when somebody asks for them can serve. `status` is ok, degraded (one failed), loading or
        failed; `device` what the machine offers: cuda, metal or cpu. Names no model: it needs no key.
        """
        fleet = gateway.fleet
        states = {engine: engine.state for engine in fleet.engines.values()}
        troubled = [state for engine, state in states.items() if not fleet.is_fine(engine)]
        if fleet.is_ready:
            status = "ok"
        elif set(troubled) - {"failed", "stopped"}:
            status = "loading"
        else:
            status = "degraded" if len(troubled) < len(states) else "failed"
        told = {"status": status, "device": request.app.state.device, "engines": list(states.values())}
        return JSONResponse(told, 200 if status in ("ok", "degraded") else 503)

    @router.get("/version")
    async def show_version() -> dict[str, str]:
        """The release of hugind."""
        return {"name": "hugind", "version": release}

    return router
