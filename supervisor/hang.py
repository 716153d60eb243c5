"""Does a worker that gives no answer compute, or does it hang? Pure: what was seen is passed in.

The pinned builds answer a look in the middle of a batch; builds that people bring may answer only between two, and one
batch of a long prompt takes minutes on a slow CPU. So silence alone proves nothing: a process that hangs uses no CPU,
and one that spins uses it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPUTING_CPU_SHARE = 0.1
"""Of one core. A stopped process has 0, one that waits for answers to be fetched stays below 0.01."""


@dataclass(frozen=True)
class Look:
    """What one look at a ready worker saw. The counters count from its start."""

    at: float
    has_answered: bool
    bytes_relayed: int
    cpu_s: float


class HangWatch:
    """Judges the looks at one ready worker, in order. Lives as long as the worker is ready."""

    def __init__(self, first: Look, max_failures: int, compute_stall_s: float) -> None:
        self.failures = 0
        """Looks in a row without an answer, without progress and without computation."""
        self._last = first
        self._sign_at = first.at
        self._max_failures = max_failures
        self._compute_stall_s = compute_stall_s

    def judge(self, look: Look) -> str | None:
        """Why the worker must be ended after this look, or None."""
        last, self._last = self._last, look
        if look.has_answered or look.bytes_relayed != last.bytes_relayed:
            self.failures, self._sign_at = 0, look.at
            return None
        if look.cpu_s - last.cpu_s >= COMPUTING_CPU_SHARE * (look.at - last.at):
            self.failures = 0
            silent_s = look.at - self._sign_at
            return f"no answer for {silent_s:.0f} s of computing" if silent_s > self._compute_stall_s else None
        self.failures += 1
        if self.failures < self._max_failures:
            return None
        return f"no answer to {self.failures} looks in a row and no progress"
