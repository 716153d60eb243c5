"""A wait ends in the end, by the clock that is running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hugind.proxy.queue import Asker, Flow
from hugind.proxy.waits import Patience, describe
from hugind.supervisor.config import LimitsSection
from tests.eventually import eventually

FOREVER_S = 3600.0
AT_ONCE_S = 0.001


def limits(ready_s: float, loading_s: float) -> LimitsSection:
    """Bounds of a wait."""
    return LimitsSection(max_wait_s=ready_s, max_load_wait_s=loading_s)


@pytest.mark.parametrize("is_ready", [True, False])
async def test_the_clock_that_runs_ends_the_wait(is_ready: bool) -> None:
    """Each has its own bound."""
    bounds = (AT_ONCE_S, FOREVER_S) if is_ready else (FOREVER_S, AT_ONCE_S)
    patience = Patience(limits(*bounds), is_ready=is_ready)

    with pytest.raises(TimeoutError):
        await _wait(patience)


@pytest.mark.parametrize("is_ready", [True, False])
async def test_the_other_clock_begins_when_the_engine_changes(is_ready: bool) -> None:
    """Who could have waited for hours waits by the other bound from then on."""
    bounds = (FOREVER_S, AT_ONCE_S) if is_ready else (AT_ONCE_S, FOREVER_S)
    patience = Patience(limits(*bounds), is_ready=is_ready)
    asyncio.get_running_loop().call_soon(lambda: patience.turn(is_ready=not is_ready))

    with pytest.raises(TimeoutError):
        await _wait(patience)
    assert patience.is_ready is not is_ready


async def test_an_engine_that_comes_and_goes_gives_no_new_time() -> None:
    """What was used up of a clock stays used up."""
    patience = Patience(limits(0.1, 0.1), is_ready=False)

    with pytest.raises(TimeoutError):
        await _wait(patience, lambda: patience.turn(is_ready=not patience.is_ready))


async def test_a_wait_that_is_over_is_let_alone() -> None:
    """A change in the moment in which the time is up changes nothing any more."""
    patience = Patience(limits(FOREVER_S, AT_ONCE_S), is_ready=False)

    with pytest.raises(TimeoutError):
        await _wait(patience, at_last=lambda: patience.turn(is_ready=True))
    assert not patience.is_ready


async def _wait(
    patience: Patience,
    meanwhile: Callable[[], None] = lambda: None,
    at_last: Callable[[], None] = lambda: None,
) -> None:
    """Wait for what never comes, and do something `meanwhile`, again and again."""
    async with patience:
        try:
            await eventually(meanwhile)
        finally:
            at_last()


def test_who_it_is() -> None:
    """As the admin API shows it."""
    asker = Asker(Flow("ann", "kid"), band=3, request_id="req_1")
    told = describe(asker, "ses_1", since=0.0)

    assert told.pop("since_s") > 0
    assert told == {"request_id": "req_1", "user": "ann", "end_user": "kid", "session": "ses_1", "priority": 3}
