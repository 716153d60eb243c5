"""Engines that come when they are needed and leave for others, on the stand-in."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.models.sizing import Footprint
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.worker import Worker, WorkerState
from tests.eventually import eventually
from tests.supervisor.watched import quick_config

ON_DEMAND = FleetRules(is_on_demand=True, keep_alive_s=300)
ONE_ON_DEMAND = replace(ON_DEMAND, max_resident=1)


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


async def test_one_load_for_all_who_wait(nest: Nest) -> None:
    """However many need an engine, it is loaded once; and nothing is before somebody does."""
    engine = nest.engine("a")
    async with Fleet({"a": engine, "b": nest.engine("b")}, ON_DEMAND) as fleet:
        before = fleet.is_ready, engine.state, fleet.residency(engine)
        uses = [fleet.use(engine) for _ in range(20)]
        await eventually(lambda: engine.state == "ready")
        during = fleet.residency(engine)
        for use in [*uses, *uses]:
            use.end()
        after = fleet.residency(engine)

        assert "unloaded" == fleet.engines["b"].state
    assert before[:2] == (True, "unloaded")
    assert not before[2].is_loaded
    assert (during.is_loaded, during.refs, after.refs) == (True, 20, 0)
    assert during.load_s
    assert nest.starts == {"a": 1}


async def test_who_gives_up_before_it_comes(nest: Nest) -> None:
    """An engine that nobody needs any more is not loaded when there is room at last."""
    first, second = nest.engine("a"), nest.engine("b")
    async with Fleet({"a": first, "b": second}, ONE_ON_DEMAND) as fleet:
        with fleet.use(first):
            await eventually(lambda: first.state == "ready")
            with fleet.use(second):
                await _ticks()
        await _ticks()

        assert ("ready", "unloaded") == (first.state, second.state)
        assert await fleet.unload("b")
    assert {"a": 1} == nest.starts


@pytest.mark.parametrize("keep_alive_s", [[0.0], [3600.0, None, 0.0]])
async def test_the_last_word_on_staying_counts(nest: Nest, keep_alive_s: list[float | None]) -> None:
    """Who says nothing changes nothing; 0 means at once."""
    engine = nest.engine("a")
    async with Fleet({"a": engine}, ON_DEMAND) as fleet:
        uses = [fleet.use(engine, said) for said in keep_alive_s]
        await eventually(lambda: engine.state == "ready")
        in_use = fleet.residency(engine).expires_at
        for use in uses:
            use.end()
        await eventually(lambda: engine.state == "unloaded")

        assert in_use is None
        fleet.use(engine).end()  # what was said is forgotten with the engine
        await fleet.load("a")
        assert math.isclose(time.time() + 300, fleet.residency(engine).expires_at or 0, abs_tol=60)


async def test_an_idle_engine_leaves_by_itself(nest: Nest) -> None:
    """After its time, and one that shall stay for ever never."""
    short, forever = nest.engine("a"), nest.engine("b")
    async with Fleet({"a": short, "b": forever}, replace(ON_DEMAND, keep_alive_s=0.2)) as fleet:
        fleet.use(forever, math.inf).end()
        await fleet.load("b")
        fleet.use(forever, math.inf).end()
        await fleet.load("a")
        await eventually(lambda: short.state == "unloaded")

        assert ("ready", None) == (forever.state, fleet.residency(forever).expires_at)


async def test_a_time_that_is_over_as_a_request_arrives(nest: Nest) -> None:
    """Whoever comes in the moment in which an engine is told to leave finds it loaded, or loaded again."""
    engine = nest.engine("a")
    async with Fleet({"a": engine}, replace(ON_DEMAND, keep_alive_s=0)) as fleet:
        first = fleet.use(engine)
        await eventually(lambda: engine.state == "ready")
        (pid,) = _pids_of(engine)

        first.end()  # before the arbiter looked
        second = fleet.use(engine)
        await _ticks()
        assert (engine.is_wanted, engine.state) == (True, "ready")

        second.end()  # after it decided, before the worker moved
        await _ticks(until=lambda: not engine.is_wanted)
        assert "ready" == engine.state
        third = fleet.use(engine)
        await _ticks()
        assert ("ready", [pid]) == (engine.state, _pids_of(engine))

        engine.workers[0].enter()  # while it drains
        third.end()
        await eventually(lambda: engine.state == "draining")
        with fleet.use(engine):
            engine.workers[0].leave()
            await eventually(lambda: engine.state == "ready")
            assert [pid] != _pids_of(engine)
    assert nest.starts == {"a": 2}


async def test_a_place_that_is_taken_back_is_asked_for_again(nest: Nest) -> None:
    """Who waits for the room of one that was told to leave, and was wanted again at once, gets it all the same."""
    first, second = nest.engine("a"), nest.engine("b")
    async with Fleet({"a": first, "b": second}, ONE_ON_DEMAND) as fleet:
        await fleet.load("a")
        with fleet.use(second):
            await _ticks(until=lambda: not first.is_wanted)
            with fleet.use(first):  # after the arbiter decided, before the worker moved
                await eventually(lambda: second.state == "ready")

    assert nest.starts == {"a": 1, "b": 1}


async def test_an_idle_one_makes_room(nest: Nest) -> None:
    """Not the busy one."""
    engines = {name: nest.engine(name) for name in "abc"}
    async with Fleet(engines, replace(ON_DEMAND, max_resident=2)) as fleet:
        await fleet.load("a")
        with fleet.use(engines["b"]):
            await fleet.load("c")
            await eventually(lambda: engines["b"].state == "ready")

            assert ["unloaded", "ready", "ready"] == [engines[name].state for name in "abc"]


async def test_what_fits_into_memory(nest: Nest) -> None:
    """By the estimates together, and by the machine's word; one alone is tried in any case."""
    engines = {name: nest.engine(name) for name in "abc"}
    sizes = {"a": Footprint(4, 0), "b": Footprint(5, 0), "c": Footprint(99, 0)}
    fleet = Fleet(
        engines,
        replace(ON_DEMAND, ram_bytes=10),
        measure=lambda engine: sizes[engine.name],
        free_memory=lambda: Footprint(9, 0),
    )
    async with fleet:
        for name in "ab":
            await fleet.load(name)
        both = [engines[name].state for name in "abc"]
        await fleet.load("c")

        assert ["ready", "ready", "unloaded"] == both
        assert ["unloaded", "unloaded", "ready"] == [engines[name].state for name in "abc"]
        assert 99 == fleet.residency(engines["c"]).ram_bytes


async def test_a_file_that_cannot_be_measured(nest: Nest) -> None:
    """The engine itself is asked."""

    def measure(engine: Engine) -> Footprint:
        raise OSError(engine.name)

    async with Fleet({"a": nest.engine("a")}, ON_DEMAND, measure=measure) as fleet:
        await fleet.load("a")

        assert "ready" == fleet.engines["a"].state


async def test_who_comes_at_the_start(nest: Nest) -> None:
    """Those that fit, in their order; the others come when they are asked for, and are no reason to wait."""
    engines = {name: nest.engine(name) for name in "abc"}
    async with Fleet(engines, FleetRules(max_resident=2, preload=("c",))) as fleet:
        early = fleet.is_ready
        await eventually(lambda: fleet.is_ready)
        states = [engines[name].state for name in "abc"]
        await fleet.load("b")

        assert not early
        assert ["ready", "unloaded", "ready"] == states
        assert "ready" == engines["b"].state


async def test_one_that_should_come_at_the_start_is_sent_away(nest: Nest) -> None:
    """Nobody waits for it any more before all is well."""
    first, second = nest.engine("a", "--slow-load", "30"), nest.engine("b")
    async with Fleet({"a": first, "b": second}, replace(ONE_ON_DEMAND, preload=("a",))) as fleet:
        await eventually(lambda: first.state == "loading")
        early = fleet.is_ready
        await fleet.load("b")

        assert ("unloaded", "ready") == (first.state, second.state)
        assert (False, True) == (early, fleet.is_ready)
        assert not fleet.residency(first).is_expected


async def test_a_busy_one_yields(nest: Nest) -> None:
    """Its running turns are waited for, then the other comes; and it comes back when that has had its time."""
    first, second = nest.engine("a"), nest.engine("b")
    async with Fleet({"a": first, "b": second}, ONE_ON_DEMAND) as fleet:
        served, waits = fleet.use(first), fleet.use(second)
        await eventually(lambda: first.state == "ready")
        still_there = fleet.use(first)
        first.workers[0].enter()
        await _ticks()
        early = first.state
        served.end()
        await eventually(lambda: first.state == "draining")
        late = second.state
        first.workers[0].leave()
        await eventually(lambda: second.state == "ready")
        between = first.state
        waits.end()
        await eventually(lambda: first.state == "ready")
        still_there.end()

    assert ("ready", "unloaded", "unloaded") == (early, late, between)
    assert nest.starts == {"a": 2, "b": 1}


async def test_a_model_that_fails(nest: Nest) -> None:
    """It says why, takes no room, and is tried again for those who come later."""
    bad, good = nest.engine("bad", "--fail-start", "error: no memory"), nest.engine("good")
    async with Fleet({"bad": bad, "good": good}, ONE_ON_DEMAND) as fleet:
        await fleet.load("bad")
        told = bad.state, bad.reason
        with fleet.use(bad), fleet.use(good):
            await eventually(lambda: good.state == "ready")
            again = dict(nest.starts)

        assert "failed" == told[0]
        assert "error: no memory" in str(told[1])
        assert {"bad": 1, "good": 1} == again
        assert not fleet.residency(bad).is_loaded
        await fleet.load("bad")  # who runs the place need not wait
        assert {"bad": 2, "good": 1} == nest.starts


async def test_a_failed_model_is_tried_again(nest: Nest) -> None:
    """By the first request after a while."""
    bad = nest.engine("bad", "--fail-start", "error: no memory")
    async with Fleet({"bad": bad}, ON_DEMAND, retry_failed_s=0) as fleet:
        for tries in (1, 2):
            with fleet.use(bad):
                before = bad.state
                await eventually(lambda: bad.state == "failed")

            assert "unloaded" == before
            assert {"bad": tries} == nest.starts


async def test_pinned_ones_stay(nest: Nest) -> None:
    """Whoever needs their room is told so, until they are not pinned any more."""
    engines = {name: nest.engine(name) for name in "ab"}
    async with Fleet(engines, replace(ONE_ON_DEMAND, keep_alive_s=0, pinned=frozenset("a"))) as fleet:
        await fleet.load("a")
        await fleet.load("b")
        refused = engines["b"].state, engines["b"].reason
        fleet.pin("a", is_pinned=False)
        await eventually(lambda: engines["a"].state == "unloaded")
        fleet.pin("b", is_pinned=True)
        await fleet.load("b")

        assert ("failed", "there is no room beside what is pinned: a") == refused
        assert ("ready", True) == (engines["b"].state, fleet.residency(engines["b"]).is_pinned)


async def test_unloading_waits_for_running_turns(nest: Nest) -> None:
    """However long; and who waits for the engine by then gets it back."""
    engine = nest.engine("a", drain_s=0)
    async with Fleet({"a": engine}) as fleet, asyncio.TaskGroup() as group:
        await eventually(lambda: fleet.is_ready)
        engine.workers[0].enter()
        unloading = group.create_task(fleet.unload("a"))
        await eventually(lambda: engine.state == "draining")
        use = fleet.use(engine)
        state = engine.state
        engine.workers[0].leave()
        await unloading
        await eventually(lambda: engine.state == "ready")
        use.end()

        assert "draining" == state
        assert await fleet.unload("a")
        assert ("unloaded", True) == (engine.state, fleet.is_ready)
        fleet.begin_load("a")
        await eventually(lambda: engine.state == "ready")


async def test_what_arrives_waits_for_what_leaves(nest: Nest) -> None:
    """A reload with other rules: who needs the new one is served when the old one has drained."""
    old, new = nest.engine("a", drain_s=0), nest.engine("a", slots=3)
    async with Fleet({"a": old}) as fleet, asyncio.TaskGroup() as group:
        await eventually(lambda: fleet.is_ready)
        old.workers[0].enter()
        exchange = group.create_task(fleet.exchange({"a": new}, ON_DEMAND))
        await eventually(lambda: old.state == "draining")
        with fleet.use(new), fleet.use(old):
            await _ticks()
            held = new.state
            old.workers[0].leave()
            await eventually(lambda: new.state == "ready")
        await exchange

    assert "unloaded" == held


class Nest:
    """Makes engines of one worker each, and counts how often each was started."""

    def __init__(self, model: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> None:
        self.starts: Counter[str] = Counter()
        self._model, self._standin, self._home, self._folder = model, standin, home, folder

    def engine(self, name: str, *flags: str, slots: int = 2, **keys: Any) -> Engine:
        config = quick_config(self._model, *flags, slots=slots, **keys)
        engine = Engine(name, config, self._standin, self._home, self._folder)
        engine.listen(self._count)
        return engine

    def _count(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            self.starts[worker.name] += 1


@pytest.fixture
def nest(tmp_path: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> Nest:
    """Where engines come from."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    return Nest(model, standin, home, folder)


async def _ticks(until: Callable[[], bool] = lambda: False) -> None:
    """Let everybody do what can be done at once; stop in the very moment in which something is true."""
    for _ in range(20):
        if until():
            break
        await asyncio.sleep(0)


def _pids_of(engine: Engine) -> list[int]:
    return [worker.pid for worker in engine.status().workers if worker.pid]
