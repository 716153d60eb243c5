"""One download however many wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from hugind.proxy.pulls import Pulls, Step
from hugind.supervisor import tasks
from hugind.supervisor.models.download_plan import DownloadError, Plan
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.repository import parse_reference
from hugind.supervisor.paths import Home
from tests.eventually import eventually
from tests.hub import LocalHub, serving_hub

DATA = bytes(range(256)) * 2048


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with serving_hub() as hub:
        hub.add("maker/tiny-GGUF", {"tiny-Q4_0.gguf": DATA, "mmproj-F16.gguf": b"GGUF"})
        yield hub


@pytest.fixture
async def pulls(tmp_path: Path) -> Pulls:
    return Pulls(Home(tmp_path))


async def planned(pulls: Pulls, hub: LocalHub) -> tuple[Plan, Hub]:
    ours = Hub(endpoint=hub.url)
    return await pulls.plan(parse_reference("maker/tiny-GGUF"), ours), ours


async def collect(steps: AsyncGenerator[Step, None]) -> list[Step]:
    return [step async for step in steps]


async def test_two_share_one(tmp_path: Path, hub: LocalHub, pulls: Pulls) -> None:
    """Each file is fetched once, and both are told of all of it."""
    hub.held_after = 100_000
    plan, ours = await planned(pulls, hub)
    waiting = [tasks.start(collect(pulls.follow(plan, ours)), "follow") for _ in range(2)]
    await eventually(hub.is_holding.is_set)
    hub.release()
    told = await asyncio.gather(*waiting)

    assert 2 == len(hub.fetched())
    assert DATA == (tmp_path / "maker" / "tiny-GGUF" / "tiny-Q4_0.gguf").read_bytes()
    for steps in told:
        assert ("tiny-Q4_0.gguf", len(DATA), len(DATA)) == (steps[-1].name, steps[-1].done, steps[-1].total)
        assert {"tiny-Q4_0.gguf", "mmproj-F16.gguf"} == {step.name for step in steps}


async def test_the_last_to_leave_ends_it(tmp_path: Path, hub: LocalHub, pulls: Pulls) -> None:
    """One who stays keeps it going; whoever comes after its end begins another."""
    hub.held_after = 100_000
    plan, ours = await planned(pulls, hub)
    leaving, staying = (tasks.start(collect(pulls.follow(plan, ours)), "follow") for _ in range(2))
    await eventually(hub.is_holding.is_set)
    leaving.cancel()
    await asyncio.wait([leaving])
    is_going_on = not staying.done()
    staying.cancel()
    hub.release()
    await asyncio.wait([staying])
    again = await collect(pulls.follow(plan, ours))

    assert is_going_on
    assert leaving.cancelled()
    assert staying.cancelled()
    assert len(DATA) == again[-1].done
    assert DATA == (tmp_path / "maker" / "tiny-GGUF" / "tiny-Q4_0.gguf").read_bytes()


async def test_who_stops_listening_leaves(hub: LocalHub, pulls: Pulls) -> None:
    """As when its client goes away between two lines."""
    hub.held_after = 100_000
    plan, ours = await planned(pulls, hub)
    async with aclosing(pulls.follow(plan, ours)) as steps:
        await anext(steps)
        hub.release()
    told = await collect(pulls.follow(plan, ours))

    assert len(DATA) == told[-1].done


async def test_all_hear_why_it_failed(hub: LocalHub, pulls: Pulls) -> None:
    """Who joins later begins anew."""
    hub.held_after = 100_000
    plan, ours = await planned(pulls, hub)
    hub.repos["maker/tiny-GGUF"].sha256["tiny-Q4_0.gguf"] = "0" * 64
    wrong = await pulls.plan(parse_reference("maker/tiny-GGUF"), ours)
    waiting = [tasks.start(collect(pulls.follow(wrong, ours)), "follow") for _ in range(2)]
    await eventually(hub.is_holding.is_set)
    hub.release()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    right = await collect(pulls.follow(plan, ours))

    assert ["damaged", "damaged"] == [failure.problem for failure in failures if isinstance(failure, DownloadError)]
    assert len(DATA) == right[-1].done
