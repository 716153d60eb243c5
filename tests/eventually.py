"""Wait for a condition, with a deadline; the only place of the tests that sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PAUSE_S = 0.01


async def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Return once `condition()` is true.

    Raises:
        AssertionError: it was not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(_PAUSE_S)


def eventually_sync(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """As `eventually`, where no event loop runs."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(_PAUSE_S)
