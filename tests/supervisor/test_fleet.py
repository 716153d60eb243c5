"""Engines that start together and end together, on the stand-in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from tests.eventually import eventually
from tests.supervisor.watched import quick_config


@pytest.fixture
def engines(tmp_path: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> dict[str, Engine]:
    """Two engines of one worker each, one of them slow."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    configs = {"quick": quick_config(model), "slow": quick_config(model, "--slow-load", "0.5")}
    return {name: Engine(name, config, standin, home, folder) for name, config in configs.items()}


def _pids(fleet: Fleet) -> list[int]:
    return [worker.pid for engine in fleet.engines.values() for worker in engine.status().workers if worker.pid]


async def test_ready_when_all_are(engines: dict[str, Engine]) -> None:
    """A fleet is ready when each of its engines is, and leaves no process."""
    async with Fleet(engines) as fleet:
        await eventually(lambda: fleet.engines["quick"].state == "ready")
        early = fleet.is_ready, fleet.engines["slow"].state
        await eventually(lambda: fleet.is_ready)
        pids = _pids(fleet)

    assert early == (False, "loading")
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))
    assert {engine.state for engine in engines.values()} == {"stopped"}


async def test_an_error_inside(engines: dict[str, Engine]) -> None:
    """An error inside the block ends all engines, and comes out."""
    pids: list[int] = []

    async def serve() -> None:
        async with Fleet(engines) as fleet:
            await eventually(lambda: fleet.is_ready)
            pids.extend(_pids(fleet))
            raise LookupError("inside")

    with pytest.raises(ExceptionGroup) as caught:
        await serve()

    assert caught.group_contains(LookupError, match="inside")
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


async def test_no_engines() -> None:
    """A fleet without engines is ready."""
    async with Fleet({}) as fleet:
        assert fleet.is_ready


async def test_exchange_touches_only_what_differs(
    engines: dict[str, Engine], standin: EngineBinary, home: Home, folder: RunFolder
) -> None:
    """One engine stays, one is replaced, one is new: the first keeps its process, the old one's is gone."""
    quick = engines["quick"]
    async with Fleet(engines) as fleet:
        await eventually(lambda: fleet.is_ready)
        (kept,), (old,) = _pids_of(quick), _pids_of(engines["slow"])
        slow = Engine("slow", quick.config, standin, home, folder)
        more = Engine("more", quick.config, standin, home, folder)
        await fleet.exchange({"quick": quick, "slow": slow, "more": more})
        old_is_there = psutil.pid_exists(old)
        await eventually(lambda: fleet.is_ready)
        pids = _pids(fleet)
        await fleet.exchange({"more": more})
        left = _pids(fleet)

    assert not old_is_there
    assert engines["slow"].has_ended
    assert pids[0] == kept
    assert len(pids) == 3
    assert left == [pids[2]]
    assert not any(map(psutil.pid_exists, pids))


async def test_exchange_while_ending(
    engines: dict[str, Engine], standin: EngineBinary, home: Home, folder: RunFolder
) -> None:
    """What would have come is not started when the fleet ends meanwhile."""
    quick = engines["quick"]
    late = Engine("late", quick.config, standin, home, folder)
    async with asyncio.TaskGroup() as group:
        async with Fleet(engines) as fleet:
            await eventually(lambda: fleet.is_ready)
            quick.workers[0].enter()
            exchange = group.create_task(fleet.exchange({"late": late}))
            await eventually(lambda: quick.state == "draining")
            quick.workers[0].leave()
        await exchange

    assert late.state == "stopped"
    assert _pids(fleet) == []


def _pids_of(engine: Engine) -> list[int]:
    return [worker.pid for worker in engine.status().workers if worker.pid]
