"""For those who run the gateway: its engines and workers, and a way to restart them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.status import principal_of
from hugind.supervisor.errors import HugindError

PREFIX = "/admin"


def admin_router(gateway: Gateway, reloader: Reloader | None) -> APIRouter:
    """Routes for principals with `is_admin`; everybody else gets 403. Without a reloader none reloads."""
    router = APIRouter(prefix=PREFIX)

    @router.get("/engines")
    async def engines(request: Request) -> list[dict[str, Any]]:
        """Every engine with its workers, and who waits."""
        require_admin(request)
        return [
            {
                **asdict(engine.status()),
                "waiting": gateway.leases(engine).waiting,
                "free_slots": gateway.leases(engine).free,
            }
            for engine in gateway.fleet.engines.values()
        ]

    @router.post("/engines/{name}/restart", status_code=202)
    async def restart(name: str, request: Request) -> dict[str, str]:
        """Give every worker of an engine a fresh process; also the way out of `failed`."""
        require_admin(request)
        gateway.engine_for(name, principal_of(request)).restart()
        return {"status": "restarting", "engine": name}

    if reloader is None:
        return router

    @router.post("/reload")
    async def reload(request: Request) -> dict[str, Any]:
        """Read the configs anew and exchange the engines that changed; returns when the old ones are gone."""
        require_admin(request)
        try:
            return asdict(await reloader.reload())
        except HugindError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ApiError(400, error.message + hint, code="config_error") from error

    return router


def require_admin(request: Request) -> None:
    """Refuse everybody else.

    Raises:
        ApiError: 403.
    """
    if not principal_of(request).is_admin:
        raise ApiError(403, "this needs the admin's key", code="not_admin")
