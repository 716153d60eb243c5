"""What all routes of the admin API have in common: where they are, who may use them, how they refuse."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Message

from hugind.proxy.routes.callers import require_admin

PREFIX = "/admin/v1"
MAX_BODY_BYTES = 256 * 1024

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL takes no such character in a text."""


class Problem(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    """The field or parameter that it is about."""
    code: str | None
    """A word for programs."""


class Refusal(BaseModel):
    """The body of every answer from 400 on."""

    error: Problem


_REFUSALS: dict[int, str] = {
    400: "Something in the request cannot be used.",
    401: "Without a valid key.",
    403: "The key lacks the scope `admin`, or is not to be used from there.",
    404: "There is no such thing.",
    409: "As things stand, it cannot be done.",
    413: "The body is too large.",
    503: "The database, or what else is needed, is away; with `retry-after`.",
}


def operators_router(tag: str) -> APIRouter:
    """A router whose routes are part of the admin API, under `tag` in its document."""
    return APIRouter(
        prefix=PREFIX,
        tags=[tag],
        dependencies=[Depends(require_admin)],
        route_class=_BoundedRoute,
        responses={status: {"model": Refusal, "description": words} for status, words in _REFUSALS.items()},
        generate_unique_id_function=_name,
    )


Name = Annotated[str, Field(max_length=256, pattern=NO_NUL)]
"""A text that is looked for in the database."""


class _BoundedRoute(APIRoute):
    """FastAPI reads a body whole before it looks at it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def bounded(request: Request) -> Response:
            received = 0

            async def receive() -> Message:
                nonlocal received
                message = await request.receive()
                received += len(message.get("body", b""))
                if received > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES // 1024} KB")
                return message

            return await handler(Request(request.scope, receive))

        return bounded


def _name(route: APIRoute) -> str:
    return route.name
