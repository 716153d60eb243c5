"""What is said when a gateway runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hugind.cli import greeting
from hugind.supervisor.run_folder import GatewayRecord, ProcessId

NAMED = GatewayRecord(ProcessId(7, 0), "0.0.0.0", 8080, ("a", "b"), "t", ("server", "start", "a", "b"), "the.log")  # noqa: S104
ON_DEMAND = replace(NAMED, port=11434, argv=("serve",))


def test_named_configs(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is, with whom, and where to look."""
    greeting.greet(NAMED)
    said = capsys.readouterr().err

    assert said.startswith("hugind runs at http://127.0.0.1:8080 (pid 7), serving a, b\n")
    assert "the.log" in said


def test_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    """What it would load, and where clients point."""
    greeting.greet(ON_DEMAND)
    said = capsys.readouterr().err

    assert "loads what is asked for: a, b" in said
    assert "OLLAMA_HOST=http://127.0.0.1:11434\n" in said
    assert "OPENAI_BASE_URL=http://127.0.0.1:11434/v1\n" in said
    assert "hugind pull" not in said


def test_nothing_to_serve_yet(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty home: what to do next."""
    greeting.greet(replace(ON_DEMAND, configs=()))
    said = capsys.readouterr().err

    assert "hugind pull USER/REPO" in said
    assert "hugind config demo" in said
    assert "OLLAMA_HOST=http://127.0.0.1:11434" in said
