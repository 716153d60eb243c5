"""Slots on loan: waited for in order, bounded in number and time, given back clean."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import orjson
import pytest

from hugind.proxy.errors import ApiError
from hugind.proxy.leases import Lease, Leases
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


async def _serve(leases: Leases, name: str, order: list[str]) -> None:
    lease: Lease = await leases.acquire()
    order.append(name)
    leases.release(lease)


async def _error_of(leases: Leases) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await leases.acquire()
    return refused.value
