"""A process that a bench starts: its output is kept, and it is waited for until it serves."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.process import ChildProcess

POLL_S = 0.05
LAST_WORDS = 1000
_NOT_FOR_BENCHES = ("LLAMA_", "POSTGRES_AUTH_", "DATABASE_URL")
"""How the names of variables begin that point at somebody's own key, limits, address or database."""


async def start_child(
    stack: AsyncExitStack,
    argv: Sequence[str],
    *,
    name: str,
    folder: Path,
    env: Mapping[str, str],
    is_ready: Callable[[], Awaitable[bool]],
    timeout_s: float,
    stop_s: float,
) -> ChildProcess:
    """Start one child, its output in `<folder>/<name>.log`, and wait until it is ready. `stack` ends it.

    `stop_s`: how long it may take to end before it is killed.

    Raises:
        HugindError: it ended, or was not ready in time; the message holds its last words.
    """
    log = stack.enter_context((folder / f"{name}.log").open("ab", buffering=0))
    tail: deque[bytes] = deque(maxlen=20)

    def keep(output: bytes) -> None:
        log.write(output)
        tail.append(output)

    child = await ChildProcess.spawn(argv, env=env, on_output=keep)
    stack.push_async_callback(child.close, stop_s)
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_ready():
                if child.returncode is not None:
                    words = b"".join(tail).decode("utf-8", "replace").strip()[-LAST_WORDS:]
                    raise HugindError(f"{name} ended with {child.returncode} instead of starting: {words}")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise HugindError(f"{name} was not ready within {timeout_s:g} s") from None
    return child


def bench_environment(home: Home, **more: str) -> dict[str, str]:
    """Ours, for what runs in `home`: it is to know no key, no limits and no database from elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_BENCHES)}
    return {**kept, "HUGIND_HOME": str(home.root), **more}
