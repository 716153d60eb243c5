"""The gateway, assembled. Read this first.

A request comes in as raw ASGI. What generates goes straight to its handler (`routes/openai.py`, `responses.py`,
`anthropic.py`, `ollama.py`): a framework there would cost as much as the rest together. Everything else is FastAPI.
Whatever goes wrong is turned into the body that the route's dialect promises, in one place: `failures.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from hugind.proxy.access.auth import end_user_of
from hugind.proxy.access.keys import mask, split_key_path
from hugind.proxy.access.scopes import needed_scope
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.exchange import Exchange
from hugind.proxy.failures import add_handlers, error_body, error_event, error_headers, internal_error
from hugind.proxy.gateway import Gateway
from hugind.proxy.origins import Origins, page_headers, preflight_headers
from hugind.proxy.records.metrics import Metrics
from hugind.proxy.reload import Reloader
from hugind.proxy.routes import anthropic as anthropic_routes
from hugind.proxy.routes import ollama as ollama_routes
from hugind.proxy.routes import openai as openai_routes
from hugind.proxy.routes import responses as responses_routes
from hugind.proxy.routes.admin import admin_router
from hugind.proxy.routes.aliases import aliases_router
from hugind.proxy.routes.kept import kept_router
from hugind.proxy.routes.me import me_router
from hugind.proxy.routes.metrics import metrics_router
from hugind.proxy.routes.ollama_models import ollama_models_router
from hugind.proxy.routes.openapi import openapi_router
from hugind.proxy.routes.records import Records, records_router
from hugind.proxy.routes.sessions import forget_sessions_of, sessions_router
from hugind.proxy.routes.status import PUBLIC_PATHS, status_router
from hugind.supervisor.hardware import probe

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
KEY_PREFIX = "/k/"

_WANTED_METHOD = b"access-control-request-method"


class App:
    """The ASGI application of one gateway."""

    def __init__(self, gateway: Gateway, reloader: Reloader | None = None, *, is_loopback: bool = True) -> None:
        """`is_loopback`: it will listen where only this machine can reach it."""
        self._gateway = gateway
        self._is_loopback = is_loopback
        self._rules = gateway.books.rules
        self._origins = self._make_origins()
        self._metrics = Metrics()
        self._control = _control_app(gateway, reloader, self._metrics)
        self._handlers = {
            **openai_routes.ROUTES,
            **responses_routes.ROUTES,
            **anthropic_routes.ROUTES,
            **ollama_routes.ROUTES,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the server: the lifespan, or a request."""
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        exchange.task = asyncio.current_task()
        failure: ApiError | None = None
        try:
            await self._serve(exchange, send)
        except ClientGone as gone:
            failure = gone
            logger.debug("%s: the client went away", exchange.request_id)
        except ApiError as error:
            failure = error
            await _answer_error(exchange, error)
        except asyncio.CancelledError:
            failure = exchange.cut_by or ApiError(503, "the gateway is stopping", code="stopping", retry_after_s=5)
            is_ours = exchange.cut_by is not None and _uncancel()
            await _answer_error(exchange, failure)
            if not is_ours:
                raise
        except Exception:
            # The last line of defence: the client gets its dialect's error, the log gets the trace.
            logger.exception("%s: %s %s broke", exchange.request_id, scope["method"], scope["path"])
            failure = internal_error(exchange.request_id)
            await _answer_error(exchange, failure)
        finally:
            self._gateway.left(exchange)
            try:
                if exchange.admitted is not None:
                    await exchange.admitted.settle(exchange, failure, self._gateway.books)
            finally:
                self._metrics.ended(exchange, failure)

    async def _serve(self, exchange: Exchange, send: Send) -> None:
        scope = exchange.scope
        self._take_key_from_path(exchange)
        path = scope["path"]
        _check_headers(exchange)
        if (origin := self._check_page(exchange)) is not None:
            exchange.page_headers = page_headers(origin)
            if scope["method"] == "OPTIONS" and exchange.header(_WANTED_METHOD) is not None:
                await _answer_preflight(exchange)
                return
        if path not in PUBLIC_PATHS:
            await self._let_in(exchange, path)
        handler = self._handlers.get(path)
        if handler is None:
            scope["principal"], scope["request_id"], scope["exchange"] = (
                exchange.principal,
                exchange.request_id,
                exchange,
            )
            await self._control(scope, exchange.receive, _with_headers(exchange, send))
        elif scope["method"] != "POST":
            raise ApiError(405, f"{path} takes POST", code="method_not_allowed", headers={"allow": "POST"})
        else:
            await handler(self._gateway, exchange, exchange.principal)

    def _check_page(self, exchange: Exchange) -> bytes | None:
        """The origin of the page that asks, if one does. It may ask, and by that name of ours.

        Raises:
            ApiError: 403 where not; 400 for a header that is given twice.
        """
        if self._rules is not self._gateway.books.rules:
            self._rules = self._gateway.books.rules
            self._origins = self._make_origins()
        host, origin = exchange.header(b"host"), exchange.header(b"origin")
        if host:
            self._origins.check_host(host)
        if origin is not None:
            self._origins.check_page(origin, host, is_open=self._gateway.doorman.is_open)
        return origin

    def _make_origins(self) -> Origins:
        return Origins(self._rules.origins, is_loopback=self._is_loopback, hostname=socket.gethostname())

    async def _let_in(self, exchange: Exchange, path: str) -> None:
        principal = await self._gateway.doorman.authenticate(exchange)
        exchange.principal = principal
        needed = needed_scope(path)
        if needed is not None and not principal.has(needed):
            code = "not_admin" if needed == "admin" else "scope_missing"
            raise ApiError(403, f"this needs a key with the scope '{needed}'", code=code)
        exchange.end_user = end_user_of(exchange, principal)
        if needed != "admin":  # an answer there may hold the secret of the key that takes the place of the caller's
            self._gateway.came(exchange)

    def _take_key_from_path(self, exchange: Exchange) -> None:
        """`/k/KEY/v1/...` is `/v1/...` with a key, where that is allowed. No log sees it."""
        scope = exchange.scope
        if not scope["path"].startswith(KEY_PREFIX):
            return
        key, rest = split_key_path(scope["path"])
        if key is None or not self._gateway.books.rules.path_keys:
            scope["path"] = scope["raw_path"] = ""
            raise ApiError(404, "there is nothing here; keys in the path are not allowed", code="not_found")
        scope["path"], scope["raw_path"] = rest, rest.encode()
        exchange.path_key = key.encode()


def _uncancel() -> bool:
    """Take back the one cancellation that was ours. False: somebody else wants this task to end, too."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


def _control_app(gateway: Gateway, reloader: Reloader | None, metrics: Metrics) -> FastAPI:
    books = gateway.books
    records = Records(books.database, books.accounts, books.keys.refresh, partial(forget_sessions_of, gateway))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway, reloader or nullcontext():
            app.state.device = (await asyncio.to_thread(probe)).device
            yield

    app = FastAPI(title="hugind", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(status_router(gateway))
    app.include_router(metrics_router(gateway, metrics))
    app.include_router(me_router(gateway))
    app.include_router(kept_router(gateway))
    app.include_router(ollama_models_router(gateway, reloader, records))
    app.include_router(admin_router(gateway, reloader, records))
    app.include_router(aliases_router(gateway, records))
    app.include_router(sessions_router(gateway, records))
    app.include_router(records_router(records))
    app.include_router(openapi_router(app))
    add_handlers(app)
    return app


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
            exchange.status = message["status"]
            message["headers"] = [*message["headers"], *exchange.own_headers()]
        elif message["type"] == "http.response.body":
            exchange.is_complete = not message.get("more_body", False)
        await send(message)

    return wrapped


async def _answer_preflight(exchange: Exchange) -> None:
    """A browser asks, without a key, what a page may send."""
    wanted = exchange.header(b"access-control-request-headers") or b""
    is_private = exchange.header(b"access-control-request-private-network") == b"true"
    await exchange.start(204, preflight_headers(wanted, is_private=is_private))
    await exchange.send(b"", more=False)


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
    # What a client wrote may be in it: it makes no lines of its own in the log, and shows no key there.
    logger.info("%s", mask(" ".join(f"{request_id}: {path}: {error.status} {error.message}".split())))
    try:
        if exchange.is_started:
            await exchange.send(error_event(path, error, request_id), more=False)
        else:
            body = error_body(path, error, request_id, exchange.scope["headers"])
            await exchange.respond(error.status, body, error_headers(error))
    except ClientGone:
        pass
