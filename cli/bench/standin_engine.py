"""The stand-in's slots: who computes, who waits, and what each slot remembers."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from hugind.cli.bench.standin_flags import Options

if TYPE_CHECKING:
    from hugind.cli.bench.standin_generation import Generation


class Sink(Protocol):
    """Where an answer goes: the connection that asked."""

    is_paused: bool
    """The client does not read; call no `stream` until `on_resume`."""
    on_resume: Callable[[], None] | None

    def reply(self, status: int, body: bytes, content_type: str = ...) -> None: ...
    def stream(self, *events: bytes) -> None: ...
    def end_stream(self, *events: bytes) -> None: ...
    def unsent_bytes(self) -> int: ...


class Slot:
    """One KV sequence: what it holds and who computes on it. Lives as long as the process."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.text = b""
        self.job: Job | None = None
        self.last: Generation | None = None


class Job(Protocol):
    """Work for one slot."""

    pinned: int | None

    def start(self, slot: Slot) -> None:
        """Begin; the job gives the slot back with `Engine.release`, perhaps before this returns."""

    def abandon(self) -> None:
        """The client has left."""


class Engine:
    """All slots of one stand-in, and the queue in front of them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.slots = [Slot(i) for i in range(options.slots)]
        self.deferred: deque[Job] = deque()
        self._idle = {slot.index: slot for slot in self.slots}
        """The one used least recently comes first."""
        self.is_loading = True
        self.is_hung = options.faults.hang_after == 0
        self.totals = {"prompt": 0, "cached": 0, "predicted": 0}
        self.restores = 0
        self._is_dispatching = False

    def submit(self, job: Job) -> None:
        """Start `job` on its slot, or have it wait for its turn."""
        self.deferred.append(job)
        self._dispatch()

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun. False if it has."""
        try:
            self.deferred.remove(job)
        except ValueError:
            return False
        return True

    def release(self, slot: Slot) -> None:
        slot.job = None
        self._idle[slot.index] = slot
        self._dispatch()

    def crash(self, words: str) -> NoReturn:
        sys.stderr.write(f"{words}\n")
        sys.stderr.flush()
        os.abort()

    def is_anyone_else_computing(self, slot: Slot) -> bool:
        return len(self._idle) < len(self.slots) - (slot.job is not None)

    def _dispatch(self) -> None:
        if self._is_dispatching:  # a job ended while it was being started
            return
        self._is_dispatching = True
        try:
            while self.deferred and (found := self._next()):
                job, slot = found
                self.deferred.remove(job)
                del self._idle[slot.index]
                slot.job = job
                job.start(slot)
        finally:
            self._is_dispatching = False

    def _next(self) -> tuple[Job, Slot] | None:
        """The first who waits and whose slot is free; without a wish, the slot that was used least recently."""
        for job in self.deferred:
            for slot in self._idle.values() if job.pinned is None else (self.slots[job.pinned],):
                if slot.job is None:
                    return job, slot
        return None


class Brief:
    """Work that takes no time once its slot is free: a save, a restore, an erase, an embedding."""

    def __init__(self, engine: Engine, pinned: int | None, work: Callable[[Slot], None]) -> None:
        self.pinned = pinned
        self._engine = engine
        self._work = work

    def start(self, slot: Slot) -> None:
        try:
            self._work(slot)
        finally:
            self._engine.release(slot)

    def abandon(self) -> None:
        """It had not begun: it never will, and a save leaves no file."""
        self._engine.withdraw(self)


def pinned_slot(value: Any, slots: int) -> int | None:
    """The slot that an `id_slot` names: taken modulo the slot count, whatever it is."""
    if value is None or value == -1:
        return None
    return int(value) % slots if isinstance(value, int | float) else 0
