"""The bench's client: it tells failures from answers, and counts events right."""

from __future__ import annotations

import pytest

from hugind.cli.bench.load import PacedStreams, measure_paced_streams, measure_throughput, measure_ttft
from hugind.cli.bench.target import LoadError, Target, is_answering
from tests.cli.bench.scripted_server import scripted_server
from tests.fakes.standin import StandinProcess, StartStandin


def target(standin: StandinProcess, **headers: str) -> Target:
    return Target("stand-in", str(standin.socket), headers)


async def test_wrong_key_is_an_error(start_standin: StartStandin) -> None:
    """Answers that are not 200 are never samples."""
    standin = start_standin("--api-key", "right")

    assert not await is_answering(target(standin), "/props")
    assert await is_answering(target(standin, Authorization="Bearer right"), "/props")
    for measure in (measure_ttft(target(standin), 1), measure_throughput(target(standin), 1, requests=2)):
        with pytest.raises(LoadError, match=r"stand-in: status 401: .*Invalid API Key"):
            await measure


async def test_nobody_there_is_an_error() -> None:
    """A target that does not exist is told as such."""
    nobody = Target("nobody", "/no/such.sock")

    assert not await is_answering(nobody, "/health")
    with pytest.raises(LoadError, match="nobody: cannot connect"):
        await measure_ttft(nobody, 1)


async def test_broken_streams_are_failures(start_standin: StartStandin) -> None:
    """A stream that breaks off is a failure, not a short stream."""
    part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
    async with scripted_server(part, then_close=True) as broken:
        with pytest.raises(LoadError, match="ended before the end of the answer"):
            await measure_paced_streams(broken, streams=2, chunks=3, token_ms=1)


async def test_events_across_reads_are_counted_once() -> None:
    """An event whose end is torn by the network counts as one."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with scripted_server(head, b"8\r\ndata: 1\n\r\n", b"1\r\n\n\r\n", b"0\r\n\r\n") as torn:
        result = await measure_paced_streams(torn, streams=1, chunks=1, token_ms=1)

    assert result == PacedStreams(1, 1, 0, result.seconds)
