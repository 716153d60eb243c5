from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import contents, requests
from hugind.proxy.records.usage import By, UsageRow, report, rows, split_days, write
from tests.proxy.records.turns import MIDNIGHT, count, daily, mixed, recorded, sums_by_day, sums_of, turn

START = datetime.fromtimestamp(MIDNIGHT, UTC)

GROUPS: dict[By, Callable[[UsageRow], Any]] = {
    "day": lambda row: datetime.fromtimestamp(row.created_at, UTC).date(),
    "hour": lambda row: datetime.fromtimestamp(row.created_at, UTC).replace(minute=0, second=0, microsecond=0),
    "user": lambda row: row.username,
    "model": lambda row: row.model,
    "key": lambda row: row.key_id,
}


async def test_every_field_is_kept(database: Database) -> None:
    """What goes in comes out, with a time that has its zone."""
    row = UsageRow(
        request_id="req_1",
        created_at=MIDNIGHT + 0.123456,
        username="alice",
        path="/v1/messages",
        dialect="anthropic",
        model="small",
        end_user="the “real” one",
        key_id="abcdefgh",
        client_ip="::1",
        stream=True,
        request_bytes=2**40,
        status_code=200,
        duration_ms=1.5,
        queue_ms=0.25,
        ttft_ms=0.75,
        prompt_tokens=3,
        cached_tokens=2,
        completion_tokens=1,
        response_bytes=2**41,
        finish_reason="stop",
        error_code="cut",
    )
    bare = turn("req_2", stream=False)

    assert await write(database, [(row, ("Wie geht's?", "gut 👍")), (bare, None)]) == 2

    second, first = await rows(database)
    assert second == {**dataclasses.asdict(bare), "id": second["id"], "created_at": START}
    assert first == {
        **dataclasses.asdict(row),
        "id": first["id"],
        "created_at": START + timedelta(microseconds=123456),
    }
    assert first["stream"] is True
    async with database.read() as connection:
        said = (await connection.execute(select(contents))).one()
    assert said == ("req_1", START + timedelta(microseconds=123456), "Wie geht's?", "gut 👍")


async def test_written_twice_counts_once(database: Database) -> None:
    """Whoever does not know whether it was written may write it again."""
    turns = mixed(700)
    assert await write(database, [(row, ("q", "a")) for row in turns[:400]]) == 400

    assert await write(database, [(row, ("other", "other")) for row in turns]) == 300
    assert await write(database, [(row, ("other", "other")) for row in turns]) == 0

    assert set(await recorded(database)) == {row.request_id for row in turns}
    assert await daily(database) == sums_by_day(turns)
    async with database.read() as connection:
        said = (await connection.execute(select(contents.c.request_id, contents.c.request))).all()
    assert {name for name, text in said if text == "q"} == {row.request_id for row in turns[:400]}
    assert len(said) == 700


async def test_twice_in_one_go(database: Database) -> None:
    """The first one counts."""
    assert await write(database, [(turn("a", prompt_tokens=1), None), (turn("a", prompt_tokens=5), None)]) == 1
    assert (await report(database))[0]["prompt_tokens"] == 1


async def test_many_that_write_at_once(database: Database) -> None:
    """Gateways that add to the same sums do not lose any, nor trip over each other."""
    turns = mixed(600, days=2)
    await asyncio.gather(*(write(database, [(row, None) for row in turns[at::5]]) for at in range(5)))
    await asyncio.gather(*(write(database, [(row, None) for row in turns[at::3]]) for at in range(3)))
    assert await daily(database) == sums_by_day(turns)


async def test_nothing_to_write(database: Database) -> None:
    assert await write(database, []) == 0


async def test_what_a_column_cannot_hold(database: Database) -> None:
    """Texts are cut and cleaned: a turn is not lost for them."""
    row = turn("a", path="/" + "x" * 500, end_user="\0ü\ud800", error_code="é" * 100)
    await write(database, [(row, ("\0", "\ud800"))])
    found = (await recorded(database))["a"]
    assert found["path"] == "/" + "x" * 127
    assert found["end_user"] == "?ü?"
    assert found["error_code"] == "é" * 64
    async with database.read() as connection:
        assert (await connection.execute(select(contents.c.request, contents.c.response))).one() == ("?", "?")


async def test_report_is_what_one_would_count(database: Database) -> None:
    """By every group, within every span, of every user, key and model."""
    turns = mixed(500)
    await write(database, [(row, None) for row in turns])
    chance = random.Random(7)
    edges = [None, *(START + timedelta(days=day) for day in range(8))]
    for _ in range(60):
        since, until = (
            chance.choice([chance.choice(edges), START + timedelta(seconds=chance.randrange(7 * 86400))])
            for _ in range(2)
        )
        user, key_id, model = (chance.choice([None, name]) for name in ("alice", "k1", "small"))
        wanted = [
            row
            for row in turns
            if (since is None or since.timestamp() <= row.created_at)
            and (until is None or row.created_at < until.timestamp())
            and user in (None, row.username)
            and key_id in (None, row.key_id)
            and model in (None, row.model)
        ]
        asked: dict[str, Any] = {"user": user, "key_id": key_id, "model": model, "since": since, "until": until}
        assert await report(database, **asked) == [sums_of(wanted)]
        by = chance.choice(list(GROUPS))
        groups = defaultdict(list)
        for row in wanted:
            groups[GROUPS[by](row)].append(row)
        found = await report(database, **asked, by=by)
        assert {line[by]: line for line in found} == {of: {by: of, **sums_of(group)} for of, group in groups.items()}
        order = [line[by] for line in found]
        if by in ("day", "hour"):
            assert order == sorted(order)
        else:
            tokens = [line["prompt_tokens"] + line["completion_tokens"] for line in found]
            assert tokens == sorted(tokens, reverse=True)


async def test_report_knows_of_rows_that_are_gone(database: Database) -> None:
    """Whole days come from the sums; what is left of a day, from the rows that are there."""
    turns = mixed(300)
    await write(database, [(row, None) for row in turns])
    async with database.begin() as connection:
        await connection.execute(requests.delete())
    assert await report(database) == [sums_of(turns)]
    noon, late = START + timedelta(hours=12), START + timedelta(days=3, hours=12)
    whole = [row for row in turns if MIDNIGHT + 86400 <= row.created_at < MIDNIGHT + 3 * 86400]
    assert await report(database, since=noon, until=late) == [sums_of(whole)]
    assert await report(database, by="hour") == []


async def test_report_in_another_zone(database: Database) -> None:
    """Only the point in time counts."""
    await write(database, [(turn("before", MIDNIGHT - 1), None), (turn("after", MIDNIGHT), None)])
    since = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert (await report(database, since=since))[0]["requests"] == 1
    assert (await report(database, until=since))[0]["requests"] == 1
    assert [line["request_id"] for line in await rows(database, since=since)] == ["after"]
    with pytest.raises(ValueError, match="zone"):
        await report(database, since=datetime(2026, 3, 1))  # noqa: DTZ001 - that is what is refused


async def test_times_at_the_end_of_time(database: Database) -> None:
    await write(database, [(turn("a"), None)])
    first = datetime.min.replace(tzinfo=timezone(timedelta(hours=12)))
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    assert (await report(database, since=first, until=last))[0]["requests"] == 1
    assert len(await rows(database, since=first, until=last)) == 1
    assert (await report(database, since=last, until=first))[0]["requests"] == 0


async def test_strange_names_match_nothing(database: Database) -> None:
    await write(database, [(turn("a"), None)])
    for name in ("\0", "'; DROP TABLE users; --", "\ud800", "x" * 1000):
        assert (await report(database, user=name))[0]["requests"] == 0
        assert await rows(database, key_id=name) == []


async def test_rows_page_by_page(database: Database) -> None:
    """The last written first; what is written meanwhile moves no page."""
    turns = mixed(25)
    for row in turns:
        await write(database, [(row, None)])
    seen: list[str] = []
    page = await rows(database, limit=10)
    while page:
        seen += [line["request_id"] for line in page]
        await write(database, [(turn(f"later_{len(seen)}"), None)])
        page = await rows(database, limit=10, before_id=page[-1]["id"])
    assert seen == [row.request_id for row in reversed(turns)]
    assert await rows(database, before_id=2**70, limit=1) != []


async def test_rows_of_somebody(database: Database) -> None:
    turns = mixed(100)
    await write(database, [(row, None) for row in turns])
    noon = MIDNIGHT + 3 * 86400 + 43200
    found = await rows(
        database,
        user="bob",
        key_id="k2",
        model="large",
        since=START + timedelta(days=1),
        until=datetime.fromtimestamp(noon, UTC),
    )
    assert {line["request_id"] for line in found} == {
        row.request_id
        for row in turns
        if (row.username, row.key_id, row.model) == ("bob", "k2", "large") and MIDNIGHT + 86400 <= row.created_at < noon
    }
    assert await count(database, requests) == 100


MOMENTS = st.builds(
    lambda hours, us: START + timedelta(hours=hours, microseconds=us), st.integers(0, 72), st.integers(-1, 1)
)


@given(st.none() | MOMENTS, st.none() | MOMENTS, MOMENTS)
def test_split_days(since: datetime | None, until: datetime | None, moment: datetime) -> None:
    """A point in time is in the span if it is in a whole day or an edge, and it is in one of them only."""
    (first, end), edges = split_days(since, until)
    is_in_day = (first is None or first <= moment.date()) and (end is None or moment.date() < end)
    found = is_in_day + sum(start <= moment < stop for start, stop in edges)
    assert found == ((since is None or since <= moment) and (until is None or moment < until))
    for start, stop in edges:
        assert start < stop <= datetime.combine(start.date() + timedelta(days=1), datetime.min.time(), UTC)
