"""How the gateway and its engines are just now, as metric families for Prometheus. Nothing is kept between two looks.

No label tells who asked: models are engines' names, all others are words of ours or workers' numbers.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from hugind.proxy.gateway import Gateway
from hugind.proxy.sessions.record import Session
from hugind.supervisor.worker import WorkerState

TIERS = ("hot", "warm", "cold", "gone")


@dataclass(frozen=True)
class Shelved:
    """The sessions of one engine, and which of them are in a slot."""

    sessions: Sequence[Session]
    held: Collection[str]

    def count(self) -> tuple[Counter[str], Counter[str]]:
        """Sessions by the best place that they are in, and the bytes of all snapshots by theirs."""
        places: Counter[str] = Counter(dict.fromkeys(TIERS, 0))
        sizes: Counter[str] = Counter({"warm": 0, "cold": 0})
        for session in self.sessions:
            memory, disk = session.memory, session.disk
            sizes["warm"] += memory.size_bytes if memory else 0
            sizes["cold"] += disk.size_bytes if disk else 0
            places["hot" if session.id in self.held else "warm" if memory else "cold" if disk else "gone"] += 1
        return places, sizes


async def vitals(gateway: Gateway) -> list[Metric]:
    """All there is to say. The loop is held up no longer than engines are many; sessions are counted in a thread."""
    shelved = {
        keeper.engine.name: Shelved(list(keeper.store.sessions.values()), frozenset(keeper.held()))
        for keeper in gateway.keepers
    }
    pids = {
        (engine.name, str(worker.index)): worker.spawn.process.pid
        for engine in gateway.fleet.engines.values()
        for worker in engine.workers
        if worker.spawn is not None
    }
    families = [*_engines(gateway), *_comings_and_goings(gateway), *_sessions(gateway), *_records(gateway)]
    families += await asyncio.to_thread(lambda: [*_tiers(shelved), *_processes(pids), *_own_process()])
    return families


def _engines(gateway: Gateway) -> Iterator[Metric]:
    engines = gateway.fleet.engines.values()
    waiting = _gauge("hugind_queue_length", "Turns that wait for a slot or for the engine to load.")
    running = _gauge("hugind_running_turns", "Turns that have a slot.")
    free = _gauge("hugind_free_slots", "Slots that nobody has.")
    workers = _gauge("hugind_workers", "Workers by state.", "state")
    restarts = _counter("hugind_worker_restarts", "Workers that were started again after a death.")
    loaded = _gauge("hugind_engine_loaded", "1: the engine has processes.")
    needed = _gauge("hugind_engine_requests", "Requests that need the engine just now, waiting ones included.")
    memory = _gauge("hugind_model_memory_bytes", "What the engine takes by estimate, loaded or not.", "kind")
    load = _gauge("hugind_engine_load_seconds", "How long the engine's last load took.")
    for engine in engines:
        leases, residency, name = gateway.leases(engine), gateway.fleet.residency(engine), engine.name
        waiting.add_metric((name,), leases.waiting)
        running.add_metric((name,), len(leases.running_list()))
        free.add_metric((name,), leases.free)
        states = Counter(worker.state for worker in engine.workers)
        for state in WorkerState:
            workers.add_metric((name, state.value), states[state])
        restarts.add_metric((name,), sum(worker.restarts for worker in engine.workers))
        loaded.add_metric((name,), residency.is_loaded)
        needed.add_metric((name,), residency.refs)
        memory.add_metric((name, "ram"), residency.ram_bytes)
        memory.add_metric((name, "vram"), residency.vram_bytes)
        if residency.load_s is not None:
            load.add_metric((name,), residency.load_s)
    yield from (waiting, running, free, workers, restarts, loaded, needed, memory, load)


def _comings_and_goings(gateway: Gateway) -> Iterator[Metric]:
    loads = _counter("hugind_engine_loads", "Engines that became ready after they were not.")
    unloads = _counter("hugind_engine_unloads", "Engines that were unloaded, by what for.", "reason")
    for (name, event), count in gateway.fleet.events.items():
        if event == "load":
            loads.add_metric((name,), count)
        else:
            unloads.add_metric((name, event), count)
    yield from (loads, unloads)


def _sessions(gateway: Gateway) -> Iterator[Metric]:
    saves = _counter("hugind_session_saves", "Snapshots that were made.")
    hollow = _counter("hugind_hollow_restores", "Restores of which the engine could use little.")
    refused = _counter("hugind_refused_snapshots", "Snapshots that failed their check.")
    for keeper in gateway.keepers:
        name, store = (keeper.engine.name,), keeper.store
        saves.add_metric(name, store.saves)
        hollow.add_metric(name, store.hollow)
        refused.add_metric(name, store.refused)
    yield from (saves, hollow, refused)


def _tiers(shelved: dict[str, Shelved]) -> Iterator[Metric]:
    sessions = _gauge("hugind_sessions", "Sessions by the best place that they are in.", "tier")
    sizes = _gauge("hugind_snapshot_bytes", "Snapshots, before compression.", "tier")
    for name, shelf in shelved.items():
        by_place, by_size = shelf.count()
        for tier, count in by_place.items():
            sessions.add_metric((name, tier), count)
        for tier, size_bytes in by_size.items():
            sizes.add_metric((name, tier), size_bytes)
    yield from (sessions, sizes)


def _records(gateway: Gateway) -> Iterator[Metric]:
    usage = gateway.books.usage.status
    waiting = GaugeMetricFamily("hugind_usage_rows", "Usage rows not yet in the database.", labels=("place",))
    waiting.add_metric(("memory",), usage.waiting)
    waiting.add_metric(("disk",), usage.spooled)
    yield waiting
    yield CounterMetricFamily("hugind_usage_rows_written", "Usage rows that came into the database.", usage.written)
    yield CounterMetricFamily("hugind_usage_rows_lost", "Usage rows that could not be kept.", usage.lost)
    yield GaugeMetricFamily("hugind_database_up", "0: it could not be written to the last time.", not usage.is_away)
    yield InfoMetricFamily("hugind_build", "The release of hugind.", {"version": version("hugind")})


def _processes(pids: dict[tuple[str, str], int]) -> Iterator[Metric]:
    memory = _gauge("hugind_worker_resident_memory_bytes", "RAM of a worker, mapped weights included.", "worker")
    cpu = _counter("hugind_worker_cpu_seconds", "CPU time of a worker.", "worker")
    for labels, pid in pids.items():
        try:
            process = psutil.Process(pid)
            memory.add_metric(labels, process.memory_info().rss)
            cpu.add_metric(labels, _cpu_s(process))
        except psutil.Error:  # it has just ended
            continue
    yield from (memory, cpu)


def _own_process() -> Iterator[Metric]:
    """By the names that Prometheus has for them. The client library's own collector knows Linux only."""
    process = psutil.Process()
    with process.oneshot():
        memory, started, files = process.memory_info(), process.create_time(), process.num_fds()
        cpu_s = _cpu_s(process)
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size in bytes.", memory.rss)
    yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory size in bytes.", memory.vms)
    yield CounterMetricFamily("process_cpu_seconds", "Total user and system CPU time spent in seconds.", cpu_s)
    yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", files)
    yield GaugeMetricFamily("process_max_fds", "Maximum number of open file descriptors.", most_files)
    yield GaugeMetricFamily(
        "process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=("model", *labels))


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=("model", *labels))
