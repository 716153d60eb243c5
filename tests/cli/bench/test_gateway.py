"""`hugind bench gateway`, made tiny: what it reports, and that it cleans up. No number is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from hugind.cli.bench.gateway import GatewayBenchOptions, run_gateway_bench


def test_reports_every_number(tmp_path: Path) -> None:
    """One JSON object with the gateway's numbers on top, and the direct ones to compare with."""
    said: list[str] = []
    options = GatewayBenchOptions(
        requests=8, seconds=0.2, streams=2, chunks=5, token_ms=5, folder=tmp_path, use_nginx=False
    )
    result = json.loads(json.dumps(run_gateway_bench(options, said.append).as_json()))

    assert set(result["added_ttft_ms"]) == {"p50", "p99"}
    assert all(result["requests_per_s"][connections] > 0 for connections in ("1", "8", "64"))
    for key in ("cpu_us_per_request", "cpu_us_per_stream", "cpu_us_per_chunk"):
        assert result[key] >= 0
    assert result["rss_mb"] > 1
    assert result["failed"] == result["direct"]["failed"] == 0
    assert result["direct"]["requests_per_s"]["8"] > 0
    assert result["direct"]["unix"]["ttft_ms"]["p50"] > 0
    assert result["nginx"] is None
    assert result["machine"]["cores"] >= 1
    assert result["folder"] == str(tmp_path)
    assert any("first token" in line for line in said)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets lie there, whose names may not be long: pytest's own folders are deeper when tests run side by side."""
    with tempfile.TemporaryDirectory(prefix="hb-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(short_folder: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the gateway, its worker and the stand-ins, and remove the temporary folder."""
    argv = [sys.executable, "-m", "hugind.cli.main", "bench", "gateway", "--no-nginx", "--seconds", "60"]
    with subprocess.Popen(
        argv,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(short_folder)},
    ) as bench:
        try:
            assert bench.stderr is not None
            _read_until(bench.stderr, "1 connection")
            started = psutil.Process(bench.pid).children(recursive=True)
            bench.send_signal(number)
            code = bench.wait(30)
        finally:
            bench.kill()

    assert len(started) >= 4
    assert code == 130
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert not list(short_folder.iterdir())


def _read_until(lines: IO[str], word: str) -> None:
    """Returns at the line that holds `word`; the test's own timeout is the deadline."""
    for line in lines:
        if word in line:
            return
    pytest.fail(f"it ended without a word of {word!r}")
