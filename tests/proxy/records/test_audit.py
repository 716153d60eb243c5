"""What is on record of changes: all of it, for both kinds of database, and nothing that a filter could break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hugind.proxy.records.audit import MAX_ENTRIES, Actor, Entry, Filters, entries, record
from hugind.proxy.records.database import Database

ALICE = Actor("alice", "AbCd1234", "192.0.2.1", "req-1")
CONTROL = Actor("control")


async def recorded(database: Database, *changes: tuple[Actor, str, str]) -> None:
    for actor, action, target in changes:
        async with database.begin() as connection:
            await record(connection, actor, action, target)


async def actions(database: Database, filters: Filters | None = None) -> list[str]:
    return [entry.action for entry in await entries(database, filters)]


async def test_who_what_when_from_where(database: Database) -> None:
    """All of it, as it was said."""
    began = datetime.now(UTC)
    async with database.begin() as connection:
        await record(connection, ALICE, "user.update", "bob", {"after": {"note": "日本", "limits": {"requests": None}}})
    (entry,) = await entries(database)

    assert began <= entry.created_at <= datetime.now(UTC)
    assert entry == Entry(
        id=entry.id,
        created_at=entry.created_at,
        actor="alice",
        actor_key_id="AbCd1234",
        action="user.update",
        target="bob",
        detail={"after": {"note": "日本", "limits": {"requests": None}}},
        client_ip="192.0.2.1",
        request_id="req-1",
    )


async def test_a_change_that_is_undone_is_not_on_record(database: Database) -> None:
    async def change() -> None:
        async with database.begin() as connection:
            await record(connection, CONTROL, "user.create", "bob")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change()

    assert [] == await entries(database)


async def test_the_latest_come_first_page_by_page(database: Database) -> None:
    await recorded(database, *((CONTROL, "x", str(number)) for number in range(7)))
    found: list[Entry] = []
    while page := await entries(database, limit=3, before=found[-1].id if found else None):
        assert len(page) <= 3
        found += page

    assert ["6", "5", "4", "3", "2", "1", "0"] == [entry.target for entry in found]


async def test_filters(database: Database) -> None:
    await recorded(
        database, (CONTROL, "user.create", "bob"), (ALICE, "key.create", "k1"), (ALICE, "key.rotate", "k1"),
        (ALICE, "keys", "k2"),
    )  # fmt: skip
    soon = datetime.now(UTC) + timedelta(hours=1)

    assert ["keys", "key.rotate", "key.create"] == await actions(database, Filters(actor="alice"))
    assert ["key.rotate", "key.create"] == await actions(database, Filters(action="key"))
    assert ["key.rotate"] == await actions(database, Filters(action="key.rotate", actor="alice", target="k1"))
    assert ["user.create"] == await actions(database, Filters(target="bob", since=soon - timedelta(hours=2)))
    assert [] == await actions(database, Filters(since=soon))
    assert [] == await actions(database, Filters(actor="alice", action="user"))


async def test_a_filter_means_only_itself(database: Database) -> None:
    """No pattern, no statement, and nothing that a database cannot even compare with."""
    await recorded(database, (ALICE, "key.create", "k1"))

    for text in ("' OR '1'='1", "%", "_ey", "k\\", "\0", "\ud800", "key%", "'; DROP TABLE audit_log;--", ""):
        for filters in (Filters(actor=text), Filters(action=text), Filters(target=text)):
            assert [] == await entries(database, filters)
    assert ["key.create"] == await actions(database)


async def test_whatever_an_actor_is_called(database: Database) -> None:
    """It is cut to what fits, and what cannot be kept is replaced: a change must not fail because of it."""
    odd = Actor("x" * 1000, "k" * 99, "\0" * 99, "\ud800")
    async with database.begin() as connection:
        await record(connection, odd, "x", "t" * 1000)
    (entry,) = await entries(database)

    assert ("x" * 128, "k" * 16, "?" * 64, "?", "t" * 256) == (
        entry.actor,
        entry.actor_key_id,
        entry.client_ip,
        entry.request_id,
        entry.target,
    )


async def test_numbers_out_of_range(database: Database) -> None:
    await recorded(database, (ALICE, "x", "y"))

    for number in (0, -1, 2**63, 10**30, -(10**30)):
        assert len(await entries(database, limit=number)) == (number > 0)
        assert len(await entries(database, before=number)) == (number > 0)


async def test_a_page_has_an_end(database: Database) -> None:
    async with database.begin() as connection:
        for number in range(MAX_ENTRIES + 1):
            await record(connection, CONTROL, "x", str(number))

    assert MAX_ENTRIES == len(await entries(database, limit=10**9))
