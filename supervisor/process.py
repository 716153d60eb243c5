"""Spawn, drain output, signal the group, reap. No orphan on any path."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hugind.supervisor import tasks

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_LAST_OUTPUT_S = 1
"""A process that left the group may hold the pipe open for ever."""


class ChildProcess:
    """One running process in a session of its own. Lives from `spawn` to `close`; closed by whoever spawned it."""

    def __init__(self, transport: asyncio.SubprocessTransport, events: _Events) -> None:
        self._transport = transport
        self._events = events
        self._pid = transport.get_pid()
        self._is_closed = False

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
        transport, events = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Events(on_output),
            *(sys.executable, "-I", "-S", _LAUNCH, *how, str(os.getpid()), *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
        return cls(transport, events)

    @property
    def pid(self) -> int:
        """Also the id of its process group."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """As `subprocess`: None while running, negative for a signal."""
        return self._transport.get_returncode()

    async def wait(self) -> int:
        """Wait for the end, and for the last of its output."""
        await self._events.exited.wait()
        try:
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await self._events.output_ended.wait()
        except TimeoutError:
            pass
        code = self.returncode
        assert code is not None
        return code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started. A process that is gone is no error."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # PermissionError: macOS, for a group of zombies
            pass

    async def close(self, grace_s: float) -> int:
        """End it: SIGTERM, `grace_s` to comply, SIGKILL to the group, reap. Returns the exit code. May be called twice.

        Cancelling does not leave the process: it is killed and reaped before the cancellation goes on.
        """
        if self._is_closed:
            return await self.wait()
        try:
            if self.returncode is None:
                self.signal_group(signal.SIGTERM)
                async with asyncio.timeout(grace_s):
                    await self._events.exited.wait()
        except TimeoutError:
            pass
        finally:
            self.signal_group(signal.SIGKILL)  # whatever of the group is left, grandchildren included
            code = await tasks.finish(self._reap(), f"reap {self.pid}")
        return code

    async def _reap(self) -> int:
        code = await self.wait()
        self._is_closed = True
        self._transport.close()
        return code


class _Events(asyncio.SubprocessProtocol):
    """What the event loop tells of a process. `asyncio.subprocess` would do, were it not for its `wait`.

    That one waits for the pipes too (Python 3.11 and 3.12): a process that another one outlives seemed to run on.
    """

    def __init__(self, on_output: Callable[[bytes], None]) -> None:
        self.exited = asyncio.Event()
        self.output_ended = asyncio.Event()
        self._on_output = on_output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._on_output(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.output_ended.set()

    def process_exited(self) -> None:
        self.exited.set()
