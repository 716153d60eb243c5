"""`hugind bench fairness`, quick, on the real engine: what it reports, and that it cleans up. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.bench.interrupting import interrupt, left_in_memory
from tests.cli.bench.test_fairness_figures import NEEDED
from tests.engines import DEMO_MODEL, engine_binary

ARGV = [
    *(sys.executable, "-m", "hugind.cli.main", "bench", "fairness", "--model", str(DEMO_MODEL)),
    *("--binary", engine_binary(), "--quick"),
]


@pytest.mark.e2e
def test_reports_every_figure(tmp_path: Path) -> None:
    """One JSON object with the figures of both policies; every light user was served, and every busy one."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HUGIND_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [*ARGV, "--heavy", "8", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as bench:
        try:
            data, talk = bench.communicate(timeout=110)
        finally:
            bench.kill()
    assert bench.returncode == 0, talk
    said = json.loads(data)

    for policy in ("fifo", "fair"):
        assert said[policy].keys() >= NEEDED
        assert said[policy]["light"]["samples"] >= 4
        assert said[policy]["back_to_back"]["samples"] >= 4
        assert said[policy]["light_p95_wait_turns"] > 0
        assert {"busy-8", "busy-16", "busy-32", "busy-64"} == set(said[policy]["tokens"])
        assert f"{policy}, block 1 of 1: light users beside a heavy one" in talk
    assert said["turn_ms"] > 0
    assert (8, 4, 2) == tuple(said["workload"][key] for key in ("heavy_in_flight", "light_users", "slots"))
    assert "scheduling: turns" in said["policies"]["fair"]
    assert [] == list(tmp_path.iterdir())
    assert [] == left_in_memory(bench.pid)


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a crowd ends gateway and workers, and removes what they wrote."""
    interrupt(ARGV, "light users beside a heavy one", tmp_path)
