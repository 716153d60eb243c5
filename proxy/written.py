"""What a blocking function writes into a file, as an async stream."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from typing import Any, BinaryIO, cast

from hugind.supervisor import tasks

_AHEAD = 4
"""Writes that may wait for their reader."""


async def written(write: Callable[[BinaryIO], None]) -> AsyncGenerator[bytes, None]:
    """Yield what `write` writes, which runs in a thread, no faster than it is read. To be closed in any case.

    What `write` raises is raised here, behind what it wrote. Closed early, its next write raises BrokenPipeError, and
    closing waits for that.
    """
    pipe = _Pipe(asyncio.get_running_loop())
    writer = tasks.start(asyncio.to_thread(pipe.run, write), "write a stream")
    writer.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody is left to hear it
    try:
        while chunk := await pipe.queue.get():
            yield chunk
        await writer
    finally:
        pipe.shut()
        await asyncio.wait([writer])


class _Pipe(io.RawIOBase):
    """Written in a thread, read on the loop. Lives as long as one stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)
        """The last entry is empty."""
        self._loop = loop
        self._is_shut = False

    def run(self, write: Callable[[BinaryIO], None]) -> None:
        """In the thread."""
        try:
            write(cast("BinaryIO", self))
        finally:
            self._put(b"")

    def shut(self) -> None:
        """On the loop: nobody reads any more."""
        self._is_shut = True
        while not self.queue.empty():
            self.queue.get_nowait()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._is_shut:
            raise BrokenPipeError("nobody reads any more")
        if data:
            self._put(bytes(data))
        return len(data)

    def _put(self, data: bytes) -> None:
        if not self._is_shut:
            asyncio.run_coroutine_threadsafe(self.queue.put(data), self._loop).result()
