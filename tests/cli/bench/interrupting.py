"""A bench that is interrupted, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil
import pytest

from hugind.supervisor.slot_folder import SHARED_MEMORY


def left_in_memory(pid: int) -> list[Path]:
    """What a bench has, or has left, in shared memory."""
    return list(Path(SHARED_MEMORY).glob(f"hugind-bench-{pid}-*"))


def interrupt(argv: Sequence[str], word: str, folder: Path) -> None:
    """Ctrl-C once it has said `word`: its processes end, and what they wrote is removed."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment) as bench:
        try:
            assert bench.stderr is not None
            _read_until(bench.stderr, word)
            started = psutil.Process(bench.pid).children(recursive=True)
            had_memory = left_in_memory(bench.pid)
            bench.send_signal(signal.SIGINT)
            code = bench.wait(30)
        finally:
            bench.kill()

    assert len(started) >= 3
    assert had_memory or not Path(SHARED_MEMORY).exists()
    assert code == 130
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert [] == list(folder.iterdir())
    assert [] == left_in_memory(bench.pid)


def _read_until(lines: IO[str], word: str) -> None:
    """Returns at the line that holds `word`; the test's own timeout is the deadline."""
    for line in lines:
        if word in line:
            return
    pytest.fail(f"it ended without a word of {word!r}")
