"""The checks of `hugind doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.checks import Check, run_checks
from hugind.proxy.sessions.fingerprint import identify
from hugind.proxy.sessions.selftest import Ability, Verdict, Verdicts
from hugind.supervisor.config import load_config
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL
from tools.random_gguf import make_swa_gguf


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


def test_what_sessions_can_do(hugind: HugindCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family by the model's header, and what the self-test found, once there was one."""
    path = hugind.write_config("good", f"model:\n  model_path: {DEMO_MODEL}\n")
    before = checks(hugind.home, monkeypatch)["sessions good"]
    home = Home(hugind.home)
    home.create()
    fingerprint = identify(load_config(path), resolve_binary("embedded").build, home).fingerprint
    Verdicts(home.sessions / "verdicts.json").put(fingerprint, Verdict(Ability.ANY_PREFIX, "60 of 61 were reused"))
    after = checks(hugind.home, monkeypatch)["sessions good"]

    assert before.says == "attention model; what they can do is found out at its first start"
    assert after.says == "attention model; any-prefix: 60 of 61 were reused"


def test_what_a_window_costs(hugind: HugindCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a sliding window: how long it is, and the memory that keeping all of it takes."""
    model = make_swa_gguf(tmp_path / "swa.gguf", ctx=32768)
    text = f"model:\n  model_path: {model}\ncontext:\n  ctx_size: 16384\n"
    hugind.write_config("window", text)
    hugind.write_config("full", f"{text}  swa_full: true\n")
    hugind.write_config("small", f"{text}  cache_type_k: q8_0\n  cache_type_v: q8_0\n")
    found = checks(hugind.home, monkeypatch)
    costs = [_number_before(found[f"sessions {name}"].says, " MiB more") for name in ("window", "full", "small")]

    assert "swa model" in found["sessions window"].says
    assert "context.swa_full would take" in found["sessions window"].says
    assert "none: with context.swa_full" in found["sessions full"].says
    assert costs[0] == costs[1] > costs[2] > 0


def test_where_snapshots_go(hugind: HugindCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is memory for them is told; encryption without it is a problem, because it would not start."""
    folder = f"sessions:\n  memory_folder: {tmp_path}\n"
    model = f"model:\n  model_path: {DEMO_MODEL}\n"
    hugind.write_config("plain", model + folder)
    hugind.write_config("secret", f"{model}{folder}  encrypt: true\n")
    hugind.write_config("off", f"{model}sessions:\n  enabled: false\n")
    found = checks(hugind.home, monkeypatch)

    assert "/dev/shm" in found["snapshots"].says
    assert f"no memory for snapshots: {tmp_path} is not in memory" in found["sessions plain"].says
    assert not found["sessions secret"].is_good
    assert "sessions.enabled is false" in found["sessions off"].says


def test_a_model_that_is_none(hugind: HugindCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no GGUF file is a problem before anything is started."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"not a model")
    hugind.write_config("odd", f"model:\n  model_path: {model}\n")
    found = checks(hugind.home, monkeypatch)["sessions odd"]

    assert not found.is_good
    assert "not a GGUF file" in found.says


def _number_before(text: str, words: str) -> int:
    return int(text.partition(words)[0].rpartition(" ")[2].replace(",", ""))


@pytest.mark.parametrize(
    ("address", "is_good", "says"),
    [
        (None, True, "made with the first"),
        ("postgresql://u:secret@127.0.0.1:1/x", False, "cannot be"),
        ("mysql://u:secret@x/y", False, "not supported"),
    ],
)
def test_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, is_good: bool, says: str
) -> None:
    """Whether users can be looked up; never the password."""
    monkeypatch.setenv("HUGIND_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    if address is not None:
        monkeypatch.setenv("DATABASE_URL", address)
    (check,) = [check for check in run_checks(None) if check.name == "database"]

    assert check.is_good == is_good
    assert says in check.says
    assert "secret" not in check.says
