"""What every test of the supervisor gets: a home, quick configs, and proof that no process is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

from hugind.cli.bench.standin import write_launcher
from hugind.supervisor.llama.binary import EngineBinary, resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder, own_run_folder
from tests.eventually import eventually_sync

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""The gateway runs on uvloop; commands, and machines without it, on asyncio's own loop."""
ON_BOTH = ("test_process.py", "test_client.py", "test_stream.py")
ON_UVLOOP = ("test_worker_real.py",)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """On which event loops a test runs."""
    if item.path.name in ON_BOTH:
        return LOOPS
    kind = "uvloop" if item.path.name in ON_UVLOOP else "asyncio"
    return {kind: LOOPS[kind]}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home with its folders made."""
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def folder(home: Home) -> Iterator[RunFolder]:
    """The run folder of this process under `home`."""
    with own_run_folder(home) as folder:
        yield folder


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> EngineBinary:
    """The stand-in llama-server; faults go into `engine.extra_args`."""
    return resolve_binary(str(write_launcher(tmp_path_factory.mktemp("standin") / "llama-server")))


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """No test leaves a child behind, not even a zombie."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield

    def left() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]

    try:
        eventually_sync(lambda: not left())
    finally:
        for child in left():
            child.kill()
