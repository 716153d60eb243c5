"""What Ollama's routes about models have in common: JSON whatever its type is called, names, and lines of progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.ollama_models import progress_line
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.gateway import Gateway, Target

MAX_BODY_BYTES = 1 << 20
NDJSON = "application/x-ndjson"


async def read_object(request: Request) -> dict[str, Any]:
    """The body of a request, a JSON object.

    Raises:
        ApiError: 400 or 413.
        ClientGone: the client left before it was complete.
    """
    exchange = request.scope["exchange"]
    assert isinstance(exchange, Exchange)
    if exchange.header(b"content-length") in (None, b"0") and exchange.header(b"transfer-encoding") is None:
        raise ApiError(400, "missing request body")
    return await exchange.read_json(MAX_BODY_BYTES)


def name_in(body: dict[str, Any], field: str = "model") -> str:
    """A model's name. `name` is what older clients say for `model`.

    Raises:
        ApiError: 400 where there is none.
    """
    given = body.get(field) or (body.get("name") if field == "model" else None)
    if not isinstance(given, str) or not given:
        raise ApiError(400, f"{field} is required", param=field)
    return given


@contextmanager
def saying_not_found(name: str) -> Iterator[None]:
    """What is unknown is refused in the words that Ollama's clients look for."""
    try:
        yield
    except ApiError as error:
        if error.status == 404 and error.code == "model_not_found":
            raise ApiError(404, f"model '{name}' not found", code=error.code, param="model") from None
        raise


def find(gateway: Gateway, principal: Principal, name: str) -> Target:
    """What `name` means.

    Raises:
        ApiError: 404.
    """
    with saying_not_found(name):
        return gateway.target_for(name, principal)


def progress(body: dict[str, Any], lines: Sequence[bytes]) -> Response:
    """The answer of something that is done: how it went, or with `stream: false` its end only."""
    if body.get("stream") is False:
        return Response(lines[-1], media_type="application/json")
    return Response(b"".join(lines), media_type=NDJSON)


SUCCESS = progress_line("success")
