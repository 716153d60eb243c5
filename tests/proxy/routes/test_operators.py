"""What holds for every route of the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body

from hugind.proxy.access.principal import Principal
from hugind.proxy.routes.operators import MAX_BODY_BYTES, PREFIX, operators_router
from tests.proxy.routes.calling import Asking

router = operators_router("tests")


@router.post("/echo")
async def echo(text: Annotated[str, Body()]) -> int:
    """How long the body was."""
    return len(text)


async def test_a_route_is_guarded_by_being_there() -> None:
    """Below the prefix, for the admin alone, without a word about it where the route is written."""
    for principal, status in ((Principal("mallory"), 403), (None, 200)):
        asking = Asking(router, principal=principal) if principal else Asking(router)
        async with asking.client() as client:
            answer = await client.post(f"http://gateway{PREFIX}/echo", json="x")

            assert status == answer.status_code


async def test_a_body_is_bounded() -> None:
    """Announced or in pieces; refused in our shape, and before all of it is there."""
    pieces = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pieces
        yield b'"'
        while True:
            pieces += 1
            yield b"x" * 65536

    json = {"content-type": "application/json"}
    async with Asking(router).client() as client:
        fits = await client.post("/echo", content=b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"', headers=json)
        one_more = await client.post("/echo", content=b'"' + b"x" * (MAX_BODY_BYTES - 1) + b'"', headers=json)
        without_end = await client.post("/echo", content=endless(), headers=json)

    assert (200, MAX_BODY_BYTES - 2) == (fits.status_code, fits.json())
    for answer in (one_more, without_end):
        assert 413 == answer.status_code
        assert f"{MAX_BODY_BYTES // 1024} KB" in answer.json()["error"]["message"]
    assert pieces <= MAX_BODY_BYTES // 65536 + 1
