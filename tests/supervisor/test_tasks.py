"""Tasks are awaited, and no cancellation is lost."""

from __future__ import annotations

import asyncio

import pytest

from hugind.supervisor import tasks


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def test_cancel_waits_for_the_end() -> None:
    """`cancel` returns when the task has cleaned up."""
    is_clean = False

    async def work() -> None:
        nonlocal is_clean
        try:
            await _for_ever()
        finally:
            await asyncio.sleep(0)
            is_clean = True

    task = tasks.start(work(), "work")
    await asyncio.sleep(0)
    await tasks.cancel(task)

    assert is_clean


async def test_cancel_of_a_finished_task() -> None:
    """`cancel` of a task that is done does nothing."""

    async def work() -> int:
        return 1

    task = tasks.start(work(), "work")
    await task
    await tasks.cancel(task)

    assert task.result() == 1


async def test_cancel_tells_what_went_wrong() -> None:
    """What a task raises on its way out is raised by `cancel`."""

    async def work() -> None:
        try:
            await _for_ever()
        finally:
            raise LookupError("on the way out")

    task = tasks.start(work(), "work")
    await asyncio.sleep(0)
    with pytest.raises(LookupError, match="on the way out"):
        await tasks.cancel(task)


async def test_cancel_is_cancelled() -> None:
    """Who is cancelled while it cancels is cancelled."""
    may_end = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await _for_ever()
        except asyncio.CancelledError:
            while not may_end.is_set():
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    may_end.set()
            raise

    task = tasks.start(slow_to_end(), "slow to end")
    await asyncio.sleep(0)
    caller = tasks.start(tasks.cancel(task), "caller")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])

    assert task.cancelled()
    assert caller.cancelled()


async def test_finish_survives_cancellation() -> None:
    """`finish` ends its work first, however often its caller is cancelled, then passes the cancellation on."""
    gate, is_done = asyncio.Event(), False

    async def work() -> int:
        nonlocal is_done
        await gate.wait()
        is_done = True
        return 1

    caller = tasks.start(tasks.finish(work(), "work"), "caller")
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    was_done = is_done
    gate.set()
    await asyncio.wait([caller])

    assert not was_done
    assert is_done
    assert caller.cancelled()


async def test_finish_gives_the_result() -> None:
    """`finish` returns what its work returned, or raises what it raised."""

    async def work() -> int:
        return 1

    async def fail() -> int:
        raise LookupError

    assert await tasks.finish(work(), "work") == 1
    with pytest.raises(LookupError):
        await tasks.finish(fail(), "work")
