"""A worker's output: kept in a rotating file, with the last lines at hand."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections import deque
from pathlib import Path

from hugind.supervisor.paths import FILE_MODE

logger = logging.getLogger(__name__)

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 3
TAIL_LINES = 40
MAX_PARTIAL = 4096
"""Kept of a line without an end."""

_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([A-Z]) ")
_TELLING = re.compile(
    r"error|failed|invalid|unable|couldn't|cannot|can't|unknown|not (found|a|supported)|no such|exceed|abort|denied",
    re.IGNORECASE,
)
_CONSEQUENCE = re.compile(
    r"exiting due to|cleaning up|common_fit_params: encountered|load_from_file_impl: failed|common_init_.*: failed"
    r"|load_model: failed to load model|the engine's lines above say why",
)
"""Lines that only pass on that something failed; the cause stands before them."""


class WorkerLog:
    """Takes a worker's output as it comes. Lives as long as its worker, across restarts; closed by it."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        self.path = path
        self.bytes_written = 0
        """Ever; a number that moves is a sign of life."""
        self._max_bytes = max_bytes
        self._backups = backups
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        self._descriptor: int | None = None
        self._size = 0
        self._is_broken = False

    def write(self, data: bytes) -> None:
        """Append `data`, rotating first if the file is full. Blocks on the page cache only. A full disk loses lines."""
        self.bytes_written += len(data)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()[-MAX_PARTIAL:]
        self._tail.extend(line.decode("utf-8", "replace").rstrip() for line in lines if line.strip())
        self._append(data)

    def note(self, text: str) -> None:
        """A line of the supervisor's own, marked as such; not part of `tail`."""
        start = "\n" if self._partial else ""
        self._append(f"{start}[hugind] {text}\n".encode())

    def begin(self) -> None:
        """Forget the lines of the process before."""
        self._tail.clear()
        self._partial = b""

    def tail(self, count: int = TAIL_LINES) -> list[str]:
        """The last lines of the current process, oldest first."""
        partial = self._partial.decode("utf-8", "replace").strip()
        return [*self._tail, *([partial] if partial else [])][-count:]

    def close(self) -> None:
        """Release the file. Writing again opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        try:
            if self._descriptor is None or self._size + len(data) > self._max_bytes:
                self._rotate()
            assert self._descriptor is not None
            self._size += os.write(self._descriptor, data)
        except OSError as error:
            # Who stops reading a worker's output because the disk is full stops the worker.
            if not self._is_broken:
                logger.warning("%s cannot be written: %s", self.path, error)
            self._is_broken = True
        else:
            self._is_broken = False

    def _rotate(self) -> None:
        if self._descriptor is not None:
            self.close()
            for i in range(self._backups, 1, -1):
                older = self._numbered(i - 1)
                if older.exists():
                    older.replace(self._numbered(i))
            self.path.replace(self._numbered(1))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        self._size = os.fstat(self._descriptor).st_size
        if self._size >= self._max_bytes:
            self._rotate()

    def _numbered(self, i: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{i}")


def telling_lines(tail: list[str], count: int = 3) -> list[str]:
    """The lines that say why: those marked or worded as errors, the cause first. None where none is.

    llama-server marks errors with `E` after a time stamp; what follows the first ones only passes the failure on.
    """
    causes: list[str] = []
    for line in tail:
        stamp = _STAMP.match(line)
        text = " ".join((line[stamp.end() :] if stamp else line).split())
        is_error = stamp.group(1) == "E" if stamp else _TELLING.search(text)
        if is_error and not _CONSEQUENCE.search(text) and text not in causes:
            causes.append(text)
    return causes[:count]


def describe_exit(code: int, tail: list[str]) -> str:
    """How a process ended, and its own words: those about an error, else for a plain exit the last."""
    words = telling_lines(tail) or (tail[-1:] if code >= 0 else [])
    said = f" ({'; '.join(words)})" if words else ""
    if code >= 0:
        return f"ended with exit code {code}{said}"
    try:
        return f"died by {signal.Signals(-code).name}{said}"
    except ValueError:
        return f"died by signal {-code}{said}"
