"""Which server a command asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.where import connect
from tests.cli.hugind_command import silent_gateway


def test_of_this_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word about it: the gateway of the home that the environment names."""
    monkeypatch.setenv("HUGIND_HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with silent_gateway(tmp_path) as record:
        assert connect(None, None).record == record
    assert connect("http://10.0.0.5:99", None).url == "http://10.0.0.5:99"
