"""A process that keeps usage until it is killed: `python -m tests.proxy.records.usage_child ADDRESS FOLDER`.

In each round it begins a hundred turns and ends all but one. Once they are on disk or in the database it says so: one
line with the number of the round. In between it begins and ends others that it does not wait for.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path

from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.usage_log import UsageLog
from tests.eventually import eventually
from tests.proxy.records.turns import turn

TURNS = 100


async def main(address: str, folder: Path) -> None:
    database = Database(parse_address(address, Path("unused")))
    async with UsageLog(database, folder, interval_s=0.02) as log:
        for number in itertools.count():
            turns = [turn(f"kept_{number}_{index}", time.time()) for index in range(TURNS)]
            for row in turns:
                log.began(row)
            for row in turns[1:]:
                log.ended(row)

            def is_kept(running: str = turns[0].request_id) -> bool:
                return log.status.waiting == 0 and any(
                    running in file.read_text() for file in folder.glob("*/running.json")
                )

            await eventually(is_kept)
            print(number, flush=True)  # noqa: T201 - that is how it says so
            for index in range(TURNS):
                row = turn(f"late_{number}_{index}", time.time())
                log.began(row)
                if index % 2:
                    log.ended(row)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
