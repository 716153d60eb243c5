"""Usage over HTTP: sums and single turns, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from hugind.proxy.records.database import Database
from hugind.proxy.records.usage import write
from tests.proxy.records.turns import mixed, sums_of, turn
from tests.proxy.routes.calling import asking_records


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """An admin."""
    async with asking_records(database) as client:
        yield client


async def test_sums(client: httpx.AsyncClient, database: Database) -> None:
    """Of everything, and by what was asked for; the total is of all, also where rows are left out."""
    turns = mixed(60)
    await write(database, [(row, None) for row in turns])
    plain = (await client.get("/usage")).json()
    by_user = (await client.get("/usage?by=user")).json()
    by_day = (await client.get("/usage?by=day&limit=2")).json()
    days = [row.pop("day") for row in by_day["rows"]]

    assert {"rows": [], "total": sums_of(turns)} == plain
    assert plain["total"] == by_user["total"] == by_day["total"]
    assert {name: sums_of(row for row in turns if row.username == name) for name in ("alice", "bob", "carol")} == {
        row.pop("user"): row for row in by_user["rows"]
    }
    assert ["2026-03-05", "2026-03-06"] == days


async def test_hours_and_keys_have_their_names(client: httpx.AsyncClient, database: Database) -> None:
    """Nothing is there that was not asked for; a turn without a key of a user counts under null."""
    await write(database, [(turn("one"), None)])
    (hour,) = (await client.get("/usage?by=hour")).json()["rows"]
    (key,) = (await client.get("/usage?by=key")).json()["rows"]

    assert "2026-03-01T00:00:00Z" == hour["hour"]
    assert None is key["key"]
    assert {"day", "user", "model"}.isdisjoint(hour.keys() | key.keys())


async def test_a_part(client: httpx.AsyncClient, database: Database) -> None:
    """Of a user, a model, a key and a span."""
    turns = mixed(60)
    await write(database, [(row, None) for row in turns])
    which = {
        "user": "alice",
        "key": "k1",
        "model": "small",
        "since": "2026-03-02",
        "until": "2026-03-05T12:00:00+02:00",
    }
    total = (await client.get("/usage", params=which)).json()["total"]
    listed = (await client.get("/usage/requests", params=which)).json()["requests"]
    fitting = [
        row
        for row in turns
        if (row.username, row.key_id, row.model) == ("alice", "k1", "small")
        and 86400 <= row.created_at - 1772323200 < 4 * 86400 + 10 * 3600
    ]

    assert fitting
    assert sums_of(fitting) == total
    assert {row.request_id for row in fitting} == {row["request_id"] for row in listed}


async def test_turns_page_by_page(client: httpx.AsyncClient, database: Database) -> None:
    """The latest first, each once, and then no `next`."""
    await write(database, [(turn(f"r{number}", end_user="eve", client_ip="::1"), None) for number in range(5)])
    pages = []
    before = ""
    while before is not None:
        page = (await client.get(f"/usage/requests?limit=2{before and f'&before={before}'}")).json()
        pages.append([row["request_id"] for row in page["requests"]])
        before = page["next"]
    one = (await client.get("/usage/requests?limit=1")).json()["requests"][0]

    assert [["r4", "r3"], ["r2", "r1"], ["r0"]] == pages
    assert ("eve", "::1", "2026-03-01T00:00:00Z", 200) == tuple(
        one[name] for name in ("end_user", "client_ip", "created_at", "status_code")
    )


@pytest.mark.parametrize(
    "query",
    [
        "user=%00", "key=%00", "model=%00", f"user={'x' * 300}", "since=%00", "since=yesterday", "since=1e300",
        "since=0001-01-01T00:00:00%2B12:00", "until=9999-12-31T23:59:59-12:00", "since=2026-13-01", "limit=0",
        "limit=-1", "limit=1000000000", f"limit={'9' * 5000}", "limit=x", "by=name", "by=", "by=%00",
    ],
)  # fmt: skip
async def test_what_cannot_be_asked(client: httpx.AsyncClient, query: str) -> None:
    """400 that names the parameter, whatever the database."""
    for path in ("/usage", *(() if query.startswith("by=") else ("/usage/requests",))):
        answer = await client.get(f"{path}?{query}")

        assert 400 == answer.status_code, answer.text
        assert f"query.{query.partition('=')[0]}" == answer.json()["error"]["param"]


@pytest.mark.parametrize("before", ["0", "-1", str(2**63), "9" * 5000, "%00", "1.5"])
async def test_no_such_page(client: httpx.AsyncClient, before: str) -> None:
    """400; the largest number there can be is all there is."""
    for path in ("/usage/requests", "/audit"):
        assert 400 == (await client.get(f"{path}?before={before}")).status_code
        assert 200 == (await client.get(f"{path}?before={2**63 - 1}")).status_code
