"""When keys were used last: noted as they are, written down in batches."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from sqlalchemy import bindparam, or_, select
from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.records.schema import Moment, keys, revisions

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 10


class LastUses:
    """Of the keys of one database. Lives as long as the cache of keys; `write` once more before it goes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[str, float] = {}

    def note(self, key_id: str, now: float) -> None:
        """A key was used. `now`: Unix seconds."""
        self._used[key_id] = now

    async def write(self) -> None:
        """Write down what was noted. No change of access: no revision is counted. What fails is kept for next time."""
        used, self._used = self._used, {}
        if not used:
            return
        rows = [{"used_key": key, "used_at": datetime.fromtimestamp(at, UTC)} for key, at in used.items()]
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S), self._database.begin() as connection:
                # Changes of keys wait for the same row (accounts.py), so the two never wait for each other in a ring.
                await connection.execute(select(revisions).where(revisions.c.name == "access").with_for_update())
                await connection.execute(_SET_LAST_USED, rows)
        except (DatabaseError, SQLAlchemyError, TimeoutError) as error:
            logger.debug("when keys were used is not written down yet: %s", type(error).__name__)
            self._used = {**used, **self._used}


_USED_AT = bindparam("used_at", type_=Moment())

_SET_LAST_USED = (
    keys.update()
    .where(keys.c.id == bindparam("used_key"), or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < _USED_AT))
    .values(last_used_at=_USED_AT)
)
"""Another gateway may have seen the key later."""
