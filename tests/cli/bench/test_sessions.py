"""`hugind bench sessions`, made tiny, on the real engine: what it reports, and that it cleans up. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.bench.interrupting import interrupt, left_in_memory
from tests.cli.bench.test_session_figures import NEEDED
from tests.engines import DEMO_MODEL, engine_binary

ARGV = [
    *(sys.executable, "-m", "hugind.cli.main", "bench", "sessions", "--model", str(DEMO_MODEL)),
    *("--binary", engine_binary(), "--users", "3", "--tokens", "600", "--rounds", "1"),
]


@pytest.mark.e2e
def test_reports_every_figure(tmp_path: Path) -> None:
    """One JSON object with the medians of the first run on top; every turn came from where it should."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HUGIND_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [*ARGV, "--new", "40", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as bench:
        try:
            data, talk = bench.communicate(timeout=110)
        finally:
            bench.kill()
    assert bench.returncode == 0, talk
    said = json.loads(data)

    assert said.keys() >= NEEDED
    for figure in ("best", "returning", "engine_cache", "after_kill", "after_restart", "after_reboot", "reprefill"):
        assert said[f"{figure}_ttft_ms"] > 0, figure
    assert said["cached_share"] > 0.5
    assert said["bytes_per_turn"] > 0
    assert {"after_kill", "after_restart", "after_reboot", "returning"}.isdisjoint(said["unexpected"])
    assert 40 == said["parts_ms"]["returning"]["computed_tokens"]
    assert [(600, 40)] == [(run["tokens"], run["new"]) for run in said["runs"]]
    assert "filling the history" in talk
    assert [] == list(tmp_path.iterdir())
    assert [] == left_in_memory(bench.pid)


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C ends gateway, worker and engine, and removes what they wrote."""
    interrupt(ARGV, "filling the history of user 2", tmp_path)
