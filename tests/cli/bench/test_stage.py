"""The stage of the gateway bench: everything is ready when it is set, and gone when it is left."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from hugind.cli.bench.load import measure_ttft
from hugind.cli.bench.stage import set_stage
from hugind.cli.bench.target import is_answering
from hugind.supervisor.errors import HugindError


async def test_everything_answers_and_ends(tmp_path: Path) -> None:
    """A gateway and two stand-ins answer; afterwards no process is left, the gateway's worker included."""
    me = psutil.Process()
    async with set_stage(tmp_path, use_nginx=False) as stage:
        actors = stage.actors()
        for actor in actors.values():
            await measure_ttft(actor.target, 1)
        started = me.children(recursive=True)

    assert list(actors) == ["direct", "direct_unix", "gateway"]
    assert len(started) >= 4
    assert not psutil.wait_procs(started, timeout=10)[1]


async def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    """Whatever happens inside, everything ends."""
    started: list[psutil.Process] = []

    async def stumble() -> None:
        async with set_stage(tmp_path, use_nginx=False) as stage:
            assert await is_answering(stage.gateway.target, "/readyz")
            started.extend(psutil.Process().children(recursive=True))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        await stumble()

    assert len(started) >= 4
    assert not psutil.wait_procs(started, timeout=10)[1]


async def test_folder_can_be_used_again(tmp_path: Path) -> None:
    """What an earlier stage left in its folder is not in the way."""
    for _ in range(2):
        async with set_stage(tmp_path, use_nginx=False) as stage:
            assert await is_answering(stage.direct_unix.target, "/health")

    assert (tmp_path / "configs" / "bench.yml").exists()


async def test_gateway_that_does_not_start_is_told(tmp_path: Path) -> None:
    """The error names who did not start and holds its last words."""
    (tmp_path / "settings.yml").write_text("nonsense: true\n")
    with pytest.raises(HugindError, match=r"gateway ended with \d+ instead of starting: (.|\n)*nonsense"):
        async with set_stage(tmp_path, use_nginx=False):
            pass


async def test_folder_must_fit_a_socket(tmp_path: Path) -> None:
    """A path that no UNIX socket can have is refused before anything starts."""
    with pytest.raises(HugindError, match="too long"):
        async with set_stage(tmp_path / ("x" * 100), use_nginx=False):
            pass
