"""The gaps of a stream while its neighbours come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from hugind.cli.bench.child import start_child
from hugind.cli.bench.conversation import Chat, Conversation
from hugind.cli.bench.stall import HOT_TURNS, Gaps, find_gaps, measure_stall
from hugind.cli.bench.standin import write_launcher
from hugind.cli.bench.target import LoadError, Target, is_answering
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.spawn import free_port


def test_gaps_by_values() -> None:
    """Gaps count from the one that reaches over the moment on."""
    arrivals = [1.0, 1.125, 1.25, 2.0, 2.125]

    assert Gaps(2, 437.5, 750) == find_gaps(arrivals, 1.5)
    assert Gaps(4, 125, 750) == find_gaps(arrivals, 0)
    assert find_gaps(arrivals, 2.125) is None
    assert find_gaps([], 0) is None


@asynccontextmanager
async def slow_standin(folder: Path, token_ms: float) -> AsyncIterator[Chat]:
    port = free_port()
    launcher = write_launcher(folder / "llama-server", "--token-ms", str(token_ms))
    argv = [str(launcher), *f"--model {launcher} --host 127.0.0.1 --port {port} --parallel 2".split()]
    target = Target("stand-in", ("127.0.0.1", port))
    async with AsyncExitStack() as stack:
        await start_child(
            stack, argv,
            name="standin", folder=folder, env=worker_environment({}, "key"),
            is_ready=lambda: is_answering(target, "/health"), timeout_s=20, stop_s=5,
        )  # fmt: skip
        yield await stack.enter_async_context(Chat("it", f"http://127.0.0.1:{port}", model="any", key="key"))


async def test_watches_a_stream(tmp_path: Path) -> None:
    """Three situations in one stream, which is broken off when the neighbours are done."""
    neighbours = [Conversation(f"user {number}", seed=number) for number in range(3)]
    async with slow_standin(tmp_path, token_ms=2) as chat:
        stall = await measure_stall(chat, neighbours, characters=20, stream_tokens=1500)

    assert stall.alone is not None
    assert stall.hot is not None
    assert stall.evicting is not None
    assert [2 * (1 + HOT_TURNS), 2, 2] == [len(neighbour.messages) for neighbour in neighbours]


async def test_stream_that_ends_early_is_no_measure(tmp_path: Path) -> None:
    """What came after its end is not known."""
    neighbours = [Conversation(f"user {number}", seed=number) for number in range(2)]
    async with slow_standin(tmp_path, token_ms=1) as chat:
        stall = await measure_stall(chat, neighbours, characters=20, stream_tokens=5)

    assert stall.hot is None
    assert stall.evicting is None


async def test_failing_neighbour_is_told(tmp_path: Path) -> None:
    """A turn that is refused ends the measure with the reason, and the stream with it."""
    async with slow_standin(tmp_path, token_ms=1) as chat:
        with pytest.raises(LoadError, match="status 400"):
            await measure_stall(chat, [Conversation("one", seed=1)], characters=100_000, stream_tokens=1000)
