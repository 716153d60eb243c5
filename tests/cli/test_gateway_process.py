"""The gateway as a process, from outside."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import psutil
import pytest

from hugind.cli import gateway_process
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, ProcessId, live_gateways
from hugind.supervisor.settings import Environment
from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL
from tests.fakes.standin import standin_binary

__all__ = ["standin_binary"]


def environment(home: Path) -> Environment:
    """As `read_environment` would give it."""
    return Environment(Home(home), None, None, None)


def test_describe_one_that_does_not_answer() -> None:
    """A gateway that is there and says nothing is described all the same, with the reason."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent = GatewayRecord(ProcessId.of_this(), "127.0.0.1", closed.getsockname()[1], ("demo",), "t", (), "log")
        about = gateway_process.describe(silent)

    assert about["engines"] == []
    assert "does not answer" in about["error"]
    assert about["pid"] == silent.process.pid


def test_list_tells_stopped_and_invalid(hugind: HugindCommand) -> None:
    """A config that nobody serves is stopped; one that cannot be read says where."""
    hugind.write_config("fine", f"model:\n  model_path: {DEMO_MODEL}\n")
    hugind.write_config("odd", "model:\n  model_path: x\n  modle: y\n")
    rows = {row["config"]: row for row in gateway_process.list_configs(environment(hugind.home))}

    assert rows["fine"]["state"] == "stopped"
    assert rows["odd"]["state"] == "invalid"
    assert "odd.yml:3: model.modle: unknown key" in rows["odd"]["reason"]


def test_a_stop_that_is_not_heard_ends_in_a_kill(
    hugind: HugindCommand, standin_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that does not end within its time is killed, and what it leaves behind is swept."""
    hugind.write_config(
        "demo",
        f"model:\n  model_path: {DEMO_MODEL}\nengine:\n  binary: {standin_binary}\n  drain_s: 0.1\n  stop_s: 0.1\n"
        "  save_s: 0.1\n",
    )
    assert hugind("server", "start", "demo", "--port", "0", "--detach").returncode == 0
    (record,) = live_gateways(Home(hugind.home))
    workers = [child.pid for child in psutil.Process(record.process.pid).children()]
    psutil.Process(record.process.pid).send_signal(signal.SIGSTOP)
    monkeypatch.setattr(gateway_process, "STOP_MARGIN_S", 0.5)
    gateway_process.stop_gateway(record, environment(hugind.home))

    assert workers
    assert not record.process.is_alive()
    assert not [pid for pid in workers if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert list((hugind.home / "run").iterdir()) == []


def test_an_engine_that_fails_leaves_no_gateway(hugind: HugindCommand, standin_binary: Path) -> None:
    """`start --detach` of an engine that cannot start: its words, exit code 1, and nothing runs."""
    hugind.write_config(
        "bad",
        f"model:\n  model_path: {DEMO_MODEL}\nengine:\n  binary: {standin_binary}\n"
        "  extra_args: [--fail-start, 'error: no such thing as luck']\n",
    )
    done = hugind("server", "start", "bad", "--port", "0", "--detach")

    assert done.returncode == 1
    assert "no such thing as luck" in done.stderr
    assert live_gateways(Home(hugind.home)) == []
    assert list((hugind.home / "run").iterdir()) == []
