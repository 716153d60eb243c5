"""`hugind server`, on the real engine: start, status, queue, list, logs, restart, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hugind.cli.bench.standin import write_launcher
from tests.cli.hugind_command import KEY, HugindCommand
from tests.engines import DEMO_MODEL, engine_binary
from tests.eventually import eventually_sync


def config_text(model: Path = DEMO_MODEL, extra: str = "") -> str:
    """A small chat config on the engine under test."""
    return f"model:\n  model_path: {model}\ncontext:\n  ctx_size: 512\nengine:\n  binary: {engine_binary()}\n{extra}"


def start(hugind: HugindCommand, *arguments: str) -> dict[str, Any]:
    """Start detached on a free port; the gateway as `status` tells it."""
    done = hugind("server", "start", *arguments, "--port", "0", "--detach")
    assert done.returncode == 0, done.stderr
    gateway: dict[str, Any] = hugind.json("server", "status")["gateways"][-1]
    return gateway


def ask(gateway: dict[str, Any], model: str = "demo") -> httpx.Response:
    """One short turn."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{gateway['url']}/v1/chat/completions", json=body, headers=headers, timeout=60)


@contextmanager
def ask_and_leave(gateway: dict[str, Any]) -> Iterator[socket.socket]:
    """A long turn that is asked for, and given up at the end of the block."""
    body = json.dumps({"model": "demo", "prompt": "hi", "max_tokens": 4000, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", int(gateway["url"].rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        yield connection


def test_a_gateways_life(hugind: HugindCommand) -> None:
    """It starts, says so when asked to start again, lists its workers, restarts one engine and all, and stops whole."""
    hugind.write_config("demo", config_text())
    gateway = start(hugind, "demo")
    again = hugind("server", "start", "demo", "--detach")
    workers = hugind.json("server", "status")["workers"]
    answer = ask(gateway)
    listed = hugind.json("server", "list")
    refused = hugind("config", "remove", "demo", "--yes")

    assert "it already runs" in again.stderr
    assert [(w["engine"], w["state"]) for w in workers] == [("demo", "ready")]
    assert answer.status_code == 200
    assert [(row["config"], row["state"], row["url"]) for row in listed] == [("demo", "ready", gateway["url"])]
    assert "is being served" in refused.stderr

    assert hugind("server", "restart", "demo").returncode == 0
    eventually_sync(lambda: _ready_pids(hugind) and _ready_pids(hugind) != [workers[0]["pid"]], timeout_s=20)
    assert not _is_running(workers[0]["pid"])

    assert hugind("server", "restart").returncode == 0
    second = hugind.json("server", "status")["gateways"][0]
    assert second["pid"] != gateway["pid"]
    assert ask(second).status_code == 200

    pids = [second["pid"], *_ready_pids(hugind)]
    assert hugind("server", "stop").returncode == 0
    assert not [pid for pid in pids if _is_running(pid)]
    assert list((hugind.home / "run").iterdir()) == []
    assert hugind("server", "status").returncode == 3


def test_reload_replaces_only_what_changed(hugind: HugindCommand) -> None:
    """With --autoload: a changed config is replaced, a new one added, the rest keeps its process; a mistake changes
    nothing; SIGHUP does the same."""
    hugind.write_config("kept", config_text())
    changed = hugind.write_config("changed", config_text())
    gateway = start(hugind, "--autoload")
    before = _pids(hugind)
    changed.write_text(config_text(extra="server:\n  max_slots: 3\n"))
    hugind.write_config("new", config_text())
    (difference,) = hugind.json("server", "reload").values()
    eventually_sync(lambda: len(_ready_pids(hugind)) == 3, timeout_s=30)
    after = _pids(hugind)

    assert difference == {"added": ["new"], "removed": [], "replaced": ["changed"], "kept": ["kept"]}
    assert after["kept"] == before["kept"]
    assert after["changed"] != before["changed"]
    assert ask(gateway, "new").status_code == 200

    changed.write_text(config_text(extra="server:\n  max_slotz: 3\n"))
    refused = hugind("server", "reload")
    assert refused.returncode == 1
    assert "max_slotz: unknown key" in refused.stderr
    assert _pids(hugind) == after

    changed.unlink()
    os.kill(gateway["pid"], signal.SIGHUP)
    eventually_sync(lambda: sorted(_pids(hugind)) == ["kept", "new"], timeout_s=30)
    assert _pids(hugind)["kept"] == before["kept"]
    assert ask(gateway, "changed").status_code == 404


def test_restart_is_as_it_was_started(hugind: HugindCommand) -> None:
    """From a shell without the key: the key stays needed and the port stays. With a broken config: it goes on."""
    config = hugind.write_config("demo", config_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"LLAMA_SERVER_PORT": port}
    assert hugind("server", "start", "demo", "--detach", env=variables).returncode == 0
    restarted = hugind("server", "restart", env={"LLAMA_API_KEY": ""})
    (gateway,) = hugind.json("server", "status")["gateways"]
    without = httpx.get(f"{gateway['url']}/v1/models")

    assert restarted.returncode == 0, restarted.stderr
    assert gateway["url"] == f"http://127.0.0.1:{port}"
    assert without.status_code == 401

    config.write_text(config_text(extra="serverr: 1\n"))
    refused = hugind("server", "restart")
    assert refused.returncode == 1
    assert "it goes on" in refused.stderr
    assert "serverr: unknown key" in refused.stderr
    assert ask(gateway).status_code == 200


def test_reload_keeps_an_engine_whose_successor_cannot_start(hugind: HugindCommand, tmp_path: Path) -> None:
    """A missing file changes nothing; a corrupt one is told by the command, with the engine's words."""
    config = hugind.write_config("demo", config_text())
    gateway = start(hugind, "demo")
    config.write_text(config_text(tmp_path / "nowhere.gguf"))
    missing = hugind("server", "reload")
    still = ask(gateway).status_code
    corrupt = tmp_path / "corrupt.gguf"
    corrupt.write_bytes(DEMO_MODEL.read_bytes()[:100_000])
    config.write_text(config_text(corrupt))
    broken = hugind("server", "reload")

    assert missing.returncode == 1
    assert "nowhere.gguf" in missing.stderr
    assert still == 200
    assert broken.returncode == 1
    assert "not within the file bounds" in broken.stderr


def test_a_gateway_that_does_not_answer_is_told(hugind: HugindCommand) -> None:
    """`status` of a stopped process says so instead of showing nothing."""
    hugind.write_config("demo", config_text())
    gateway = start(hugind, "demo")
    os.kill(gateway["pid"], signal.SIGSTOP)
    try:
        told = hugind("server", "status")
    finally:
        os.kill(gateway["pid"], signal.SIGCONT)

    assert "does not answer" in told.stderr


def test_killed_gateway_leaves_nothing(hugind: HugindCommand) -> None:
    """After SIGKILL of the gateway its llama-server ends by itself, and the next start sweeps the rest."""
    hugind.write_config("demo", config_text())
    gateway = start(hugind, "demo")
    (worker,) = _ready_pids(hugind)
    os.kill(gateway["pid"], signal.SIGKILL)
    eventually_sync(lambda: not _is_running(worker), timeout_s=5)

    assert hugind("server", "status").returncode == 3
    start(hugind, "demo")
    assert not (hugind.home / "run" / str(gateway["pid"])).exists()


def test_bad_model_is_told_everywhere(hugind: HugindCommand, tmp_path: Path) -> None:
    """A corrupt GGUF: `start` fails with the engine's words; beside a good one it is told by `list` and by HTTP."""
    corrupt = tmp_path / "corrupt.gguf"
    corrupt.write_bytes(DEMO_MODEL.read_bytes()[:100_000])
    hugind.write_config("bad", config_text(corrupt))
    hugind.write_config("good", config_text())
    alone = hugind("server", "start", "bad", "--port", "0", "--detach")
    gateway = start(hugind, "--autoload")
    row = next(row for row in hugind.json("server", "list") if row["config"] == "bad")
    answer = ask(gateway, "bad")
    log = hugind("server", "logs", "bad").stdout

    words = "not within the file bounds"
    assert alone.returncode == 1
    assert words in alone.stderr
    assert row["state"] == "failed"
    assert words in row["reason"]
    assert answer.status_code == 503
    assert words in answer.json()["error"]["message"]
    assert words in log
    assert ask(gateway, "good").status_code == 200


def test_who_waits(hugind: HugindCommand, tmp_path: Path) -> None:
    """`queue` tells who waits for what; nothing runs: exit code 3."""
    nothing = hugind("server", "queue")
    launcher = write_launcher(tmp_path / "llama-server", "--token-ms", "50")
    text = f"model:\n  model_path: {DEMO_MODEL}\nengine:\n  binary: {launcher}\nserver:\n  max_slots: 1\n"
    hugind.write_config("demo", text)
    gateway = start(hugind, "demo")
    with ask_and_leave(gateway) as running:
        assert running.recv(1)
        with ask_and_leave(gateway):
            eventually_sync(lambda: _waiting(hugind), timeout_s=20)
            (turn,) = _waiting(hugind)
            table = hugind("server", "queue")

    assert (nothing.returncode, nothing.stdout) == (3, "")
    assert (turn["user"], turn["for"], turn["position"]) == ("environment", "slot", 1)
    assert table.returncode == 0, table.stderr
    for words in (gateway["url"], turn["request_id"], "environment", "slot"):
        assert words in table.stdout


def test_busy_port_is_told_before_anything_starts(hugind: HugindCommand) -> None:
    """A port in use: who has it, and what to do; no engine is started for it."""
    hugind.write_config("demo", config_text())
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = hugind("server", "start", "demo", "--port", str(port), "--detach")

    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is already in use" in done.stderr
    assert str(os.getpid()) in done.stderr
    assert "--port" in done.stderr
    assert not (hugind.home / "logs" / "demo-0.log").exists()


def test_no_key_no_network(hugind: HugindCommand) -> None:
    """Without a key nothing listens beyond loopback."""
    hugind.write_config("demo", config_text())
    done = hugind("server", "start", "demo", "--host", "0.0.0.0", "--port", "0", env={"LLAMA_API_KEY": ""})  # noqa: S104

    assert done.returncode == 1
    assert "no API key is configured" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_cleans_up(hugind: HugindCommand, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end a gateway in the foreground with everything it started."""
    hugind.write_config("demo", config_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "hugind.cli.main", "server", "start", "demo", "--port", "0"],
        env=hugind.env,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually_sync(lambda: _ready_pids(hugind), timeout_s=30)
        (worker,) = _ready_pids(hugind)
        process.send_signal(number)
        process.wait(30)
    finally:
        process.kill()
        process.wait()

    assert not _is_running(worker)
    assert list((hugind.home / "run").iterdir()) == []


def _ready_pids(hugind: HugindCommand) -> list[int]:
    printed = hugind("server", "status", "--json").stdout
    return [worker["pid"] for worker in json.loads(printed)["workers"] if worker["state"] == "ready"]


def _waiting(hugind: HugindCommand) -> list[dict[str, Any]]:
    waiting: list[dict[str, Any]] = hugind.json("server", "queue")["engines"][0]["waiting"]
    return waiting


def _pids(hugind: HugindCommand) -> dict[str, int]:
    return {worker["engine"]: worker["pid"] for worker in hugind.json("server", "status")["workers"]}


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
