"""Run a bench that needs the engine: with folders of its own, which are gone whatever way it ends."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hugind.cli.bench.random_model import Shape, write_random_model
from hugind.cli.bench.session_stage import private_memory
from hugind.supervisor.llama.binary import EngineBinary, resolve_binary

Result = TypeVar("Result")
Report = Callable[[str], None]

USUAL_SHAPE = Shape()


def run_bench(bench: Callable[[Path, Path | None], Coroutine[Any, Any, Result]]) -> Result:
    """The result of `bench`, which gets a folder on disk and one in memory, if there can be one. Blocks.

    To be called from the main thread.

    Raises:
        KeyboardInterrupt: it was interrupted, or told to stop by SIGTERM.
    """
    with tempfile.TemporaryDirectory(prefix="hugind-bench-") as name, private_memory() as memory_folder:
        try:
            with asyncio.Runner() as runner:
                return runner.run(_stoppable(bench(Path(name), memory_folder)))
        except asyncio.CancelledError:  # SIGTERM
            raise KeyboardInterrupt from None


async def find_engine_and_model(
    binary: EngineBinary | None, model: Path | None, folder: Path, report: Report, shape: Shape = USUAL_SHAPE
) -> tuple[EngineBinary, Path]:
    """Those given; else the engine that would be used, and random weights, which are written into `folder`.

    Raises:
        BinaryError: there is no engine.
    """
    if binary is None:
        binary = await asyncio.to_thread(resolve_binary)
    if model is None:
        report("writing a model of random weights")
        model = await asyncio.to_thread(write_random_model, folder / "random.gguf", shape)
    return binary, model


async def _stoppable(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
