"""Whatever goes wrong: the dialect's shape, a status, what a program needs, and nothing that is nobody's business."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from hugind.proxy.access.errors import Conflict, Invalid, NotFound
from hugind.proxy.errors import ApiError
from hugind.proxy.failures import add_handlers, error_body, error_event, error_headers, internal_error
from hugind.proxy.records.errors import DatabaseAway, DatabaseError

RAISED: list[tuple[Exception, int, str | None, str | None]] = [
    (ApiError(418, "tea", code="teapot", param="pot"), 418, "teapot", "pot"),
    (NotFound("nobody", code="user_not_found"), 404, "user_not_found", None),
    (Conflict("taken", code="username_taken", param="username"), 409, "username_taken", "username"),
    (Invalid("note", "too long"), 400, "invalid_value", "note"),
    (DatabaseAway("postgresql://u@secret-host/x is away"), 503, "database_away", None),
    (DatabaseError("postgresql://u@secret-host/x is too old"), 503, "database_unusable", None),
]


@pytest.mark.parametrize(("error", "status", "code", "param"), RAISED)
async def test_what_a_route_raises(error: Exception, status: int, code: str | None, param: str | None) -> None:
    """Is answered with what it is; where the database is, is not told."""
    app = FastAPI(openapi_url=None)
    add_handlers(app)

    @app.get("/it")
    async def it() -> None:
        raise error

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.get("/it")
        about = answer.json()["error"]

    assert (status, code, param) == (answer.status_code, about["code"], about["param"])
    assert about["message"]
    assert "secret-host" not in answer.text
    assert ("retry-after" in answer.headers) == isinstance(error, DatabaseAway)


async def test_a_fault_of_ours() -> None:
    """500 without a word of what it was, and raised on for the log."""
    app = FastAPI(openapi_url=None)
    add_handlers(app)

    @app.get("/it")
    async def it() -> None:
        raise ZeroDivisionError("secret")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/it")

    assert 500 == answer.status_code
    assert "internal error" == answer.json()["error"]["message"]
    assert "req_7" in internal_error("req_7").message


async def test_in_the_words_of_the_path() -> None:
    """Anthropic's below /v1/messages, OpenAI's everywhere else; as a body and as an event."""
    error = ApiError(400, "no", code="why", param="x")
    anthropic, openai = (error_body(path, error, "req_1") for path in ("/v1/messages", "/admin/v1/users"))

    assert ("error", "req_1") == (anthropic["type"], anthropic["request_id"])
    assert ("why", "x") == (openai["error"]["code"], openai["error"]["param"])
    assert "type" in error_body("/v1/models", error, "req_1", [(b"anthropic-version", b"x")])
    assert "type" not in error_body("/v1/chat/completions", error, "req_1", [(b"anthropic-version", b"x")])
    assert b"event: error" in error_event("/v1/messages/count_tokens", error, "req_1")
    assert b"event:" not in error_event("/v1/chat/completions", error, "req_1")


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (ApiError(400, "no"), {}),
        (ApiError(401, "who"), {b"www-authenticate": b"Bearer"}),
        (ApiError(413, "much"), {b"connection": b"close"}),
        (ApiError(405, "how", headers={"allow": "GET"}), {b"allow": b"GET"}),
        (ApiError(503, "later", retry_after_s=2), {b"retry-after": b"2", b"retry-after-ms": b"2000"}),
        (
            ApiError(429, "less", retry_after_s=2, headers={"retry-after-ms": "1500"}),
            {b"retry-after": b"2", b"retry-after-ms": b"1500"},
        ),
    ],
)
def test_headers(error: ApiError, headers: dict[bytes, bytes]) -> None:
    """What the status asks for."""
    assert headers == dict(error_headers(error))
