"""How things are just now, as numbers."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from hugind.proxy.sessions.record import Owner, Session, Snapshot
from hugind.proxy.vitals import Shelved, vitals
from tests.eventually import eventually
from tests.proxy.exposition import Exposition
from tests.proxy.serving import Served, chat, connect, endless, http_request, serving, standin_config


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def look(served: Served) -> Exposition:
    return Exposition(generate_latest(_Families(await vitals(served.gateway))).decode())


def test_sessions_are_counted_where_they_are_best_off() -> None:
    """Once each; their snapshots wherever there is one."""

    def session(memory: int | None, disk: int | None) -> Session:
        made = Session(Owner("alice"), "chat", "family")
        made.memory, made.disk = (
            None if size is None else Snapshot("f", 1, size, "c", None, "p", 0.0) for size in (memory, disk)
        )
        return made

    held = session(5, 5)
    places, sizes = Shelved([held, session(10, 10), session(None, 100), session(None, None)], {held.id}).count()

    assert {"hot": 1, "warm": 1, "cold": 1, "gone": 1} == places
    assert {"warm": 15, "cold": 115} == sizes


async def test_a_gateway_at_work(tmp_path: Path) -> None:
    """A turn that runs and one that waits for it, workers by state, a session in its slot, memory of processes."""
    chat_config = standin_config(tmp_path, server={"max_slots": 1, "concurrency": 2})
    broken = standin_config(tmp_path, engine={"extra_args": ["--fail-start", "no such model"]})
    async with serving(tmp_path, {"chat": chat_config, "broken": broken}, is_ready=False) as served:
        await eventually(lambda: served.leases().free == 2 and served.engine("broken").state == "failed")
        await served.client.post("/v1/chat/completions", json=chat("x" * 400, max_tokens=300))
        await eventually(lambda: served.leases().free == 2)
        idle = await look(served)
        async with connect(served.port) as one, connect(served.port) as two, connect(served.port) as three:
            for client in (one, two, three):
                await client.send(http_request(endless()))
            await eventually(lambda: served.leases().waiting == 1)
            busy = await look(served)

    def values(seen: Exposition) -> tuple[float, ...]:
        names = ("queue_length", "running_turns", "free_slots")
        return tuple(seen.value(f"hugind_{name}", model="chat") for name in names)

    assert ((0, 0, 2), (1, 2, 0)) == (values(idle), values(busy))
    assert 2 == idle.value("hugind_workers", model="chat", state="ready")
    assert (1, 1) == (
        idle.value("hugind_workers", model="broken", state="failed"),
        idle.sum("hugind_workers", model="broken"),
    )
    assert 1 == idle.value("hugind_sessions", model="chat", tier="hot")
    assert 1 == idle.sum("hugind_sessions", model="chat")
    assert 0 < idle.value("hugind_worker_resident_memory_bytes", model="chat", worker="1")
    assert 0 < idle.value("process_resident_memory_bytes") < 1e12
    assert 0 < idle.value("process_open_fds") <= idle.value("process_max_fds")
    assert 0 == idle.value("hugind_worker_restarts_total", model="chat")
    assert (1, 0) == (
        idle.value("hugind_engine_loaded", model="chat"),
        idle.value("hugind_engine_loaded", model="broken"),
    )


async def test_comings_and_goings(tmp_path: Path) -> None:
    """Loads and unloads are counted, and stay so when the engine is gone."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        assert await served.gateway.fleet.unload("chat")
        await served.gateway.fleet.load("chat")
        await served.gateway.fleet.unload("chat")
        seen = await look(served)

    assert 2 == seen.value("hugind_engine_loads_total", model="chat")
    assert 2 == seen.value("hugind_engine_unloads_total", model="chat", reason="asked")
    assert 2 == seen.sum("hugind_engine_unloads_total")
    assert 0 == seen.value("hugind_engine_loaded", model="chat")
    assert 0 == seen.sum("hugind_worker_resident_memory_bytes")
