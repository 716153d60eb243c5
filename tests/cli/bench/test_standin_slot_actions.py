"""The stand-in's slot files, through its routes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.standin import StandinProcess, StartStandin

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a question of some length"}], "max_tokens": 4}


def act(standin: StandinProcess, slot: int, action: str, name: str | None = None) -> httpx.Response:
    return standin.client.post(f"/slots/{slot}?action={action}", json={} if name is None else {"filename": name})


def test_save_and_restore(start_standin: StartStandin, tmp_path: Path) -> None:
    """A saved slot is a file; restored elsewhere, after a restart, its conversation is warm."""
    flags = ("--parallel", "2", "--slot-save-path", str(tmp_path))
    first = start_standin(*flags)
    used = first.client.post("/v1/chat/completions", json={**CHAT, "id_slot": 0}).json()["usage"]["total_tokens"]
    saved = act(first, 0, "save", "a.bin").json()
    first.close()
    second = start_standin(*flags)
    restored = act(second, 1, "restore", "a.bin").json()
    warm = second.client.post("/v1/chat/completions", json={**CHAT, "id_slot": 1}).json()
    erased = act(second, 1, "erase").json()
    cold = second.client.post("/v1/chat/completions", json={**CHAT, "id_slot": 1}).json()

    assert saved["n_saved"] == restored["n_restored"] == used
    assert saved["n_written"] == restored["n_read"] == (tmp_path / "a.bin").stat().st_size
    assert warm["timings"]["cache_n"] == warm["usage"]["prompt_tokens"] - 1
    assert erased["n_erased"] == warm["usage"]["total_tokens"]
    assert cold["timings"]["cache_n"] == 0


def test_empty_slot_saves_a_file(start_standin: StartStandin, tmp_path: Path) -> None:
    """A save of nothing "succeeds" with n_saved 0, and restores."""
    standin = start_standin("--slot-save-path", str(tmp_path))
    saved = act(standin, 0, "save", "empty.bin").json()

    assert saved["n_saved"] == 0
    assert saved["n_written"] == (tmp_path / "empty.bin").stat().st_size > 0
    assert act(standin, 0, "restore", "empty.bin").json()["n_restored"] == 0


def test_failed_restore_empties_the_slot(start_standin: StartStandin, tmp_path: Path) -> None:
    """A file that is refused leaves nothing in its slot."""
    standin = start_standin("--slot-save-path", str(tmp_path))
    standin.client.post("/v1/chat/completions", json=CHAT)
    (tmp_path / "bad.bin").write_bytes(b"x" * 100)
    refused = [act(standin, 0, "restore", name).status_code for name in ("bad.bin", "none.bin")]

    assert refused == [400, 400]
    assert act(standin, 0, "erase").json()["n_erased"] == 0


def test_truncated_file_kills(start_standin: StartStandin, tmp_path: Path) -> None:
    """A file cut at its end aborts the process, as it aborts llama-server."""
    standin = start_standin("--slot-save-path", str(tmp_path))
    standin.client.post("/v1/chat/completions", json=CHAT)
    act(standin, 0, "save", "a.bin")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-1])
    with pytest.raises(httpx.RemoteProtocolError):
        act(standin, 0, "restore", "a.bin")

    assert standin.wait_exit() == -signal.SIGABRT


def test_save_waits_for_its_slot(start_standin: StartStandin, tmp_path: Path) -> None:
    """A save on a busy slot waits; if its client gives up, no file is written."""
    standin = start_standin("--slot-save-path", str(tmp_path))
    body = {**CHAT, "stream": True, "max_tokens": 1000, "standin": {"token_ms": 20}}
    with standin.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            standin.client.post("/slots/0?action=save", json={"filename": "given-up.bin"}, timeout=0.2)
    saved = act(standin, 0, "save", "patient.bin").json()

    assert saved["n_saved"] > 0
    assert [path.name for path in tmp_path.glob("*.bin")] == ["patient.bin"]


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a\\b", " a", "a.", "a:b", "a\nb", "x" * 256])
def test_file_names_are_checked(start_standin: StartStandin, tmp_path: Path, name: str) -> None:
    """Names that llama-server refuses are refused."""
    answer = act(start_standin("--slot-save-path", str(tmp_path)), 0, "save", name)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Invalid filename"


def test_hollow_restores(start_standin: StartStandin, tmp_path: Path) -> None:
    """On request, a restore succeeds and brings nothing back."""
    standin = start_standin("--slot-save-path", str(tmp_path), "--hollow-after", "1")
    standin.client.post("/v1/chat/completions", json={**CHAT, "id_slot": 0})
    saved = act(standin, 0, "save", "a.bin").json()["n_saved"]
    reused = []
    for _ in range(2):
        assert saved == act(standin, 0, "restore", "a.bin").json()["n_restored"]
        answer = standin.client.post("/v1/chat/completions", json={**CHAT, "id_slot": 0})
        reused.append(answer.json()["timings"]["cache_n"])

    assert reused[0] > reused[1] == 0


def test_slots_that_can_only_be_extended(start_standin: StartStandin) -> None:
    """On request, a slot is of no use to a prompt that leaves out the end of what it holds."""
    standin = start_standin("--extend-only")
    reused = []
    for prompt in ("one two three ", "one two three four ", "one two "):
        answer = standin.client.post("/completion", json={"prompt": prompt, "n_predict": 0, "id_slot": 0})
        reused.append(answer.json()["timings"]["cache_n"])

    assert reused == [0, 3, 0]
