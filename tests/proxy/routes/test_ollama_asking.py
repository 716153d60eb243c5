"""What Ollama's routes about models have in common."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import Response

from hugind.proxy.dialects.ollama_models import progress_line
from hugind.proxy.errors import ApiError
from hugind.proxy.routes.ollama_asking import SUCCESS, name_in, progress, read_object, saying_not_found
from tests.proxy.houses import asking


def echo_router() -> APIRouter:
    router = APIRouter()

    @router.post("/api/echo")
    async def echo(request: Request) -> dict[str, Any]:
        return await read_object(request)

    return router


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"a": 1}', 200, {"a": 1}),
        (b"", 400, {"error": "missing request body"}),
        (b"[1]", 400, {"error": "the request body must be a JSON object"}),
        (b" " * ((1 << 20) + 1), 413, {"error": "the request body is larger than 1 MB"}),
    ],
)
async def test_bodies(body: bytes, status: int, said: dict[str, Any]) -> None:
    """JSON whatever its type is called, as `curl -d` sends it; refused in Ollama's shape."""
    async with asking(echo_router()) as client:
        form = {"content-type": "application/x-www-form-urlencoded"}
        answer = await client.post("/api/echo", content=body, headers=form)

    assert (status, said) == (answer.status_code, answer.json())


async def test_a_body_that_is_no_json() -> None:
    """It is said where it ends to be some."""
    async with asking(echo_router()) as client:
        answer = await client.post("/api/echo", content=b"{")

    assert 400 == answer.status_code
    assert answer.json()["error"].startswith("the request body is not valid JSON")


def test_names() -> None:
    """`name` is older than `model`; other fields have no other name."""
    assert "a" == name_in({"model": "a", "name": "b"})
    assert "b" == name_in({"model": "", "name": "b"})
    for body, field in (({}, "model"), ({"model": 5}, "model"), ({"name": "b"}, "source")):
        with pytest.raises(ApiError, match=f"{field} is required"):
            name_in(body, field)


def test_what_is_unknown() -> None:
    """In the words that clients look for; every other refusal is left as it is."""
    with pytest.raises(ApiError, match=r"^model 'x' not found$"), saying_not_found("x"):
        raise ApiError(404, "there is no model 'x' here; models: none", code="model_not_found")
    with pytest.raises(ApiError, match=r"^else$"), saying_not_found("x"):
        raise ApiError(404, "else")


def test_progress() -> None:
    """A line each, or the last one alone."""

    def told(body: dict[str, Any]) -> Response:
        return progress(body, [progress_line("one"), SUCCESS])

    assert b'{"status":"one"}\n{"status":"success"}\n' == told({}).body
    assert "application/x-ndjson" == told({"stream": True}).headers["content-type"]
    assert b'{"status":"success"}\n' == told({"stream": False}).body
    assert "application/json" == told({"stream": False}).headers["content-type"]
