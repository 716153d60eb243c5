from __future__ import annotations

import asyncio
import logging
import random
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.schema import contents
from hugind.proxy.records.usage import UsageRow, report, write
from hugind.proxy.records.usage_log import FLUSH_ROWS, UsageLog
from hugind.proxy.records.usage_spool import make_folder
from tests.databases import PostgresServer
from tests.engines import ROOT
from tests.eventually import eventually
from tests.proxy.records.turns import MIDNIGHT, count, daily, mixed, recorded, sums_by_day, turn
from tests.proxy.records.usage_child import TURNS

NOBODY = "postgresql://u:p@127.0.0.1:1/x"
QUICK_S = 0.02
NEVER_S = 3600.0
UNUSED = Path("unused")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "usage"


@asynccontextmanager
async def away(folder: Path, **how: Any) -> AsyncIterator[UsageLog]:
    """A log whose database cannot be reached."""
    database = Database(parse_address(NOBODY, UNUSED))
    try:
        async with UsageLog(database, folder, **how) as log:
            yield log
    finally:
        await database.aclose()


async def test_written_behind(database: Database, folder: Path) -> None:
    """By itself, soon after the turn; what runs is not there yet."""
    async with UsageLog(database, folder, interval_s=QUICK_S) as log:
        running, row = turn("runs"), turn("ends")
        log.began(running)
        log.began(row)
        row.completion_tokens = 7
        log.ended(row)
        await eventually(lambda: log.status.written)
        found = await recorded(database)
        assert set(found) == {"ends"}
        assert found["ends"]["completion_tokens"] == 7
        assert log.status.running == 1
        log.ended(running)
        assert log.status.waiting == 1
    assert set(await recorded(database)) == {"runs", "ends"}
    assert list(folder.iterdir()) == []


async def test_many_do_not_wait(database: Database, folder: Path) -> None:
    """So many are written before the interval is over."""
    async with UsageLog(database, folder, interval_s=NEVER_S) as log:
        for number in range(FLUSH_ROWS):
            log.ended(turn(str(number)))
        await eventually(lambda: log.status.written == FLUSH_ROWS)


async def test_flush(database: Database, folder: Path) -> None:
    """Afterwards it is in the database."""
    async with UsageLog(database, folder, interval_s=NEVER_S) as log:
        for row in mixed(1200):
            log.ended(row)
        assert await log.flush()
        assert len(await recorded(database)) == 1200
        assert log.status.waiting == log.status.spooled == log.status.lost == 0


async def test_flush_without_a_database(folder: Path) -> None:
    """It says so; it is on disk."""
    async with away(folder, interval_s=NEVER_S) as log:
        log.ended(turn("a"))
        assert not await log.flush()
        assert (log.status.waiting, log.status.spooled, log.status.is_away) == (0, 1, True)


@pytest.mark.parametrize("record_content", [False, True])
async def test_what_was_said(sqlite_database: Database, folder: Path, record_content: bool) -> None:
    """Is on no disk and in no database, unless it is to be kept."""
    async with away(folder, interval_s=QUICK_S, record_content=record_content) as log:
        log.ended(turn("a"), ("my secret", "an answer"))
        await eventually(lambda: log.status.spooled)
        on_disk = b"".join(file.read_bytes() for file in folder.rglob("*.jsonl"))
        assert (b"my secret" in on_disk) == record_content
    async with UsageLog(sqlite_database, folder, record_content) as log:
        log.ended(turn("b"), ("my secret", "an answer"))
        log.ended(turn("c"))
    assert await count(sqlite_database, contents) == 2 * record_content
    assert len(await recorded(sqlite_database)) == 3


async def test_left_for_the_next_start(database: Database, folder: Path) -> None:
    """With the database away until the end, everything waits in the folder."""
    turns = mixed(700)
    async with away(folder, interval_s=QUICK_S) as log:
        for row in turns[:600]:
            log.ended(row)
        await eventually(lambda: log.status.is_away and log.status.spooled == 600)
        for row in turns[600:]:
            log.ended(row)
    async with UsageLog(database, folder):
        pass
    assert await daily(database) == sums_by_day(turns)
    assert list(folder.iterdir()) == []


async def test_two_starts_at_once(database: Database, folder: Path) -> None:
    """What is left is taken over by one of them."""
    turns = mixed(50)
    async with away(folder) as log:
        for row in turns:
            log.ended(row)
    async with UsageLog(database, folder) as one, UsageLog(database, folder) as two:
        await eventually(lambda: one.status.written + two.status.written == 50)
        await eventually(lambda: len(list(folder.glob("*[0-9a-f]"))) == 2)
        assert 0 in (one.status.written, two.status.written)
    assert await daily(database) == sums_by_day(turns)


async def test_written_but_not_known_to_be(database: Database, folder: Path) -> None:
    """The connection broke in the middle of the commit, or the process died after it: nothing counts twice."""
    turns = mixed(900)
    async with away(folder) as log:
        for row in turns:
            log.ended(row)
    await write(database, [(row, None) for row in turns[:500]])
    async with UsageLog(database, folder) as log:
        await eventually(lambda: log.status.written == 400)
        for row in turns[::7]:
            log.ended(row)
        assert await log.flush()
        assert log.status.written == 400
    assert await daily(database) == sums_by_day(turns)


async def test_turns_that_still_run_at_the_end(database: Database, folder: Path) -> None:
    """Nobody will end them any more: they are on record as cancelled."""
    async with UsageLog(database, folder, clock=lambda: MIDNIGHT + 3) as log:
        log.began(turn("a", status_code=0, duration_ms=0.0))
    (found,) = (await recorded(database)).values()
    assert (found["status_code"], found["error_code"], found["duration_ms"]) == (499, "cancelled", 3000)


async def test_a_database_that_goes_away_twice(postgres_server: PostgresServer, folder: Path) -> None:
    """5,000 turns that come and go meanwhile: each is on record once, and in the sums once."""
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    turns = mixed(5000)
    chance = random.Random(3)
    try:
        await database.upgrade()
        async with UsageLog(database, folder, interval_s=QUICK_S) as log:
            running: list[UsageRow] = []
            for number, row in enumerate(turns):
                log.began(row)
                running.append(row)
                while len(running) > 40:
                    log.ended(running.pop(chance.randrange(len(running))))
                if number in (1000, 3000):
                    postgres_server.allow(address, is_allowed=False)
                if number in (2000, 4000):
                    await eventually(lambda: log.status.is_away)
                    postgres_server.allow(address, is_allowed=True)
                if not number % 20:
                    await asyncio.sleep(0)
            for row in running:
                log.ended(row)
            await eventually(lambda: log.status.written == 5000, 30)
            assert not log.status.is_away
            assert log.status.spooled == log.status.waiting == log.status.running == 0
        assert len(await recorded(database)) == 5000
        assert await daily(database) == sums_by_day(turns)
        assert list(folder.iterdir()) == []
    finally:
        await database.aclose()
        postgres_server.drop(address)


@pytest.mark.parametrize("is_away", [False, True])
async def test_killed(database: Database, database_address: str, folder: Path, is_away: bool) -> None:
    """`kill -9` of a gateway, with its database or without: the next one has all that is older than an interval."""
    address = NOBODY if is_away else database_address
    rounds = 5
    with subprocess.Popen(
        [sys.executable, "-m", "tests.proxy.records.usage_child", address, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        for number in range(rounds):
            assert await asyncio.to_thread(child.stdout.readline) == b"%d\n" % number
        async with UsageLog(database, folder):
            assert not any(row["error_code"] for row in (await recorded(database)).values())  # it lives
        child.kill()
    assert list(folder.iterdir()) != []

    async with UsageLog(database, folder) as log:
        await eventually(lambda: log.status.spooled == 0)

    found = await recorded(database)
    kept = {f"kept_{number}_{index}" for number in range(rounds) for index in range(TURNS)}
    assert kept <= set(found)
    running = {f"kept_{number}_0" for number in range(rounds)}
    assert {found[name]["error_code"] for name in running} == {"gateway_died"}
    assert {found[name]["status_code"] for name in running} == {500}
    assert {found[name]["status_code"] for name in kept - running} == {200}
    (sums,) = await report(database)
    assert sums["requests"] == len(found)
    assert sums["failed"] == Counter(row["error_code"] for row in found.values())["gateway_died"]
    if is_away:
        assert log.status.written == len(found)
    assert list(folder.iterdir()) == []


async def test_ran_and_ended(sqlite_database: Database, folder: Path) -> None:
    """What became of a turn beats that it ran, and how long it ran is known."""
    left = make_folder(folder)
    left.write_running([turn("ends", status_code=0), turn("runs", status_code=0)], MIDNIGHT + 5)
    left.append(left.new_file(), [(turn("ends", completion_tokens=9), None)])
    left.close()
    async with UsageLog(sqlite_database, folder):
        pass
    found = await recorded(sqlite_database)
    assert (found["ends"]["status_code"], found["ends"]["completion_tokens"]) == (200, 9)
    assert (found["runs"]["error_code"], found["runs"]["duration_ms"]) == ("gateway_died", 5000)


async def test_a_line_cut_short(sqlite_database: Database, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process was killed while it wrote: that line is lost, and it is said."""
    left = make_folder(folder)
    file = left.new_file()
    left.append(file, [(turn("a"), None), (turn("b"), None)])
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 10)
    left.close()
    async with UsageLog(sqlite_database, folder) as log:
        await eventually(lambda: log.status.lost == 1)
    assert set(await recorded(sqlite_database)) == {"a"}
    assert [record.message for record in caplog.records if "a turn is lost" in record.message]
    assert list(folder.iterdir()) == []


async def test_no_disk(sqlite_database: Database, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Turns go from memory to the database; it is said once."""
    async with UsageLog(sqlite_database, folder, interval_s=QUICK_S) as log:
        (own,) = (path for path in folder.iterdir() if path.is_dir())
        shutil.rmtree(own)
        for number in range(3):
            log.began(turn(f"runs_{number}"))
            log.ended(turn(f"ends_{number}"))
            assert await log.flush()
        own.mkdir(mode=0o700)
        log.ended(turn("later"))
        await eventually(lambda: log.status.written == 4)
    said = Counter(record.levelname for record in caplog.records if "on disk" in record.message)
    assert said["ERROR"] == 1
    assert len(await recorded(sqlite_database)) == 7


async def test_no_disk_and_no_database(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So many are kept in memory, and no more."""
    async with away(folder, interval_s=NEVER_S) as log:
        shutil.rmtree(folder)
        for _ in range(30):
            for number in range(FLUSH_ROWS - 1):
                log.ended(turn(str(number)))
            await log.flush()
        status = log.status
        assert (status.waiting, status.lost) == (20 * (FLUSH_ROWS - 1), 10 * (FLUSH_ROWS - 1))
    assert "9980 turns are lost" in caplog.text


async def test_a_disk_that_has_room_again(sqlite_database: Database, folder: Path) -> None:
    """What was in memory by then is on disk at the end, for the next start."""
    turns = mixed(50)
    async with away(folder, interval_s=NEVER_S) as log:
        (own,) = (path for path in folder.iterdir() if path.is_dir())
        own.rmdir()
        for row in turns:
            log.ended(row)
        await log.flush()
        assert log.status.waiting == 50
        own.mkdir(mode=0o700)
    async with UsageLog(sqlite_database, folder):
        pass
    assert await daily(sqlite_database) == sums_by_day(turns)
    assert list(folder.iterdir()) == []


async def test_a_full_disk_and_then_killed(folder: Path) -> None:
    """As long as their rows are on no disk, turns are on the list of those that run."""
    async with away(folder, interval_s=NEVER_S) as log:
        turns = [turn(name) for name in "abcd"]
        for row in turns:
            log.began(row)
        await log.flush()
        for row in turns[:3]:
            log.ended(row)
        (file,) = folder.glob("*/running.json")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size // 2, before[1]))
        try:
            await log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert log.status.waiting == 3
        assert [f'"{row.request_id}"' in file.read_text() for row in turns] == [True] * 4
        log.ended(turns[3])
        await log.flush()
        assert (log.status.waiting, log.status.spooled) == (0, 4)


async def test_what_the_database_refuses(postgres_server: PostgresServer, folder: Path) -> None:
    """One turn that does not fit does not hold up the others."""
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    try:
        await database.upgrade()
        async with UsageLog(database, folder, interval_s=NEVER_S) as log:
            for row in (turn("a"), turn("b", prompt_tokens=2**40), turn("c", prompt_tokens=2**70), turn("d")):
                log.ended(row)
                log.ended(turn(f"{row.request_id}2"))
            assert await log.flush()
            log.ended(turn("e"))
            assert await log.flush()
            assert (log.status.written, log.status.lost) == (7, 2)
        assert set(await recorded(database)) == {"a", "a2", "b2", "c2", "d", "d2", "e"}
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def test_a_database_without_tables(postgres_server: PostgresServer, folder: Path) -> None:
    """It is waited for as one that is away: nothing is lost for it."""
    address = postgres_server.create()
    database = Database(parse_address(address, UNUSED))
    try:
        async with UsageLog(database, folder, interval_s=QUICK_S) as log:
            log.ended(turn("a"))
            await eventually(lambda: log.status.is_away)
            await database.upgrade()
            await eventually(lambda: log.status.written == 1)
            assert log.status.lost == 0
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def test_old_rows_go_after_what_was_left_came(database: Database, folder: Path) -> None:
    """A row that is removed would count again, if it were written again."""
    old = [turn(f"old_{number}", MIDNIGHT) for number in range(5)]
    await write(database, [(row, None) for row in old])
    async with away(folder) as log:
        for row in old:
            log.ended(row)
    now = MIDNIGHT + 40 * 86400
    async with UsageLog(database, folder, retention_days=30, clock=lambda: now, interval_s=QUICK_S) as log:
        log.ended(turn("new", now))
        deadline = asyncio.get_running_loop().time() + 10
        while set(await recorded(database)) != {"new"}:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
    assert await daily(database) == sums_by_day([*old, turn("new", now)])


async def test_what_is_said_of_a_database_that_is_away(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once, and without its password."""
    caplog.set_level(logging.INFO)
    async with away(folder, interval_s=NEVER_S) as log:
        for number in range(3):
            log.ended(turn(str(number)))
            await log.flush()
    said = [record.message for record in caplog.records if "waits on disk" in record.message]
    assert len(said) == 1
    assert ":p@" not in caplog.text
