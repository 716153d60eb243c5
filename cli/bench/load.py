"""Measuring a target under load: time to first byte, requests a second, paced streams."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hugind.cli.bench.target import ANSWER_TIMEOUT_S, Client, LoadError, Target


@dataclass(frozen=True)
class Latency:
    """How long single requests took."""

    samples_ms: tuple[float, ...] = ()

    @property
    def p50_ms(self) -> float:
        return self.quantile_ms(50)

    @property
    def p99_ms(self) -> float:
        return self.quantile_ms(99)

    @property
    def mean_ms(self) -> float:
        return statistics.fmean(self.samples_ms)

    def __add__(self, other: Latency) -> Latency:
        return Latency(self.samples_ms + other.samples_ms)

    def quantile_ms(self, percent: int) -> float:
        """What so many percent of the samples do not exceed; between two samples in proportion."""
        if len(self.samples_ms) == 1:
            return self.samples_ms[0]
        return statistics.quantiles(self.samples_ms, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True)
class Throughput:
    """Requests one after the other on each of some connections."""

    connections: int
    requests: int
    failed: int
    seconds: float
    latency: Latency

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(
            self.connections,
            self.requests + other.requests,
            self.failed + other.failed,
            self.seconds + other.seconds,
            self.latency + other.latency,
        )


@dataclass(frozen=True)
class PacedStreams:
    """Streams side by side, each with a token every so often."""

    streams: int
    events: int
    """All server-sent events that arrived, `[DONE]` included."""
    failed: int
    seconds: float


async def measure_ttft(target: Target, requests: int) -> Latency:
    """Streamed requests, one at a time: from writing one (on an open connection) to the first byte of its body.

    Raises:
        LoadError: a request failed; nothing is left out of the samples.
    """
    request = target.request(stream=True, max_tokens=1)
    client = Client(target)
    try:
        samples = [(await client.exchange(request)).first_ms for _ in range(requests)]
    finally:
        client.close()
    return Latency(tuple(samples))


async def measure_throughput(
    target: Target, connections: int, *, seconds: float | None = None, requests: int | None = None
) -> Throughput:
    """Short requests that do not stream, on `connections` at once, for so long or so many in all.

    Failures are counted and not part of `requests`.

    Raises:
        LoadError: every request failed.
    """
    if (seconds is None) == (requests is None):
        raise ValueError("give seconds or requests")
    request = target.request(max_tokens=1)
    left = iter(range(requests)) if requests is not None else None
    until = time.perf_counter() + seconds if seconds is not None else float("inf")
    samples: list[float] = []
    failures: list[LoadError] = []

    async def client_loop() -> None:
        client = Client(target)
        try:
            while time.perf_counter() < until and (left is None or next(left, None) is not None):
                try:
                    samples.append((await client.exchange(request)).whole_ms)
                except LoadError as error:
                    failures.append(error)
        finally:
            client.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client_loop())
    passed = time.perf_counter() - began
    if not samples:
        raise failures[0] if failures else LoadError(f"{target.name}: no time for a single request")
    return Throughput(connections, len(samples), len(failures), passed, Latency(tuple(samples)))


async def measure_paced_streams(target: Target, streams: int, chunks: int, token_ms: float) -> PacedStreams:
    """`streams` at once, each of `chunks` tokens, one every `token_ms` (the stand-in's doing).

    Raises:
        LoadError: every stream failed.
    """
    request = target.request(stream=True, max_tokens=chunks, standin={"token_ms": token_ms})

    async def one_stream() -> int | LoadError:
        client = Client(target)
        try:
            return (await client.exchange(request, timeout_s=ANSWER_TIMEOUT_S + chunks * token_ms / 500)).events
        except LoadError as error:
            return error
        finally:
            client.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one_stream()) for _ in range(streams)]
    passed = time.perf_counter() - began
    results: Sequence[int | LoadError] = [task.result() for task in tasks]
    failures = [result for result in results if isinstance(result, LoadError)]
    if len(failures) == streams:
        raise failures[0]
    events = sum(result for result in results if isinstance(result, int))
    return PacedStreams(streams, events, len(failures), passed)
