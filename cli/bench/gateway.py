"""What the gateway costs: the same load direct and through it, in alternating rounds, so that drift cancels."""

from __future__ import annotations

import asyncio
import platform
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hugind.cli.bench.load import Latency, Throughput, measure_paced_streams, measure_throughput, measure_ttft
from hugind.cli.bench.stage import Actor, Stage, set_stage
from hugind.supervisor.errors import HugindError

CONNECTIONS = (1, 8, 64)
TTFT_ROUNDS = 8
THROUGHPUT_ROUNDS = 4
SHORT_STREAM_ROUNDS = 5
WARM_UP_S = 0.3
RATE_CONNECTIONS = 8
"""CPU per request is taken where requests overlap and nothing queues."""


@dataclass(frozen=True)
class GatewayBenchOptions:
    """How much to measure. The defaults take about 45 seconds."""

    requests: int = 400
    """Streamed requests for time to first token, for each target."""
    seconds: float = 2.0
    """Time of one throughput measurement: for each number of connections and each target."""
    streams: int = 64
    chunks: int = 150
    """Tokens of each paced stream."""
    token_ms: float = 20
    folder: Path | None = None
    """Where everything is written, and kept; none: a temporary folder that is removed."""
    use_nginx: bool = True


@dataclass
class Measured:
    """What was measured of one target. Filled round by round."""

    ttft: Latency = field(default_factory=Latency)
    throughput: dict[int, Throughput] = field(default_factory=dict)
    cpu_us_per_request: float = 0
    cpu_us_per_stream: float = 0
    cpu_us_per_chunk: float = 0
    rss_mb: float = 0
    failed: int = 0

    def requests_per_s(self) -> dict[str, int]:
        return {str(connections): round(one.per_s) for connections, one in self.throughput.items()}


@dataclass(frozen=True)
class GatewayBenchResult:
    """Everything measured, by target: direct (TCP), direct_unix, gateway, perhaps nginx."""

    by_target: dict[str, Measured]
    machine: dict[str, Any]
    folder: Path | None

    def as_json(self) -> dict[str, Any]:
        """The gateway's numbers, and beside them what to compare them with."""
        described = {name: self._describe(name) for name in self.by_target}
        return {
            **described["gateway"],
            "direct": {**described["direct"], "unix": described["direct_unix"]},
            "nginx": described.get("nginx"),
            "machine": self.machine,
            "folder": str(self.folder) if self.folder else None,
        }

    def added_ttft_ms(self, name: str) -> dict[str, float]:
        """By how much the quantiles of a target lie above those of asking directly."""
        direct, other = self.by_target["direct"].ttft, self.by_target[name].ttft
        return {"p50": round(other.p50_ms - direct.p50_ms, 3), "p99": round(other.p99_ms - direct.p99_ms, 3)}

    def _describe(self, name: str) -> dict[str, Any]:
        one = self.by_target[name]
        described = {
            "ttft_ms": {"p50": round(one.ttft.p50_ms, 3), "p99": round(one.ttft.p99_ms, 3)},
            "requests_per_s": one.requests_per_s(),
            "cpu_us_per_request": round(one.cpu_us_per_request, 1),
            "cpu_us_per_stream": round(one.cpu_us_per_stream, 1),
            "cpu_us_per_chunk": round(one.cpu_us_per_chunk, 1),
            "rss_mb": round(one.rss_mb, 1),
            "failed": one.failed,
        }
        return described if name.startswith("direct") else {"added_ttft_ms": self.added_ttft_ms(name), **described}


def run_gateway_bench(options: GatewayBenchOptions, report: Callable[[str], None]) -> GatewayBenchResult:
    """Measure. Blocks; `report` hears what is being done. Call it from the main thread.

    Whatever way it ends, Ctrl-C and SIGTERM included, the processes that it started are gone.

    Raises:
        HugindError: something did not start, or a target did not answer.
        KeyboardInterrupt: it was interrupted.
    """
    if options.folder is not None:
        folder = options.folder.expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _run(options, folder, report)
    with tempfile.TemporaryDirectory(prefix="hugind-bench-") as name:
        return _run(options, Path(name), report)


def _run(options: GatewayBenchOptions, folder: Path, report: Callable[[str], None]) -> GatewayBenchResult:
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_bench(options, folder, report))
    except asyncio.CancelledError:  # SIGTERM
        raise KeyboardInterrupt from None


async def _bench(options: GatewayBenchOptions, folder: Path, report: Callable[[str], None]) -> GatewayBenchResult:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    report("starting a gateway and its stand-ins")
    async with set_stage(folder, use_nginx=options.use_nginx) as stage:
        measured = {name: Measured() for name in stage.actors()}
        machine = describe_machine()
        for actor in stage.actors().values():
            await measure_throughput(actor.target, RATE_CONNECTIONS, seconds=WARM_UP_S)
        await _measure_ttft(options, stage, measured, report)
        for connections in CONNECTIONS:
            await _measure_throughput(options, stage, measured, connections, report)
        await _measure_streams(options, stage, measured, report)
        for name, actor in stage.actors().items():
            measured[name].rss_mb = psutil.Process(actor.pid).memory_info().rss / 1e6
        report("stopping")
    return GatewayBenchResult(measured, machine, options.folder)


async def _measure_ttft(
    options: GatewayBenchOptions, stage: Stage, measured: dict[str, Measured], report: Callable[[str], None]
) -> None:
    report(f"time to first token, {options.requests} requests one after the other")
    for i in range(TTFT_ROUNDS):
        for name, actor in _in_turn(stage, i):
            measured[name].ttft += await measure_ttft(actor.target, -(-options.requests // TTFT_ROUNDS))


async def _measure_throughput(
    options: GatewayBenchOptions,
    stage: Stage,
    measured: dict[str, Measured],
    connections: int,
    report: Callable[[str], None],
) -> None:
    report(f"requests a second, {connections} connection{'s' if connections > 1 else ''}")
    cpu_s = dict.fromkeys(measured, 0.0)
    for i in range(THROUGHPUT_ROUNDS):
        for name, actor in _in_turn(stage, i):
            before = _cpu_s(actor)
            once = await measure_throughput(actor.target, connections, seconds=options.seconds / THROUGHPUT_ROUNDS)
            cpu_s[name] += _cpu_s(actor) - before
            so_far = measured[name].throughput.get(connections)
            measured[name].throughput[connections] = so_far + once if so_far else once
            measured[name].failed += once.failed
    if connections == RATE_CONNECTIONS:
        for name, one in measured.items():
            one.cpu_us_per_request = cpu_s[name] * 1e6 / one.throughput[connections].requests


async def _measure_streams(
    options: GatewayBenchOptions, stage: Stage, measured: dict[str, Measured], report: Callable[[str], None]
) -> None:
    """CPU of long paced streams, less that of as many streams of one token: what a further chunk costs."""
    report(f"{options.streams} streams of {options.chunks} tokens, one every {options.token_ms:g} ms")
    for name, actor in stage.actors().items():
        short_s = 0.0
        for _ in range(SHORT_STREAM_ROUNDS):
            short_s += await _stream_cpu_s(options, actor, 1)
        per_stream_s = short_s / (SHORT_STREAM_ROUNDS * options.streams)
        long_s = await _stream_cpu_s(options, actor, options.chunks)
        further_chunks = options.streams * max(1, options.chunks - 1)
        measured[name].cpu_us_per_stream = per_stream_s * 1e6
        measured[name].cpu_us_per_chunk = max(0.0, long_s - per_stream_s * options.streams) * 1e6 / further_chunks


async def _stream_cpu_s(options: GatewayBenchOptions, actor: Actor, chunks: int) -> float:
    """The CPU time that a target spends on `options.streams` streams.

    Raises:
        HugindError: streams failed, lost tokens, or were not paced: numbers that mean nothing.
    """
    before = _cpu_s(actor)
    ran = await measure_paced_streams(actor.target, options.streams, chunks, options.token_ms)
    spent_s = _cpu_s(actor) - before
    name = actor.target.name
    if ran.failed or ran.events < options.streams * chunks:
        raise HugindError(f"{name}: {ran.failed} of {ran.streams} streams failed, {ran.events} events came")
    if ran.seconds < 0.8 * chunks * options.token_ms / 1e3:
        raise HugindError(f"{name}: the streams were not paced; did the request's `standin` field arrive?")
    return spent_s


def _in_turn(stage: Stage, round_number: int) -> list[tuple[str, Actor]]:
    """All targets, each second round backwards: what slowly changes hits all alike."""
    actors = list(stage.actors().items())
    return actors[::-1] if round_number % 2 else actors


def _cpu_s(actor: Actor) -> float:
    """CPU time of the process itself; a gateway's workers are not part of it."""
    times = psutil.Process(actor.pid).cpu_times()
    return times.user + times.system


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "load_1m": round(psutil.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: the client must not be the slow part."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
