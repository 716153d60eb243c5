"""The gateway, assembled. Read this first.

A request comes in as raw ASGI. What generates goes straight to its handler (`routes/openai.py`,
`routes/anthropic.py`): a framework there would cost as much as the rest together. Everything else is a FastAPI app.
Whatever goes wrong is turned into the body that the route's dialect promises, in one place: `_answer_error`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from hugind.proxy.access.principal import ANONYMOUS
from hugind.proxy.dialects import anthropic, openai
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.exchange import Exchange
from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Reloader
from hugind.proxy.routes import anthropic as anthropic_routes
from hugind.proxy.routes import openai as openai_routes
from hugind.proxy.routes.admin import admin_router
from hugind.proxy.routes.sessions import sessions_router
from hugind.proxy.routes.status import PUBLIC_PATHS, status_router

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100


class App:
    """The ASGI application of one gateway."""

    def __init__(self, gateway: Gateway, reloader: Reloader | None = None) -> None:
        self._gateway = gateway
        self._control = _control_app(gateway, reloader)
        self._handlers = {**openai_routes.ROUTES, **anthropic_routes.ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the server: the lifespan, or a request."""
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange, send)
        except ClientGone:
            logger.debug("%s: the client went away", exchange.request_id)
        except ApiError as error:
            await _answer_error(exchange, error)
        except asyncio.CancelledError:
            await _answer_error(exchange, ApiError(503, "the gateway is stopping", code="stopping", retry_after_s=5))
            raise
        except Exception:
            # The last line of defence: the client gets its dialect's error, the log gets the trace.
            logger.exception("%s: %s %s broke", exchange.request_id, scope["method"], scope["path"])
            await _answer_error(exchange, _internal_error(exchange.request_id))

    async def _serve(self, exchange: Exchange, send: Send) -> None:
        scope = exchange.scope
        path = scope["path"]
        _check_headers(exchange)
        principal = ANONYMOUS if path in PUBLIC_PATHS else self._gateway.keyring.authenticate(exchange)
        handler = self._handlers.get(path)
        if handler is None:
            scope["principal"], scope["request_id"], scope["exchange"] = principal, exchange.request_id, exchange
            await self._control(scope, exchange.receive, _with_headers(exchange, send))
        elif scope["method"] != "POST":
            raise ApiError(405, f"{path} takes POST", code="method_not_allowed", headers={"allow": "POST"})
        else:
            await handler(self._gateway, exchange, principal)


def _control_app(gateway: Gateway, reloader: Reloader | None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway, reloader or nullcontext():
            yield

    app = FastAPI(title="hugind", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(status_router(gateway))
    app.include_router(admin_router(gateway, reloader))
    app.include_router(sessions_router(gateway))

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return _rendered(request, error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.scope['path']}: {error.detail}"
        return _rendered(request, ApiError(error.status_code, message, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _rendered(request, ApiError(400, f"{where}: {first['msg']}", param=where))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _rendered(request, _internal_error(request.scope["request_id"]))  # and it is raised on, to be logged

    return app


def _internal_error(request_id: str) -> ApiError:
    return ApiError(500, f"internal error, see the log for {request_id}")


def _rendered(request: Request, error: ApiError) -> JSONResponse:
    body = error_body(request.scope["path"], error, request.scope["request_id"])
    return JSONResponse(body, error.status, error.headers)


def _check_headers(exchange: Exchange) -> None:
    headers = exchange.scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise ApiError(
            431, f"the request's headers are larger than {MAX_HEADER_BYTES // 1024} KB", code="headers_too_large"
        )


def _with_headers(exchange: Exchange, send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.is_started = exchange.is_plain = True
            message["headers"] = [*message["headers"], *exchange.own_headers()]
        elif message["type"] == "http.response.body":
            exchange.is_complete = not message.get("more_body", False)
        await send(message)

    return wrapped


async def _answer_error(exchange: Exchange, error: ApiError) -> None:
    """In the shape of the route's dialect: a body, or the last event of a stream that has begun.

    Raises:
        ApiError: the one given, for the server to cut a file that has begun: what is added would look like its end.
    """
    if exchange.is_complete:
        return
    if exchange.is_started and exchange.is_plain:
        raise error
    path, request_id = exchange.scope["path"], exchange.request_id
    logger.info("%s: %s: %d %s", request_id, path, error.status, error.message)
    try:
        if exchange.is_started:
            await exchange.send(_event(path, error, request_id), more=False)
        else:
            await exchange.respond(error.status, error_body(path, error, request_id), _headers(error))
    except ClientGone:
        pass


def _headers(error: ApiError) -> list[tuple[bytes, bytes]]:
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413, 431):
        headers.append((b"connection", b"close"))  # the rest of the request may still be under way
    return headers


def error_body(path: str, error: ApiError, request_id: str | None) -> dict[str, Any]:
    """The error in the shape that the dialect of `path` promises."""
    if _is_anthropic(path):
        return anthropic.render_error(error.status, error.message, request_id)
    return openai.render_error(error.status, error.message, type=error.kind, code=error.code, param=error.param)


def _event(path: str, error: ApiError, request_id: str) -> bytes:
    if _is_anthropic(path):
        return anthropic.error_event(error.status, error.message, request_id)
    return openai.error_event(error.status, error.message, type=error.kind, code=error.code, param=error.param)


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")
