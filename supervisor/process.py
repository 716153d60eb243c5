"""Spawn, drain output, signal the group, reap. No orphan on any path."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hugind.supervisor import tasks

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_OUTPUT_CHUNK = 65536


class ChildProcess:
    """One running process in a session of its own. Lives from `spawn` to `close`; closed by whoever spawned it."""

    def __init__(self, process: asyncio.subprocess.Process, drain: asyncio.Task[None]) -> None:
        self._process = process
        self._drain = drain

    @classmethod
    async def spawn(
        cls, argv: Sequence[str], *, env: Mapping[str, str], on_output: Callable[[bytes], None], watch: bool = False
    ) -> ChildProcess:
        """Start `argv`. Its output, both streams in one, goes to `on_output` until it ends.

        The child gets a session of its own (Ctrl-C reaches only us) and ends when we do, SIGKILL included
        (`launch.py`; `watch` chooses the portable way there). Must be called from the main thread: the kernel's
        parent-death signal follows the thread that spawned.
        """
        how = ["--watch"] if watch else []
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _LAUNCH, *how, str(os.getpid()), *argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
        return cls(process, tasks.start(_drain(process, on_output), f"output of {process.pid}"))

    @property
    def pid(self) -> int:
        """Also the id of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As `subprocess`: None while running, negative for a signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end, and for the last of its output."""
        code = await self._process.wait()
        await asyncio.wait([self._drain], timeout=1)  # a grandchild may hold the pipe open
        return code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started. A process that is gone is no error."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # PermissionError: macOS, for a group of zombies
            pass

    async def close(self, grace_s: float) -> int:
        """End it: SIGTERM, `grace_s` to comply, SIGKILL to the group, reap. Returns the exit code.

        Cancelling does not leave the process: it is killed and reaped before the cancellation goes on.
        """
        try:
            if self.returncode is None:
                self.signal_group(signal.SIGTERM)
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.signal_group(signal.SIGKILL)  # whatever of the group is left, grandchildren included
            code = await tasks.finish(self._reap(), f"reap {self.pid}")
        return code

    async def _reap(self) -> int:
        code = await self._process.wait()
        await asyncio.wait([self._drain], timeout=1)
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)
        if self._process.stdin:
            self._process.stdin.close()
        return code


async def _drain(process: asyncio.subprocess.Process, on_output: Callable[[bytes], None]) -> None:
    assert process.stdout is not None
    while data := await process.stdout.read(_OUTPUT_CHUNK):
        on_output(data)
