"""A wait ends in the end, by the clock that is running."""

from __future__ import annotations

import asyncio

import pytest

from hugind.proxy.queue import Asker, Flow
from hugind.proxy.waits import Patience, describe
from hugind.supervisor.config import LimitsSection

FOREVER_S = 3600.0
AT_ONCE_S = 0.001


def limits(*, ready_s: float, loading_s: float) -> LimitsSection:
    """Bounds of a wait."""
    return LimitsSection(max_wait_s=ready_s, max_load_wait_s=loading_s)


@pytest.mark.parametrize("is_ready", [True, False])
async def test_the_clock_that_runs_ends_the_wait(is_ready: bool) -> None:
    """Each has its own bound."""
    bounds = (
        limits(ready_s=AT_ONCE_S, loading_s=FOREVER_S) if is_ready else limits(ready_s=FOREVER_S, loading_s=AT_ONCE_S)
    )
    with pytest.raises(TimeoutError):
        async with Patience(bounds, is_ready=is_ready):
            await asyncio.Event().wait()


@pytest.mark.parametrize("is_ready", [True, False])
async def test_the_other_clock_begins_when_the_engine_changes(is_ready: bool) -> None:
    """Who could have waited for hours waits by the other bound from then on."""
    bounds = (
        limits(ready_s=FOREVER_S, loading_s=AT_ONCE_S) if is_ready else limits(ready_s=AT_ONCE_S, loading_s=FOREVER_S)
    )
    with pytest.raises(TimeoutError):
        async with Patience(bounds, is_ready=is_ready) as patience:
            patience.turn(is_ready=not is_ready)
            await asyncio.Event().wait()

    assert patience.is_ready is not is_ready


async def test_an_engine_that_comes_and_goes_gives_no_new_time() -> None:
    """What was used up of a clock stays used up."""
    turns = 0
    with pytest.raises(TimeoutError):
        async with Patience(limits(ready_s=0.05, loading_s=0.05), is_ready=False) as patience:
            for turns in range(1, 10_000):  # noqa: B007 - said below
                await asyncio.sleep(0.001)
                patience.turn(is_ready=turns % 2 == 1)

    assert 0 < turns < 10_000 - 1


async def test_a_wait_that_is_over_is_let_alone() -> None:
    """A change in the moment in which the time is up changes nothing any more."""
    with pytest.raises(TimeoutError):
        async with Patience(limits(ready_s=FOREVER_S, loading_s=AT_ONCE_S), is_ready=False) as patience:
            try:
                await asyncio.Event().wait()
            finally:
                patience.turn(is_ready=True)

    assert not patience.is_ready


def test_who_it_is() -> None:
    """As the admin API shows it."""
    asker = Asker(Flow("ann", "kid"), band=3, request_id="req_1")
    told = describe(asker, "ses_1", since=0.0)

    assert told.pop("since_s") > 0
    assert told == {"request_id": "req_1", "user": "ann", "end_user": "kid", "session": "ses_1", "priority": 3}
