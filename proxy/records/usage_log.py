"""Puts turns on record behind their backs: exactly one row for each, whatever becomes of database and gateway.

Every second what has ended is written to the database, and a list of what runs to disk. What the database does not take
within that second goes to disk as well, and from there to the database when it is back. So a gateway that is killed
loses one second at most, two where the database hangs: the next one takes its folder over. What is written twice counts
once (`usage.write`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from hugind.proxy.records import retention, usage_spool
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.records.usage import Content, Entry, UsageRow, write
from hugind.proxy.records.usage_spool import UsageFolder
from hugind.supervisor import tasks

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0
"""What a gateway that is killed loses at most."""
FLUSH_ROWS = 500
"""So many do not wait for the interval; so many are written in a transaction."""
FILE_ROWS = 10_000
"""While the database is away, a file is ended after so many."""
MEMORY_ROWS = 10_000
"""With a full disk and no database, so many are kept in memory."""
WRITE_TIMEOUT_S = 15
"""A database that does not answer for so long is away. Longer than what it itself gives up after."""
CLOSE_TIMEOUT_S = 10

CANCELLED_STATUS = 499
DIED_STATUS = 500
CANCELLED, DIED = "cancelled", "gateway_died"


@dataclass(frozen=True)
class UsageStatus:
    """How the usage log is."""

    written: int
    """Rows that came into the database."""
    waiting: int
    """Rows in memory only."""
    spooled: int
    """Rows on disk that are not in the database yet."""
    lost: int
    """Rows that could not be kept, or that the database refuses."""
    running: int
    is_away: bool
    """The database could not be written to the last time."""


@dataclass(eq=False)
class _Batch:
    """Rows that are to be written: in a file, or where that is not possible in memory."""

    file: Path | None = None
    entries: list[Entry] = field(default_factory=list)
    rows: int = 0
    offset: int = 0
    """Up to here it is in the database; of a file in bytes."""
    copy: Path | None = None
    """Where rows in memory are, too, because the database did not take them at once."""
    inherited: UsageFolder | None = None
    """All else in the folder of a process that has died is written: with this, the folder goes."""

    @property
    def is_on_disk(self) -> bool:
        """It is not lost with us."""
        return self.file is not None or self.copy is not None or self.inherited is not None

    def read(self) -> tuple[list[Entry], int, int]:
        """The next entries, how many cannot be read, and where to go on. Blocks on the disk."""
        if self.file is not None:
            return usage_spool.read_entries(self.file, self.offset, FLUSH_ROWS)
        entries = self.entries[self.offset : self.offset + FLUSH_ROWS]
        return entries, 0, self.offset + len(entries)

    def remove(self) -> None:
        """All of it is in the database. Blocks on the disk."""
        for file in (self.file, self.copy):
            if file is not None:
                file.unlink(missing_ok=True)
        if self.inherited is not None:
            self.inherited.write_running([], 0)
            self.inherited.close()


class UsageLog:
    """Lives as long as the gateway; an async context manager. On exit it writes what there is, the running turns too.

    It also removes rows that are older than `retention_days` (0: never). In `parent` each process has its folder.
    """

    def __init__(
        self,
        database: Database,
        parent: Path,
        record_content: bool = False,
        retention_days: int = 0,
        *,
        clock: Callable[[], float] = time.time,
        interval_s: float = FLUSH_INTERVAL_S,
    ) -> None:
        self._database = database
        self._parent = parent
        self._record_content = record_content
        self._retention_days = retention_days
        self._clock = clock
        self._interval_s = interval_s
        self._running: dict[str, UsageRow] = {}
        self._running_on_disk: set[str] = set()
        self._waiting: list[Entry] = []
        self._moving = 0
        """Rows that are being put on disk."""
        self._many_wait = asyncio.Event()
        self._folder: UsageFolder
        self._open: _Batch | None = None
        """Where the next rows go."""
        self._due: deque[_Batch] = deque()
        """What is to be written, in this order."""
        self._is_due = asyncio.Event()
        self._inherited = 0
        self._has_caught_up = asyncio.Event()
        self._keeping, self._writing = asyncio.Lock(), asyncio.Lock()
        self._written = self._lost = 0
        self._is_away = self._is_disk_full = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> UsageLog:
        """Take over what processes that have died left behind.

        Raises:
            OSError: there can be no folder.
        """
        self._folder = await asyncio.to_thread(usage_spool.make_folder, self._parent)
        try:
            await asyncio.to_thread(self._inherit)
        except BaseException:
            self._folder.close()
            raise
        if not self._inherited:
            self._has_caught_up.set()
        self._is_due.set()
        self._tasks = [
            tasks.start(self._keep_forever(), "keep usage"),
            tasks.start(self._write_forever(), "write usage"),
        ]
        if self._retention_days:
            self._tasks.append(tasks.start(self._remove_forever(), "remove old usage"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await tasks.finish(self._close(), "close the usage log")

    def began(self, row: UsageRow) -> None:
        """A turn was admitted. The row may still be changed, until `ended`."""
        self._running[row.request_id] = row

    def ended(self, row: UsageRow, content: Content | None = None) -> None:
        """A turn is over, and this is what is to be known of it. Nobody may change the row any more."""
        self._running.pop(row.request_id, None)
        self._waiting.append((row, content if self._record_content else None))
        if len(self._waiting) >= FLUSH_ROWS:
            self._many_wait.set()

    async def flush(self) -> bool:
        """Write what has ended. Returns whether all of it is in the database; it is on disk in any case."""
        await self._keep(ends_file=True)
        return await self._write()

    @property
    def status(self) -> UsageStatus:
        """How it is now."""
        batches = [*self._due, *([self._open] if self._open else [])]
        in_memory = sum(batch.rows for batch in batches if not batch.is_on_disk)
        on_disk = sum(batch.rows for batch in batches if batch.is_on_disk)
        waiting = len(self._waiting) + self._moving + in_memory
        return UsageStatus(self._written, waiting, on_disk, self._lost, len(self._running), self._is_away)

    def _inherit(self) -> None:
        """Have everything written that processes which have died left behind. Blocks on the disk."""
        for folder in usage_spool.take_over(self._parent):
            try:
                files = [_Batch(file, rows=usage_spool.count_lines(file)) for file in folder.files()]
            except OSError as error:
                logger.warning("what is in %s cannot be taken over: %s", folder.path, error)
                folder.close()
                continue
            died_at, running = folder.read_running()
            for row in running:
                _end(row, DIED_STATUS, DIED, died_at)
            rest = _Batch(entries=[(row, None) for row in running], rows=len(running), inherited=folder)
            self._due += [*files, rest]
            self._inherited += 1
            ended = sum(batch.rows for batch in files)
            logger.info("took over %s: %d turns that had ended, %d that ran", folder.path, ended, len(running))

    async def _keep_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._many_wait.wait()
            except TimeoutError:
                pass
            try:
                await self._keep()
            except Exception:
                logger.exception("keeping usage broke")

    async def _keep(self, *, ends_file: bool = False) -> None:
        """Put on disk what has ended, and what runs. `ends_file`: have it written, whatever else is."""
        async with self._keeping:
            self._many_wait.clear()
            entries, self._waiting, self._moving = self._waiting, [], len(self._waiting)
            running = list(self._running.values()) if self._running.keys() != self._running_on_disk else None
            if entries and not (self._is_away or self._due or self._open or self._is_disk_full):
                self._due.append(_Batch(entries=entries, rows=len(entries)))
                entries, self._moving = [], 0
                await self._write_at_once()
            late = [batch for batch in self._due if not batch.is_on_disk]
            await tasks.finish(self._put_on_disk(late, entries, running), "put usage on disk")
            self._moving = 0
            if self._open is not None and (ends_file or not self._due or self._open.rows >= FILE_ROWS):
                self._due.append(self._open)
                self._open = None
            if self._due:
                self._is_due.set()

    async def _write_at_once(self) -> None:
        """Unless that takes longer than what may be lost: then it goes to disk first."""
        try:
            async with asyncio.timeout(FLUSH_INTERVAL_S):
                await self._write()
        except TimeoutError:
            pass

    async def _put_on_disk(self, late: list[_Batch], entries: list[Entry], running: list[UsageRow] | None) -> None:
        for batch in late:
            file = self._folder.new_file()
            try:
                await asyncio.to_thread(self._folder.append, file, batch.entries[batch.offset :])
            except (OSError, TypeError) as error:
                self._note_disk(error)
                running = None  # the list of what runs still names them
                break
            batch.copy = file
        if entries:
            batch = self._open or _Batch(self._folder.new_file())
            assert batch.file is not None
            try:
                await asyncio.to_thread(self._folder.append, batch.file, entries)
            except (OSError, TypeError) as error:
                self._keep_in_memory(entries, error)
                return  # the list of what runs still names them
            batch.rows += len(entries)
            self._open = batch
        if running is not None:
            try:
                await asyncio.to_thread(self._folder.write_running, running, self._clock())
            except (OSError, TypeError) as error:
                self._note_disk(error)
                return
            self._running_on_disk = {row.request_id for row in running}
        if (late or entries or running is not None) and all(batch.is_on_disk for batch in late):
            self._note_disk(None)

    def _keep_in_memory(self, entries: list[Entry], error: Exception) -> None:
        self._note_disk(error)
        if self.status.waiting > MEMORY_ROWS:
            self._lose(len(entries))
        else:
            self._due.append(_Batch(entries=entries, rows=len(entries)))

    def _note_disk(self, error: Exception | None) -> None:
        if error is not None and not self._is_disk_full:
            logger.error("usage is kept in memory, it cannot be put on disk: %s", error)
        elif error is None and self._is_disk_full:
            logger.info("usage can be put on disk again")
        self._is_disk_full = error is not None

    async def _write_forever(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                await self._write()
            except Exception:
                logger.exception("writing usage broke")

    async def _write(self) -> bool:
        """Write what is due. Returns whether that was possible."""
        async with self._writing:
            while self._due:
                batch = self._due[0]
                try:
                    is_done = await self._write_batch(batch)
                except (DatabaseError, DBAPIError, OSError) as error:
                    self._note_database(error)
                    return False
                self._note_database(None)
                self._due.popleft()
                if is_done:
                    await tasks.finish(self._remove(batch), "remove what is written")
            return True

    async def _write_batch(self, batch: _Batch) -> bool:
        """Write what is left of it. False: it cannot be read, and stays where it is."""
        while True:
            try:
                entries, broken, after = await asyncio.to_thread(batch.read)
            except OSError as error:
                logger.warning("usage stays where it is, it cannot be read: %s", error)
                return False
            if after == batch.offset:
                return True
            await self._write_entries(entries)
            self._lost += broken
            batch.rows = max(batch.rows - len(entries) - broken, 0)
            batch.offset = after

    async def _write_entries(self, entries: list[Entry]) -> None:
        """In one transaction, or one for each if the database refuses one of them.

        Raises:
            DatabaseError, DBAPIError, TimeoutError: nothing is known of what was written.
        """
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                self._written += await write(self._database, entries)
        except (ValueError, TypeError, OverflowError, StatementError) as error:
            if not _is_refused(error):
                raise
            if len(entries) == 1:
                self._lost += 1
                logger.warning("turn %s is lost, the database refuses it: %s", entries[0][0].request_id, error)
                return
            for entry in entries:
                await self._write_entries([entry])

    def _note_database(self, error: Exception | None) -> None:
        if error is not None and not self._is_away:
            logger.warning("usage waits on disk for the database: %s", str(error) or "it does not answer")
        elif error is None and self._is_away:
            logger.info("the database takes usage again")
        self._is_away = error is not None

    async def _remove(self, batch: _Batch) -> None:
        try:
            await asyncio.to_thread(batch.remove)
        except OSError as error:
            logger.warning("what is in the database was not removed, and will be looked at again: %s", error)
        if batch.inherited is not None:
            self._inherited -= 1
            if not self._inherited:
                self._has_caught_up.set()

    async def _remove_forever(self) -> None:
        # What was written before we know of it counts only once as long as it is there.
        await self._has_caught_up.wait()
        try:
            remove = partial(retention.remove_older, self._database)
            await retention.keep_to(remove, "usage", self._retention_days, self._clock)
        except Exception:
            logger.exception("removing old usage broke; it goes on with the next start")

    async def _close(self) -> None:
        for task in self._tasks:
            await tasks.cancel(task)
        if self._running:
            logger.warning("%d turns still run; they are on record as cancelled", len(self._running))
        for row in list(self._running.values()):
            _end(row, CANCELLED_STATUS, CANCELLED, self._clock())
            self.ended(row)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
        except TimeoutError:
            pass
        except Exception:
            logger.exception("writing usage broke")
        for batch in self._due:
            if batch.inherited is not None:
                await asyncio.to_thread(batch.inherited.close)
        in_memory = [entry for batch in self._due if not batch.is_on_disk for entry in batch.entries[batch.offset :]]
        if in_memory:
            await self._save(in_memory)
        if not await asyncio.to_thread(self._folder.close):
            logger.warning("usage that is not in the database stays in %s, for the next start", self._folder.path)

    async def _save(self, entries: list[Entry]) -> None:
        """Perhaps the disk takes now what is in memory."""
        try:
            await asyncio.to_thread(self._folder.append, self._folder.new_file(), entries)
            return
        except (OSError, TypeError) as error:
            self._note_disk(error)
        self._lose(len(entries))

    def _lose(self, count: int) -> None:
        self._lost += count
        logger.error("%d turns are lost: neither disk nor database takes them", count)


def _end(row: UsageRow, status: int, code: str, now: float) -> None:
    """Nobody will say any more how this turn went on."""
    row.status_code, row.error_code = status, code
    row.duration_ms = max(now - row.created_at, 0) * 1000


def _is_refused(error: Exception) -> bool:
    """Whether the database will never take it; else it may be away, or not as it should be."""
    return isinstance(error, (DataError, IntegrityError)) or not isinstance(error, DBAPIError)
