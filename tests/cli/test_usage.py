"""`hugind usage`: sums and single turns, in three formats, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest

from hugind.cli.home_database import configured_url, opened
from hugind.cli.usage import TURN_COLUMNS
from hugind.proxy.records.schema import requests
from hugind.proxy.records.usage import UsageRow, write
from hugind.supervisor.settings import read_environment
from tests.cli.hugind_command import HugindCommand
from tests.proxy.records.turns import MIDNIGHT, mixed, sums_of, turn

ROWS = mixed(60)
EVIL = '=HYPERLINK("http://evil")'


@pytest.fixture
def used(either: HugindCommand) -> HugindCommand:
    """Turns are on record; one of a person who would like to be a formula."""
    asyncio.run(_record(either, [*ROWS, turn("req_evil", MIDNIGHT + 1, username="front", end_user=EVIL)]))
    return either


def test_sums(used: HugindCommand) -> None:
    """By user unless told otherwise, with the total; narrowed down; the same in a table, in JSON and in CSV."""
    alice = [row for row in ROWS if row.username == "alice"]
    table = used("usage")
    by_model = used.json("usage", "--by", "model", "--user", "alice")
    by_day = list(csv.DictReader(io.StringIO(used("usage", "--by", "day", "--since", "2026-03-02", "--csv").stdout)))
    later = [row for row in ROWS if row.created_at >= MIDNIGHT + 86400]
    recent = used.json("usage", "--since", "7d")

    assert table.returncode == 0, table.stderr
    cells = {line.split()[0]: line.split() for line in table.stdout.splitlines() if line.split()}
    assert cells["alice"][1:3] == [str(len(alice)), str(sums_of(alice)["failed"])]
    assert cells["total"][1] == "61"
    assert by_model["total"] == sums_of(alice)
    assert {row["model"] for row in by_model["rows"]} == {"small", "large"}
    assert sum(int(row["prompt_tokens"]) for row in by_day) == sums_of(later)["prompt_tokens"]
    assert [row["day"] for row in by_day] == sorted({_day(row) for row in later})
    assert recent["total"]["requests"] == 0


def test_single_turns(used: HugindCommand) -> None:
    """The latest first, as many as are asked for; in CSV every column, and none of it a formula."""
    table = used("usage", "--requests", "-n", "3")
    found = used.json("usage", "--requests", "--limit", "0", "--key", "k1")["requests"]
    printed = used("usage", "--requests", "--csv", "--user", "front").stdout
    (evil,) = csv.DictReader(io.StringIO(printed))

    assert len([line for line in table.stdout.splitlines() if "req_" in line]) == 3
    assert f"front/{EVIL}" in table.stdout
    assert {turn["request_id"] for turn in found} == {row.request_id for row in ROWS if row.key_id == "k1"}
    assert tuple(evil) == TURN_COLUMNS
    assert set(found[0]) == set(TURN_COLUMNS)
    assert evil["end_user"] == f"'{EVIL}"
    assert evil["created_at"] == "2026-03-01T00:00:01Z"


@pytest.mark.parametrize(
    "arguments",
    [("--json", "--csv"), ("--requests", "--by", "day"), ("--since", "yesterday"), ("--by", "week"), ("--limit", "-1")],
)
def test_wrong_usage(hugind: HugindCommand, arguments: tuple[str, ...]) -> None:
    """Told as such, with nothing on stdout."""
    done = hugind("usage", *arguments)

    assert (done.returncode, done.stdout) == (2, "")


async def _record(hugind: HugindCommand, rows: list[UsageRow]) -> None:
    async with opened(configured_url(read_environment(hugind.env))) as database:
        await database.prepare()
        for row in rows:  # in an order that the rows' numbers tell
            await write(database, [(row, None)])
        async with database.read() as connection:
            assert len((await connection.execute(requests.select())).all()) == len(rows)


def _day(row: Any) -> str:
    return datetime.fromtimestamp(row.created_at, UTC).date().isoformat()
