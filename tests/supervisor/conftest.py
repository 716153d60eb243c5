"""What every test of the supervisor gets: a home, quick configs, and proof that no process is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hugind.cli.bench.standin import write_launcher
from hugind.supervisor.llama.binary import EngineBinary, resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder, own_run_folder
from tests.eventually import eventually_sync


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
