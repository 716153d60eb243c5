"""Usage on disk: what is not in the database yet, and what was running, in a folder for each process.

    <home>/usage/<pid>-<random>.lock       held as long as the process lives
    <home>/usage/<pid>-<random>/           mode 0700, every file 0600
        00000001.jsonl                     rows that have ended: [row, what was asked, what was answered] a line
        running.json                       when it was written, and the rows of the turns that ran then

Nothing waits for the disk: a process that is killed loses nothing that it wrote here, a machine that loses power may.
What a process leaves behind is taken over by the next one that looks. Everything in here blocks.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
from filelock import FileLock, Timeout

from hugind.proxy.records.usage import Entry, UsageRow, storable, tidy
from hugind.supervisor.paths import DIRECTORY_MODE, FILE_MODE

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 23

_RUNNING = "running.json"
_NAME = re.compile(r"\d+-[0-9a-f]+")


class UsageFolder:
    """The folder of one process, and its lock. Lives until `close` or `remove`."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._number = 0

    def new_file(self) -> Path:
        """Where rows may be written; never the same twice."""
        self._number += 1
        return self.path / f"{self._number:08}.jsonl"

    def append(self, file: Path, entries: Iterable[Entry]) -> None:
        """Write rows to the end of a file: all of them or, as far as the disk lets us, none.

        Raises:
            OSError: no room, or no such folder any more.
        """
        data = b"".join(_to_line(entry) for entry in entries)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            size = os.fstat(descriptor).st_size
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def write_running(self, rows: list[UsageRow], now: float) -> None:
        """What runs at `now`; it replaces what was said before.

        Raises:
            OSError: no room, or no such folder any more. What was said before stays.
        """
        file = self.path / _RUNNING
        temporary = self.path / f".{_RUNNING}"
        if not rows:
            file.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            return
        for row in rows:
            tidy(row)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(orjson.dumps([now, rows]))
        temporary.replace(file)

    def read_running(self) -> tuple[float, list[UsageRow]]:
        """When it was written, and what ran then. What cannot be read is told in the log and left out."""
        try:
            now, given = orjson.loads((self.path / _RUNNING).read_bytes())
            return now, [UsageRow(**row) for row in given]
        except FileNotFoundError:
            return 0, []
        except (OSError, ValueError, TypeError) as error:
            logger.warning("what ran is not known: %s cannot be read: %s", self.path / _RUNNING, error)
            return 0, []

    def files(self) -> list[Path]:
        """Every file of rows, the oldest first."""
        return sorted(self.path.glob("*.jsonl"))

    def close(self) -> bool:
        """Give the folder up; what is in it stays for the next process. Returns whether nothing was."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            self._lock.release()
            return False
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()
        return True


def make_folder(parent: Path) -> UsageFolder:
    """A new folder for this process.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
    lock = _lock_of(path)
    lock.acquire(blocking=False)  # before the folder is there: nobody ever sees it without
    try:
        path.mkdir(mode=DIRECTORY_MODE)
    except BaseException:
        lock.release()
        raise
    return UsageFolder(path, lock)


def take_over(parent: Path) -> list[UsageFolder]:
    """The folders of processes that have ended, which are ours now: nobody else gets them as long as we live."""
    taken = []
    for path in sorted(path for path in parent.iterdir() if _NAME.fullmatch(path.name)):
        lock = _lock_of(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        except OSError as error:
            logger.warning("what is in %s cannot be taken over: %s", path, error)
            continue
        folder = UsageFolder(path, lock)
        if path.is_dir():
            taken.append(folder)
        else:
            folder.close()  # somebody else was faster, and is done
    return taken


def read_entries(file: Path, offset: int, at_most: int) -> tuple[list[Entry], int, int]:
    """Up to `at_most` lines from `offset` on: what they hold, how many cannot be read, and where the next one begins.

    What cannot be read is told in the log: the last line, where the process was killed while it wrote. If the next one
    begins at `offset`, this was the end. After `CHUNK_BYTES` there are fewer, but for one.

    Raises:
        OSError: the file cannot be read.
    """
    entries: list[Entry] = []
    broken = 0
    with file.open("rb") as opened:
        opened.seek(offset)
        for line in _lines(opened, at_most):
            offset += len(line)
            try:
                entries.append(_to_entry(line))
            except (ValueError, TypeError) as error:
                broken += 1
                logger.warning("a turn is lost: a line of %s cannot be read: %s", file, error)
    return entries, broken, offset


def count_lines(file: Path) -> int:
    """How many rows a file holds."""
    with file.open("rb") as opened:
        return sum(1 for _ in opened)


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name}.lock"), mode=FILE_MODE, thread_local=False)


def _lines(opened: BinaryIO, at_most: int) -> Iterator[bytes]:
    size = 0
    for _ in range(at_most):
        line = opened.readline()
        size += len(line)
        if not line:
            return
        yield line
        if size >= CHUNK_BYTES:
            return


def _to_line(entry: Entry) -> bytes:
    row, content = entry
    tidy(row)
    return orjson.dumps([row, *([storable(text) for text in content] if content else (None, None))]) + b"\n"


def _to_entry(line: bytes) -> Entry:
    row, request, response = orjson.loads(line)
    return UsageRow(**row), None if request is None else (request, response)
