"""The load generator against the stand-in: what it counts."""

from __future__ import annotations

import pytest

from hugind.cli.bench.load import (
    Latency,
    measure_paced_streams,
    measure_throughput,
    measure_ttft,
)
from hugind.cli.bench.target import Target
from tests.cli.bench.scripted_server import scripted_server
from tests.fakes.standin import StandinProcess, StartStandin


def target(standin: StandinProcess, **headers: str) -> Target:
    return Target("stand-in", str(standin.socket), headers)


def test_quantiles() -> None:
    """Percentiles of the samples, and of two rounds together."""
    latency = Latency(tuple(map(float, range(101)))) + Latency((0.0, 100.0))

    assert latency.p50_ms == 50
    assert latency.quantile_ms(95) == pytest.approx(95, abs=1)
    assert latency.p99_ms == pytest.approx(99, abs=1)
    assert latency.mean_ms == 50
    assert Latency((3.0,)).p99_ms == 3


async def test_ttft(start_standin: StartStandin) -> None:
    """One sample a request, although each stream closes its connection."""
    latency = await measure_ttft(target(start_standin()), 5)

    assert len(latency.samples_ms) == 5
    assert all(sample > 0 for sample in latency.samples_ms)


async def test_ttft_sees_the_prompt(start_standin: StartStandin) -> None:
    """The time until the first byte includes what the engine takes."""
    latency = await measure_ttft(target(start_standin("--prefill-ms", "50")), 2)

    assert latency.p50_ms >= 50


async def test_throughput_by_number(start_standin: StartStandin) -> None:
    """So many requests as asked for, none lost where the server closes after 100."""
    standin = start_standin("--parallel", "4", "--metrics")
    result = await measure_throughput(target(standin), 4, requests=450)

    assert (result.requests, result.failed, result.connections) == (450, 0, 4)
    assert standin.metric("tokens_predicted_total") == 450
    assert result.per_s == pytest.approx(450 / result.seconds)


async def test_throughput_by_time_on_tcp(start_standin: StartStandin) -> None:
    """For a time, over TCP; rounds add up."""
    async with scripted_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as tcp:
        once = await measure_throughput(tcp, 2, seconds=0.1)
        twice = once + await measure_throughput(tcp, 2, seconds=0.1)

    assert once.requests > 0
    assert twice.requests > once.requests
    assert len(twice.latency.samples_ms) == twice.requests


async def test_paced_streams(start_standin: StartStandin) -> None:
    """All events of all streams arrive, at the pace that was asked for."""
    result = await measure_paced_streams(target(start_standin("--parallel", "4")), streams=4, chunks=10, token_ms=10)

    assert (result.streams, result.failed) == (4, 0)
    assert result.events == 4 * (10 + 3)  # role, tokens, the end, [DONE]
    assert result.seconds >= 0.1


async def test_needs_one_bound() -> None:
    """Seconds or requests, not both, not neither."""
    for bounds in ({}, {"seconds": 1.0, "requests": 1}):
        with pytest.raises(ValueError, match="seconds or requests"):
            await measure_throughput(Target("x", "/x"), 1, **bounds)  # type: ignore[arg-type]
