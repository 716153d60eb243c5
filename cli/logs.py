"""`hugind server logs`: the end of a log, and what is added to it."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from pathlib import Path

from hugind.cli import output
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home

POLL_S = 0.2


def show_logs(home: Home, config: str | None, *, lines: int, follow: bool) -> None:
    """Print the last lines; with `follow`, go on until Ctrl-C. Blocks.

    Raises:
        HugindError: there is no such log.
    """
    paths = _worker_logs(home, config) if config else [home.logs / "gateway.log"]
    paths = [path for path in paths if path.exists()]
    if not paths:
        what = f"'{config}' has" if config else "the gateway has"
        raise HugindError(f"{what} written no log yet", hint=f"logs are kept in {home.logs}")
    tails = [_Tail(path, prefix=f"{path.stem}: " if len(paths) > 1 else "") for path in paths]
    try:
        for tail in tails:
            tail.print_last(lines)
        while follow:
            for tail in tails:
                tail.print_new()
            time.sleep(POLL_S)
    finally:
        for tail in tails:
            tail.close()


def _worker_logs(home: Home, config: str) -> list[Path]:
    mine = re.compile(re.escape(config) + r"-\d+\.log")
    return sorted(path for path in home.logs.glob("*.log") if mine.fullmatch(path.name))


class _Tail:
    """A log file that is read on, across its rotation."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._file = path.open(encoding="utf-8", errors="replace")

    def print_last(self, count: int) -> None:
        for line in deque(self._file, maxlen=count):
            self._print(line)

    def print_new(self) -> None:
        for line in self._file:
            self._print(line)
        if self._path.exists() and self._path.stat().st_ino != self._inode():
            self._file.close()
            self._file = self._path.open(encoding="utf-8", errors="replace")

    def close(self) -> None:
        self._file.close()

    def _inode(self) -> int:
        return os.fstat(self._file.fileno()).st_ino

    def _print(self, line: str) -> None:
        output.print_text(self._prefix + line.rstrip("\n"))
