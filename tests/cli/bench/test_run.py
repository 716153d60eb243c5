"""A bench's folders are gone whatever way it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hugind.cli.bench.random_model import Shape
from hugind.cli.bench.run import find_engine_and_model, run_bench
from tests.engines import DEMO_MODEL

TINY = Shape(dim=64, layers=1, heads=4, kv_heads=4, ff=64)


def test_its_folders_are_gone_after_it() -> None:
    """What it returns comes out; what it wrote does not stay."""

    async def bench(folder: Path, memory: Path | None) -> list[Path]:
        used = [path for path in (folder, memory) if path is not None]
        for path in used:
            (path / "file").touch()
        return used

    used = run_bench(bench)

    assert used
    assert not any(path.exists() for path in used)


@pytest.fixture
def _as_a_command() -> Iterator[None]:
    """SIGINT is as Python has it at the start of a program, whatever servers ran in this process before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_as_a_command")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """Its own clean-up runs, and it counts as interrupted."""
    seen: list[Path | str] = []

    async def bench(folder: Path, _: Path | None) -> None:
        seen.append(folder)
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run_bench(bench)

    folder, word = seen
    assert word == "cleaned up"
    assert isinstance(folder, Path)
    assert not folder.exists()


async def test_a_model_is_written_only_where_none_is_given(tmp_path: Path) -> None:
    said: list[str] = []
    binary, model = await find_engine_and_model(None, DEMO_MODEL, tmp_path, said.append)
    again, written = await find_engine_and_model(binary, None, tmp_path, said.append, TINY)

    assert (model, again) == (DEMO_MODEL, binary)
    assert written.parent == tmp_path
    assert written.stat().st_size > 0
    assert said == ["writing a model of random weights"]
