"""The admin API as an OpenAPI document."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from hugind.proxy.routes.operators import operators_router

_ABOUT = """Users, keys, usage, sessions and engines of one hugind gateway.

Every route needs a key with the scope `admin`. Times are ISO 8601 in UTC. Every change is in the audit log.
"""
_UNUSED = ("HTTPValidationError", "ValidationError")


def openapi_router(app: FastAPI) -> APIRouter:
    """The route that hands it out. To be included in `app` like every other, in any order."""
    router = operators_router("about")
    made: list[dict[str, Any]] = []

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        """This API, for programs."""
        if not made:
            made.append(admin_openapi(app))
        return made[0]

    return router


def admin_openapi(app: FastAPI) -> dict[str, Any]:
    """What is documented of `app`: routes of other APIs have `include_in_schema=False`."""
    document = get_openapi(title="hugind", version=version("hugind"), description=_ABOUT, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own; ours is 400
    components = document.setdefault("components", {})
    for name in _UNUSED:
        components.get("schemas", {}).pop(name, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    return document
