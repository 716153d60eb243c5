from __future__ import annotations

import pytest
from sqlalchemy import insert, select

from hugind.proxy.records.database import Database
from hugind.proxy.records.owned import Reader, belongs_to, owner_columns, seen_by
from hugind.proxy.records.schema import responses
from hugind.proxy.sessions.record import Owner
from tests.proxy.records.test_usage import START

OWNERS = {
    "app": Owner("app"),
    "ann": Owner("app", "ann"),
    "bob": Owner("app", "bob"),
    "odd": Owner("app", "a\0nn" + "x" * 300),
    "other": Owner("other", "ann"),
}


@pytest.fixture
async def filled(database: Database) -> Database:
    """A row of each."""
    lines = [
        {**owner_columns(owner), "id": name, "created_at": START, "history_bytes": 0, "input": "[]", "body": "{}"}
        for name, owner in OWNERS.items()
    ]
    async with database.begin() as connection:
        await connection.execute(insert(responses), lines)
    return database


@pytest.mark.parametrize(
    ("reader", "seen"),
    [
        (Reader(Owner("app")), {"app", "ann", "bob", "odd"}),
        (Reader(Owner("app", "ann")), {"app", "ann"}),
        (Reader(Owner("app", "ann"), is_delegated=True), {"ann"}),
        (Reader(OWNERS["odd"], is_delegated=True), {"odd"}),
        (Reader(Owner("other")), {"other"}),
        (Reader(Owner("app", "zoe")), {"app"}),
        (Reader(Owner("nobody")), set()),
    ],
)
async def test_who_sees_what(filled: Database, reader: Reader, seen: set[str]) -> None:
    """Never beyond the principal; a person that the key was told to ask for sees its own only."""
    async with filled.read() as connection:
        assert seen == set(await connection.scalars(select(responses.c.id).where(seen_by(responses, reader))))


@pytest.mark.parametrize(
    ("principal", "user", "meant"),
    [
        (None, None, set(OWNERS)),
        ("app", None, {"app", "ann", "bob", "odd"}),
        (None, "ann", {"ann", "other"}),
        ("app", "ann", {"ann"}),
        ("app", OWNERS["odd"].user, {"odd"}),
    ],
)
async def test_whose_it_is(filled: Database, principal: str | None, user: str | None, meant: set[str]) -> None:
    """Of a principal, of a person wherever they are, of both."""
    async with filled.read() as connection:
        found = await connection.scalars(select(responses.c.id).where(*belongs_to(responses, principal, user)))
        assert meant == set(found)
