"""Tasks that somebody awaits: the only place that may call `asyncio.create_task`.

Where a `TaskGroup` fits, use it. These serve the cases where the owner is an object with a `close` of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def start(work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
    """Start a task. The caller owns it: awaits it, or ends it with `cancel`."""
    return asyncio.create_task(work, name=name)  # noqa: TID251 - this is the place


async def cancel(task: asyncio.Task[Any]) -> None:
    """End a task and wait until it has cleaned up. What it raised on the way out is raised here."""
    caller = asyncio.current_task()
    asked_before = caller.cancelling() if caller else 0
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled() or (caller and caller.cancelling() > asked_before):
            raise  # it was us who were cancelled, perhaps both


async def finish(work: Coroutine[Any, Any, Result], name: str) -> Result:
    """Run `work` to its end even if the caller is cancelled meanwhile; the cancellation is raised after it."""
    task = start(work, name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    result = task.result()
    if cancelled:
        raise cancelled
    return result
