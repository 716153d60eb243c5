"""The checks of `hugind doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.checks import Check, run_checks
from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL


def checks(home: Path, monkeypatch: pytest.MonkeyPatch, binary: str | None = "embedded") -> dict[str, Check]:
    """All checks of a home, by name."""
    monkeypatch.setenv("HUGIND_HOME", str(home))
    return {check.name: check for check in run_checks(binary)}


def test_an_empty_home_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything was made, all is well, and it says where to start."""
    found = checks(tmp_path / "home", monkeypatch)

    assert all(check.is_good for check in found.values())
    assert found["configs"].advice == "hugind config demo makes one"
    assert found["running"].says == "nothing"
    assert not (tmp_path / "home").exists(), "looking makes nothing"


def test_every_config_is_looked_at(hugind: HugindCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that cannot be read and one whose model is missing are problems, each with its own words."""
    hugind.write_config("good", f"model:\n  model_path: {DEMO_MODEL}\n")
    hugind.write_config("lost", "model:\n  model_path: nowhere.gguf\n")
    hugind.write_config("bad", "model: 7\n")
    found = checks(hugind.home, monkeypatch)

    assert [name for name, check in found.items() if not check.is_good] == ["config bad", "config lost"]
    assert "nowhere.gguf" in found["config lost"].says
    assert "bad.yml:1: model" in found["config bad"].says


def test_a_native_engine_needs_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the embedded engine comes with the advice to build a native one."""
    native = tmp_path / "llama-server"
    native.write_text("#!/bin/sh\necho 'version: 7 (abc)'\n")
    native.chmod(0o755)
    found = checks(tmp_path / "home", monkeypatch, str(native))["engine"]

    assert found.says == f"native 7 (abc): {native} (named on the command line)"
    assert found.advice is None


def test_settings_that_cannot_be_read(hugind: HugindCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in settings.yml is told by file and line."""
    hugind.home.mkdir()
    (hugind.home / "settings.yml").write_text("libb: x\n")
    found = checks(hugind.home, monkeypatch, None)["engine"]

    assert not found.is_good
    assert "settings.yml:1: libb: unknown key" in found.says
