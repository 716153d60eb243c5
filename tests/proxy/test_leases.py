"""Slots on loan: waited for in fair order, bounded in number and time, given back clean."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import orjson
import pytest

from hugind.proxy.errors import ApiError
from hugind.proxy.leases import Lease, Leases
from hugind.proxy.queue import Asker, Flow
from hugind.proxy.sessions.slots import Wish
from hugind.supervisor.worker import WorkerState
from tests.eventually import eventually
from tests.proxy.serving import endless, serving, standin_config


async def test_first_come_first_served(tmp_path: Path) -> None:
    """A slot that becomes free goes to who has waited longest."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        asyncio.TaskGroup() as group,
    ):
        leases = served.leases()
        order: list[str] = []
        first = await leases.acquire()
        for name in ("second", "third"):
            group.create_task(_serve(leases, name, order))
            await eventually(lambda name=name: leases.waiting == {"second": 1, "third": 2}[name])  # type: ignore[misc]
        leases.release(first)
        await eventually(lambda: leases.free == 1)

        assert order == ["second", "third"]


async def test_who_was_served_least_is_next(tmp_path: Path) -> None:
    """However many of somebody else wait already."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        asyncio.TaskGroup() as group,
    ):
        leases = served.leases()
        order: list[str] = []
        first = await leases.acquire(asker=ANN)
        for number, asker in enumerate((ANN, ANN, BEN), start=1):
            group.create_task(_serve(leases, f"{asker.flow.user} {number}", order, asker))
            await eventually(lambda number=number: leases.waiting == number)  # type: ignore[misc]
        leases.release(first, tokens=100)
        await eventually(lambda: leases.free == 1)

        assert order == ["ben 3", "ann 1", "ann 2"]


@pytest.mark.parametrize("is_all", [True, False])
async def test_a_turn_that_did_not_tell_is_counted_by_its_time(tmp_path: Path, is_all: bool) -> None:
    """Whoever leaves in the middle of every prompt is served like others: no more than it was expected to cost."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        asyncio.TaskGroup() as group,
    ):
        leases = served.leases()
        order: list[str] = []
        leases.release(await leases.acquire(asker=CLEO), tokens=10**9)  # so much in no time
        first = await leases.acquire(asker=ANN._replace(cost=500))
        for number, asker in enumerate((ANN, BEN), start=1):
            group.create_task(_serve(leases, asker.flow.user, order, asker))
            await eventually(lambda number=number: leases.waiting == number)  # type: ignore[misc]
        leases.release(first, tokens=0, is_all=is_all)
        await eventually(lambda: leases.free == 1)

        assert order == (["ann", "ben"] if is_all else ["ben", "ann"])


async def test_one_turn_at_a_time(tmp_path: Path) -> None:
    """With `scheduling: turns` a worker has one turn, however many slots; housekeeping is none."""
    config = standin_config(tmp_path, server={"max_slots": 2, "concurrency": 2, "scheduling": "turns"})
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        first, second = [await leases.acquire() for _ in "ab"]
        waiting = group.create_task(leases.acquire())
        await eventually(lambda: leases.waiting == 1)
        work = leases.take(next(p for slot in (0, 1) if (p := first.place._replace(slot=slot)) != first.place))
        assert work is not None
        leases.release(work)

        assert first.worker is not second.worker
        assert (leases.free, leases.waiting) == (2, 1)
        leases.release(second)
        third = await waiting
        assert third.worker is second.worker
        leases.release(first)
        leases.release(third)
        assert leases.free == 4


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """More than `limits.max_queue` who wait get 503 with a time to come back."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"max_queue": 1})
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        lease = await leases.acquire()
        waiting = group.create_task(leases.acquire())
        await eventually(lambda: leases.waiting == 1)
        with pytest.raises(ApiError) as refused:
            await leases.acquire()
        leases.release(lease)
        leases.release(await waiting)

        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        assert refused.value.retry_after_s


async def test_the_places_of_a_user_are_bounded(tmp_path: Path) -> None:
    """More of theirs get 429 and a time to come back; others may still wait."""
    config = standin_config(tmp_path, server={"max_slots": 1})
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        lease = await leases.acquire()
        tasks = [group.create_task(leases.acquire(asker=ANN._replace(places=1)))]
        await eventually(lambda: leases.waiting == 1)
        with pytest.raises(ApiError) as refused:
            await leases.acquire(asker=ANN._replace(places=1))
        tasks.append(group.create_task(leases.acquire(asker=BEN._replace(places=1))))
        await eventually(lambda: leases.waiting == 2)
        leases.release(lease)
        for task in tasks:
            leases.release(await task)

        assert (refused.value.status, refused.value.code) == (429, "queue_places_full")
        assert refused.value.retry_after_s


async def test_a_full_queue_makes_room_for_who_has_less(tmp_path: Path) -> None:
    """The last of a crowd goes, so that somebody else may wait."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"max_queue": 2})
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        lease = await leases.acquire()
        crowd = []
        for number in (1, 2):
            crowd.append(group.create_task(_outcome(leases, ANN)))
            await eventually(lambda number=number: leases.waiting == number)  # type: ignore[misc]
        other = group.create_task(_outcome(leases, BEN))
        await eventually(crowd[1].done)
        leases.release(lease)

        assert ["queue_full", None, None] == [await task for task in (crowd[1], other, crowd[0])]


async def test_the_wait_is_bounded(tmp_path: Path) -> None:
    """Who waits longer than `limits.max_wait_s` gets 503 and is forgotten."""
    config = standin_config(tmp_path, server={"max_slots": 1}, limits={"max_wait_s": 0.05})
    async with serving(tmp_path, {"chat": config}) as served:
        leases = served.leases()
        lease = await leases.acquire()
        with pytest.raises(ApiError) as refused:
            await leases.acquire()
        leases.release(lease)

        assert (refused.value.status, refused.value.code) == (503, "queue_timeout")
        assert (leases.waiting, leases.free) == (0, 1)


async def test_the_wait_for_a_loading_engine_has_a_bound_of_its_own(tmp_path: Path) -> None:
    """It may take longer than that for a slot, which begins when the engine is ready."""
    config = standin_config(
        tmp_path,
        server={"max_slots": 1},
        engine={"extra_args": ["--slow-load", "0.5"]},
        limits={"max_wait_s": 0.2},
    )
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served:
        leases = served.leases()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(leases.acquire())
            second = group.create_task(_error_of(leases))
        leases.release(first.result())

        assert (second.result().status, second.result().code) == (503, "queue_timeout")


async def test_an_engine_that_does_not_load_in_time(tmp_path: Path) -> None:
    """Who waits for it is told so; for a slot they would have waited longer."""
    config = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "60"]}, limits={"max_load_wait_s": 0.05})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served:
        leases = served.leases()
        refused = [await _error_of(leases)]
        with pytest.raises(ApiError) as error:
            await leases.until_ready()
        refused.append(error.value)

        assert [(503, "load_timeout")] * 2 == [(error.status, error.code) for error in refused]
        assert all(error.retry_after_s for error in refused)
        assert leases.waiting == 0


async def test_an_engine_that_is_lost_while_somebody_waits(tmp_path: Path) -> None:
    """They wait by the clock of a loading engine then, though their time for a slot is not up."""
    config = standin_config(
        tmp_path, server={"max_slots": 1}, engine={"backoff_s": 600}, limits={"max_load_wait_s": 0.05}
    )
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        lease = await leases.acquire()
        waiting = group.create_task(_error_of(leases))
        await eventually(lambda: leases.waiting == 1)
        os.kill(lease.spawn.process.pid, signal.SIGKILL)

        assert "load_timeout" == (await waiting).code
        leases.release(lease)


async def test_who_waits_and_who_runs_can_be_seen(tmp_path: Path) -> None:
    """In the order in which they would be served, with what they wait for."""
    config = standin_config(tmp_path, server={"max_slots": 1})
    async with serving(tmp_path, {"chat": config}) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        lease = await leases.acquire(asker=ANN._replace(cost=10))
        waiting = []
        for number, asker in enumerate((ANN, BEN, CLEO), start=1):
            waiting.append(group.create_task(_outcome(leases, asker, Wish(f"ses_{number}"))))
            await eventually(lambda number=number: leases.waiting == number)  # type: ignore[misc]
        async with leases.aside(ANN, "ses_1"):
            rows = leases.waiting_list()
        (running,) = leases.running_list()
        alone = leases.waiting_list()
        leases.release(lease)
        await asyncio.gather(*waiting)

        assert [("cleo", 1), ("ben", 2), ("ann", 3), ("ann", None)] == [(row["user"], row["position"]) for row in rows]
        assert ["slot"] * 3 + ["session"] == [row["for"] for row in rows]
        assert ["ses_3", "ses_2", "ses_1", "ses_1"] == [row["session"] for row in rows]
        assert all(row["since_s"] >= 0 for row in rows)
        assert ("ann", 0, 0) == (running["user"], running["worker"], running["slot"])
        assert rows[:3] == [{**row, "since_s": rows[at]["since_s"]} for at, row in enumerate(alone)]
        assert ([], []) == (leases.waiting_list(), leases.running_list())


async def test_who_waits_for_an_engine_is_seen_and_let_in_together(tmp_path: Path) -> None:
    """More than there are slots, because they take none."""
    config = standin_config(tmp_path, server={"max_slots": 1}, engine={"extra_args": ["--slow-load", "0.3"]})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served, asyncio.TaskGroup() as group:
        leases = served.leases()
        tasks = [group.create_task(leases.until_ready(asker)) for asker in (ANN, ANN, BEN)]
        await eventually(lambda: leases.waiting == 3)
        rows = leases.waiting_list()
        await asyncio.gather(*tasks)

        assert [("loading", "ann"), ("loading", "ann"), ("loading", "ben")] == [
            (row["for"], row["user"]) for row in sorted(rows, key=lambda row: row["user"])
        ]
        assert (leases.waiting, leases.free) == (0, 1)


async def test_waiting_for_a_session_is_bounded_too(tmp_path: Path) -> None:
    """In places, and in time."""
    config = standin_config(tmp_path, limits={"max_wait_s": 0.05})
    async with serving(tmp_path, {"chat": config}) as served:
        leases, refusals = served.leases(), list[ApiError]()
        with pytest.raises(TimeoutError):
            await _wait_aside(leases, refusals)

        assert [(429, "queue_places_full")] == [(refused.status, refused.code) for refused in refusals]
        assert leases.waiting_list() == []


async def test_who_gives_up_is_forgotten(tmp_path: Path) -> None:
    """A cancelled wait leaves no ticket and keeps no slot, even one granted in the same moment."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        leases = served.leases()
        for is_granted in (False, True):
            lease = await leases.acquire()
            waiting = asyncio.get_running_loop().create_task(leases.acquire())
            await eventually(lambda: leases.waiting == 1)
            if is_granted:
                leases.release(lease)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if not is_granted:
                leases.release(lease)

            assert (leases.waiting, leases.free) == (0, 1)


async def test_an_aborted_slot_waits_for_the_engine(tmp_path: Path) -> None:
    """After an abort a slot is lent again only when the engine says that it is idle."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        leases = served.leases()
        lease = await leases.acquire()
        body = orjson.dumps({**endless(token_ms=20), "id_slot": lease.slot})
        async with lease.spawn.client.post("/v1/chat/completions", body) as response:
            stream = response.chunks()
            await anext(stream)
            leases.release(lease, aborted=True)
            for _ in range(3):
                await anext(stream)

                assert leases.free == 0

        await served.until_free(1)


async def test_a_request_that_was_never_heard_of_may_still_begin(tmp_path: Path) -> None:
    """That a slot looks idle proves nothing while the engine may not have read the aborted request yet."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        leases = served.leases()
        lease = await leases.acquire()
        leases.release(lease, aborted=True, quiet_s=3600)
        body = orjson.dumps({**endless(token_ms=20), "id_slot": lease.slot})
        for _ in range(20):
            assert await served.busy_slots() == []
        async with lease.spawn.client.post("/v1/chat/completions", body) as response:
            stream = response.chunks()
            for _ in range(60):
                await anext(stream)

                assert leases.free == 0
        await served.until_free(1)


async def test_stopping_gives_back_what_was_never_settled(tmp_path: Path) -> None:
    """A turn that is aborted in the moment of stopping does not hold up the drain."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        leases = served.leases()
        leases.release(await leases.acquire(), aborted=True)
        await leases.aclose()

        await eventually(lambda: served.worker().status().in_flight == 0)


async def test_a_new_life_serves_who_waits(tmp_path: Path) -> None:
    """Slots of a dead worker are gone, and who waits gets one of its next life."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        asyncio.TaskGroup() as group,
    ):
        leases = served.leases()
        old = await leases.acquire()
        waiting = group.create_task(leases.acquire())
        await eventually(lambda: leases.waiting == 1)
        os.kill(old.spawn.process.pid, signal.SIGKILL)
        new = await waiting
        leases.release(old)

        assert new.spawn is not old.spawn
        assert leases.free == 0
        leases.release(new)
        assert leases.free == 1


async def test_who_waits_hears_that_the_engine_failed(tmp_path: Path) -> None:
    """When no worker is left that could become ready, nobody waits on."""
    config = standin_config(tmp_path, server={"max_slots": 1}, engine={"max_deaths": 1})
    async with serving(tmp_path, {"chat": config}) as served:
        leases = served.leases()
        lease = await leases.acquire()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_error_of(leases))
            await eventually(lambda: leases.waiting == 1)
            os.kill(lease.spawn.process.pid, signal.SIGKILL)
        leases.release(lease)

        for error in (waiting.result(), await _error_of(leases)):
            assert (error.status, error.code) == (503, "engine_failed")
            assert "SIGKILL" in error.message


async def test_who_waits_stays_while_an_engine_is_away(tmp_path: Path) -> None:
    """It is unloaded after the turn that runs, and whoever waits is served when it is back."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1}, engine={"drain_s": 0})}) as served,
        asyncio.TaskGroup() as group,
    ):
        leases, engine = served.leases(), served.engine()
        running = await leases.acquire()
        engine.unload()
        await eventually(lambda: engine.state == "draining")
        waiting = group.create_task(leases.acquire())
        await eventually(lambda: leases.waiting == 1)
        leases.release(running)
        await eventually(lambda: engine.state == "unloaded")
        late = group.create_task(leases.until_ready())
        await eventually(lambda: leases.waiting == 2)
        seen = [row["for"] for row in leases.waiting_list()]
        engine.load()
        new = await waiting
        await late
        leases.release(new)

        assert ["loading", "loading"] == seen
        assert new.spawn is not running.spawn
        assert leases.free == 1


async def test_who_waits_hears_that_there_will_be_no_room(tmp_path: Path) -> None:
    """In the words of who decides."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, asyncio.TaskGroup() as group:
        leases, engine = served.leases(), served.engine()
        engine.unload()
        await eventually(lambda: engine.state == "unloaded")
        waiting = group.create_task(_error_of(leases))
        await eventually(lambda: leases.waiting == 1)
        engine.refuse("there is no room")
        error = await waiting

        assert (503, "engine_failed", "'chat' cannot serve: there is no room") == (
            error.status, error.code, error.message,
        )  # fmt: skip


async def test_until_gone_waits_for_the_supervision(tmp_path: Path) -> None:
    """Who found a worker dead goes on when its supervision knows, too."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        spawn = served.spawn()
        os.kill(spawn.process.pid, signal.SIGKILL)
        await served.leases().until_gone(spawn)

        assert served.worker().spawn is not spawn


async def test_requests_without_a_slot_wait_while_the_engine_loads(tmp_path: Path) -> None:
    """`ready_spawn` gives a worker that is ready, and keeps none of its slots."""
    config = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "0.2"]})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served:
        spawn = await served.leases().ready_spawn()

        assert WorkerState.READY is served.worker().state
        assert spawn is await served.leases().ready_spawn()
        assert served.leases().free == 2


ANN, BEN = Asker(Flow("ann")), Asker(Flow("ben"))
CLEO = Asker(Flow("cleo"), band=1)


async def _serve(leases: Leases, name: str, order: list[str], asker: Asker = ANN) -> None:
    lease: Lease = await leases.acquire(asker=asker)
    order.append(name)
    leases.release(lease, tokens=1)


async def _outcome(leases: Leases, asker: Asker, wish: Wish | None = None) -> str | None:
    """Wait for a slot and give it back; why there was none."""
    try:
        leases.release(await leases.acquire(wish, asker))
    except ApiError as error:
        return error.code
    return None


async def _wait_aside(leases: Leases, refusals: list[ApiError]) -> None:
    """Wait for a session that never comes; a second request of the same user may not."""
    asker = ANN._replace(places=1)
    async with leases.aside(asker, "ses_1"):
        try:
            async with leases.aside(asker, "ses_1"):
                pass
        except ApiError as refused:
            refusals.append(refused)
        await asyncio.Event().wait()


async def _error_of(leases: Leases) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await leases.acquire()
    return refused.value
