"""What is kept of responses and conversations, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hugind.proxy.records.conversations import Order
from hugind.proxy.routes.kept import MAX_ITEMS, page
from tests.proxy.people import add_user, bearer
from tests.proxy.serving import ADMIN_KEY, Served, serving, standin_config

ITEMS = [{"id": str(number)} for number in range(5)]
USER = {"role": "user", "content": "hello"}
TALKS = "/v1/conversations"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine that takes bodies of a megabyte."""
    config = standin_config(tmp_path, limits={"max_body_mb": 1})
    async with serving(tmp_path, {"chat": config}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("limit", "order", "after", "expected", "more"),
    [
        (9, "asc", None, "01234", False),
        (5, "desc", None, "43210", False),
        (2, "asc", None, "01", True),
        (2, "desc", "3", "21", True),
        (3, "desc", "3", "210", False),
        (3, "asc", "4", "", False),
        (1, "asc", "nobody", "0", True),
    ],
)
def test_pages(limit: int, order: Order, after: str | None, expected: str, more: bool) -> None:
    """From either end, behind an item or from the start."""
    found, has_more = page(ITEMS, limit, order, after)

    assert (expected, more) == ("".join(item["id"] for item in found), has_more)
    assert ([], False) == page([], limit, order, after)


async def create(served: Served, **given: Any) -> str:
    answer = await served.client.post(TALKS, json=given)
    assert 200 == answer.status_code, answer.text
    return str(answer.json()["id"])


def refusal(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["code"] or answer.json()["error"]["param"]


async def test_shapes(served: Served) -> None:
    """As OpenAI's own; an empty body will do for a new one."""
    empty = (await served.client.post(TALKS)).json()
    talk = await create(served, metadata={"a": "b"}, items=[USER])
    shown = (await served.client.get(f"{TALKS}/{talk}")).json()
    listed = (await served.client.get(f"{TALKS}/{talk}/items")).json()
    (item,) = listed["data"]
    none = (await served.client.get(f"{TALKS}/{empty['id']}/items")).json()

    assert ({}, "conversation", int) == (empty["metadata"], empty["object"], type(empty["created_at"]))
    assert {"id": talk, "object": "conversation", "metadata": {"a": "b"}} == {k: shown[k] for k in shown.keys() - {"created_at"}}  # fmt: skip  # noqa: E501
    assert ("list", item["id"], item["id"], False) == tuple(
        listed[key] for key in ("object", "first_id", "last_id", "has_more")
    )
    assert {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False} == none
    assert item == (await served.client.get(f"{TALKS}/{talk}/items/{item['id']}")).json()
    assert talk == (await served.client.delete(f"{TALKS}/{talk}/items/{item['id']}")).json()["id"]
    assert (404, "item_not_found") == refusal(await served.client.get(f"{TALKS}/{talk}/items/{item['id']}"))
    assert (404, "item_not_found") == refusal(await served.client.delete(f"{TALKS}/{talk}/items/{item['id']}"))
    assert {"id": talk, "object": "conversation.deleted", "deleted": True} == (
        await served.client.delete(f"{TALKS}/{talk}")
    ).json()
    assert (404, "conversation_not_found") == refusal(await served.client.delete(f"{TALKS}/{talk}"))


async def test_what_is_refused(served: Served) -> None:
    """By the field's name, and before anything is kept."""
    talk = await create(served)
    items = f"{TALKS}/{talk}/items"
    for given, expected in (
        ({"items": [USER] * (MAX_ITEMS + 1)}, (400, "items")),
        ({"items": [{"type": "computer_call"}]}, (400, "unsupported_value")),
        ({"items": "x"}, (200, None)),
        ({"items": 3}, (400, "items")),
    ):
        answer = await served.client.post(items, json=given)
        assert expected == ((200, None) if answer.status_code == 200 else refusal(answer))
    assert (400, "metadata") == refusal(await served.client.post(f"{TALKS}/{talk}", json={"metadata": {"a": 1}}))
    assert (400, None) == refusal(await served.client.post(f"{TALKS}/{talk}", content=b"x"))
    assert (413, "request_too_large") == refusal(await served.client.post(items, content=b" " * 1_100_000))
    for query in ({"limit": "0"}, {"limit": "101"}, {"order": "up"}):
        assert 400 == (await served.client.get(items, params=query)).status_code


async def test_no_more_than_is_allowed(served: Served) -> None:
    """A conversation holds what a request may hold, or no response could be made in it."""
    half = {"items": [{"role": "user", "content": "x" * 600_000}]}
    talk = await create(served, **half)

    assert (400, "history_too_large") == refusal(await served.client.post(f"{TALKS}/{talk}/items", json=half))
    assert 1 == len((await served.client.get(f"{TALKS}/{talk}/items")).json()["data"])


async def test_scopes(served: Served) -> None:
    """They need a key for inference."""
    secret = await add_user(served.gateway.books.accounts, "alice", scopes=("sessions",))
    for path in (f"{TALKS}/conv_1", "/v1/responses/resp_1"):
        assert (403, "scope_missing") == refusal(await served.client.get(path, headers=bearer(secret)))
        assert 404 == (await served.client.get(path)).status_code


async def test_the_admin_forgets(served: Served) -> None:
    """With a user's sessions go what is kept of their responses."""
    talk = await create(served)
    made = (await served.client.post("/v1/responses", json={"model": "chat", "input": "x", "user": "ann"})).json()
    path = "/admin/v1/sessions"

    async def forget(**query: str) -> list[int]:
        await served.client.delete(path, params=query, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        paths = (f"{TALKS}/{talk}", f"/v1/responses/{made['id']}")
        return [(await served.client.get(path)).status_code for path in paths]

    assert [200, 200] == await forget(user="zoe")
    assert [200, 200] == await forget(user="ann", engine="chat")
    assert [200, 404] == await forget(user="ann")
    assert [404, 404] == await forget(all="true")
