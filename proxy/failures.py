"""What went wrong, as the answer that the dialect of a path promises. One place for all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hugind.proxy.access.errors import AccountError, Conflict, NotFound
from hugind.proxy.dialects import anthropic, ollama, openai
from hugind.proxy.errors import ApiError
from hugind.proxy.records.errors import DatabaseAway, DatabaseError

logger = logging.getLogger(__name__)

AWAY_RETRY_S = 5
ANTHROPIC_HEADER = b"anthropic-version"

RawHeaders = Iterable[tuple[bytes, bytes]]


def dialect_of(path: str, headers: RawHeaders = ()) -> str:
    """Whose words the client of a path speaks: `anthropic`, `ollama` or `openai`.

    `headers`: of its request; under `/v1/models` they tell, elsewhere the path does.
    """
    if path.startswith("/api/"):
        return "ollama"
    if path.startswith("/v1/messages"):
        return "anthropic"
    is_both = path == "/v1/models" or path.startswith("/v1/models/")
    return "anthropic" if is_both and any(name == ANTHROPIC_HEADER for name, _ in headers) else "openai"


def error_body(path: str, error: ApiError, request_id: str | None, headers: RawHeaders = ()) -> dict[str, Any]:
    """The error in the shape that the dialect of a request promises."""
    match dialect_of(path, headers):
        case "anthropic":
            return anthropic.render_error(error.status, error.message, request_id)
        case "ollama":
            return ollama.render_error(error.message)
    return openai.render_error(error.status, error.message, type=error.kind, code=error.code, param=error.param)


def error_event(path: str, error: ApiError, request_id: str) -> bytes:
    """The same as the last event of a stream."""
    match dialect_of(path):
        case "anthropic":
            return anthropic.error_event(error.status, error.message, request_id)
        case "ollama":
            return ollama.error_line(error.message)
    return openai.error_event(error.status, error.message, type=error.kind, code=error.code, param=error.param)


def error_headers(error: ApiError) -> list[tuple[bytes, bytes]]:
    """What a program needs to react, beside the body."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
        if "retry-after-ms" not in error.headers:
            headers.append((b"retry-after-ms", b"%d" % (error.retry_after_s * 1000)))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413, 431):
        headers.append((b"connection", b"close"))  # the rest of the request may still be under way
    return headers


def internal_error(request_id: str | None) -> ApiError:
    """What a client is told of a fault of ours."""
    return ApiError(500, f"internal error, see the log for {request_id}" if request_id else "internal error")


def add_handlers(app: FastAPI) -> None:
    """Have every error that a route of `app` can raise answered so."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return _rendered(request, error)

    @app.exception_handler(AccountError)
    async def not_done(request: Request, error: AccountError) -> JSONResponse:
        status = 404 if isinstance(error, NotFound) else 409 if isinstance(error, Conflict) else 400
        return _rendered(request, ApiError(status, error.message, code=error.code, param=error.param))

    @app.exception_handler(DatabaseError)
    async def no_database(request: Request, error: DatabaseError) -> JSONResponse:
        logger.warning("%s: %s", request.scope.get("request_id"), error.message)
        return _rendered(request, database_error(error))

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
        return _rendered(request, internal_error(request.scope.get("request_id")))  # and it is raised on, to be logged


def database_error(error: DatabaseError) -> ApiError:
    """What a client is told of it: not where it is, and not its driver's words."""
    if isinstance(error, DatabaseAway):
        return ApiError(503, "the database is away", code="database_away", retry_after_s=AWAY_RETRY_S)
    return ApiError(503, "the database cannot be used as it is: see 'hugind db status'", code="database_unusable")


def _rendered(request: Request, error: ApiError) -> JSONResponse:
    scope = request.scope
    body = error_body(scope["path"], error, scope.get("request_id"), scope["headers"])
    answer = JSONResponse(body, error.status)
    # What is still under way of a body that nobody reads is dropped: to close now could take the answer with it.
    answer.raw_headers.extend(header for header in error_headers(error) if header[0] != b"connection")
    return answer
