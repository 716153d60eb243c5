"""console.sh and runtime/install.sh, as a person runs them; the packages are installed already."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hugind.proxy.access.keys import key_id
from tests.cli.checkout import Checkout
from tests.engines import DEMO_MODEL


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout whose gateway is stopped after the test."""
    checkout = Checkout(tmp_path)
    checkout.pretend_installed()
    yield checkout
    console(checkout, "stop")


def console(checkout: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    """./console.sh"""
    return checkout("console.sh", *arguments)


def test_start_to_stop(checkout: Checkout) -> None:
    """start makes config.env (0600, random key), serves with it, restart takes its changes, stop leaves nothing."""
    install = checkout("runtime/install.sh", "--offline", "--dev")
    mode = stat.S_IMODE(checkout.config.stat().st_mode)
    checkout.edit("LLAMA_SERVER_PORT=8000", "LLAMA_SERVER_PORT=0")
    started = console(checkout, "start", "--offline")
    again = console(checkout, "start", "--offline")
    gateway = _gateway(checkout)
    key = checkout.values()["LLAMA_API_KEY"]

    assert install.returncode == 0, install.stderr
    assert mode == 0o600
    assert started.returncode == 0, started.stderr
    for words in (gateway["url"], "LLAMA_API_KEY in", "./console.sh stop"):
        assert words in started.stderr
    assert "already runs" in again.stderr
    assert _status(gateway["url"], key) == 200
    assert _status(gateway["url"], "wrong") == 401

    checkout.edit(key, "another-key")
    assert console(checkout, "restart").returncode == 0
    assert _status(_gateway(checkout)["url"], "another-key") == 200

    assert "stopped" in console(checkout, "stop").stderr
    assert console(checkout, "status").returncode == 3


def test_the_first_admin_key(checkout: Checkout) -> None:
    """The installer makes one, shows it once, keeps it in config.env; it opens the admin API, and no worker sees it."""
    first = checkout("runtime/install.sh", "--offline")
    second = checkout("runtime/install.sh", "--offline")
    secret = first.stdout.strip()
    checkout.edit("LLAMA_PROXY_ENABLED=0", "LLAMA_PROXY_ENABLED=1")
    checkout.edit("LLAMA_PROXY_PORT=8001", "LLAMA_PROXY_PORT=0")
    started = console(checkout, "start", "--offline")
    gateway = _gateway(checkout)
    users = httpx.get(f"{gateway['url']}/admin/v1/users", headers={"Authorization": f"Bearer {secret}"}).json()

    assert first.returncode == 0, first.stderr
    assert key_id(secret.encode()) is not None
    assert secret not in first.stderr
    assert (second.returncode, second.stdout) == (0, "")
    assert checkout.values()["HUGIND_ADMIN_KEY"] == secret
    assert checkout.config.read_text().count(secret) == 1
    assert stat.S_IMODE(checkout.config.stat().st_mode) == 0o600
    assert started.returncode == 0, started.stderr
    assert "./bin/user_management_cli.sh" in started.stderr
    assert [user["username"] for user in users["users"]] == ["admin"]
    for process in (gateway["pid"], *(worker["pid"] for worker in _status_of(checkout)["workers"])):
        assert secret not in Path(f"/proc/{process}/environ").read_text()
    assert secret not in "".join(path.read_text(errors="replace") for path in (checkout.home / "logs").iterdir())


def test_an_older_config_goes_on(checkout: Checkout) -> None:
    """One without LLAMA_PROXY_*: nothing is asked, nothing lost, and the admin's key is added once. With a user of that
    name there already none is made, and that is not tried again."""
    old = "LLAMA_API_KEY=k\nLLAMA_SERVER_HOST=127.0.0.1\nLLAMA_SERVER_PORT=0\nLLAMA_MODEL=demo"
    checkout.config.write_text(old)
    first = checkout("runtime/install.sh", "--offline")
    kept = checkout.config.read_text()
    checkout.config.write_text(old)
    other = checkout("runtime/install.sh", "--offline")
    silent = checkout("runtime/install.sh", "--offline")

    assert first.returncode == 0, first.stderr
    assert kept.startswith(old + "\n")
    assert kept.count("HUGIND_ADMIN_KEY=") == 1
    assert (other.returncode, other.stdout) == (0, "")
    assert "there is, or was, a user admin already" in other.stderr
    assert "HUGIND_ADMIN_KEY=" not in checkout.config.read_text()
    assert "admin" not in silent.stderr


def test_a_database_that_is_away(checkout: Checkout) -> None:
    """The installation says so and goes on; the next one makes up for it."""
    checkout.dotenv.write_text("DATABASE_URL='postgresql://me:hidden@127.0.0.1:1/hugind'\n")
    away = checkout("runtime/install.sh", "--offline")
    checkout.dotenv.unlink()
    back = checkout("runtime/install.sh", "--offline")

    assert (away.returncode, away.stdout) == (0, "")
    assert "127.0.0.1:1/hugind" in away.stderr
    assert "./bin/bootstrap_user_cli.sh" in away.stderr
    assert "hidden" not in away.stderr
    assert key_id(back.stdout.strip().encode()) is not None


def test_a_mistake_stops_nothing(checkout: Checkout) -> None:
    """`restart` with a model that does not exist leaves what runs running; it works through a symlink, too."""
    assert checkout("runtime/install.sh", "--dev").returncode == 0
    checkout.edit("LLAMA_SERVER_PORT=8000", "LLAMA_SERVER_PORT=0")
    assert console(checkout, "start").returncode == 0
    before = _gateway(checkout)
    checkout.edit("LLAMA_MODEL=demo", "LLAMA_MODEL=nope")
    refused = console(checkout, "restart")
    link = checkout.home.with_name("hg")
    link.symlink_to(checkout.root / "console.sh")
    through = subprocess.run(
        [str(link), "status", "--json"], env=checkout.env, capture_output=True, text=True, timeout=60, check=False
    )

    assert refused.returncode == 1
    assert "there is no config 'nope'" in refused.stderr
    assert json.loads(through.stdout)["gateways"][0]["pid"] == before["pid"]


def test_choose_a_model(checkout: Checkout) -> None:
    """`models` lists what there is; `start MODEL` and `restart MODEL...` choose, and it is kept once it is served."""
    assert checkout("runtime/install.sh", "--dev").returncode == 0
    checkout.edit("LLAMA_SERVER_PORT=8000", "LLAMA_SERVER_PORT=0")
    model = checkout.home / "someone" / "tiny-GGUF" / "tiny-Q8_0.gguf"
    model.parent.mkdir(parents=True)
    shutil.copy(DEMO_MODEL, model)
    before = checkout.config.read_text()
    mistakes = [console(checkout, "start", name) for name in ("nope", "$(id)", "a b")]
    kept = checkout.config.read_text()
    listed = console(checkout, "models").stdout
    started = console(checkout, "start", "tiny-Q8_0.gguf", "--offline")
    chosen = checkout.config.read_text()
    served = console(checkout, "models").stdout
    both = console(checkout, "restart", "demo", "someone/tiny-GGUF")
    again = console(checkout, "start")

    assert [done.returncode for done in mistakes] == [1, 2, 2]
    assert "there is no config 'nope'" in mistakes[0].stderr
    assert kept == before
    assert _states(listed) == {"demo": "stopped, chosen", "tiny-Q8_0": "stopped"}
    assert started.returncode == 0, started.stderr
    assert chosen == before.replace("LLAMA_MODEL=demo", "LLAMA_MODEL=tiny-Q8_0.gguf")
    assert stat.S_IMODE(checkout.config.stat().st_mode) == 0o600
    assert _states(served) == {"demo": "stopped", "tiny-Q8_0": "ready, chosen"}
    assert both.returncode == 0, both.stderr
    assert checkout.values()["LLAMA_MODEL"] == '"demo someone/tiny-GGUF"'
    assert "already runs" in again.stderr
    assert _states(console(checkout, "models").stdout) == {"demo": "ready, chosen", "tiny-Q8_0": "ready, chosen"}


def test_a_port_that_is_taken_by_another_model(checkout: Checkout) -> None:
    """`start MODEL` exchanges nothing that is served: it says how to, and chooses nothing."""
    assert checkout("runtime/install.sh", "--dev").returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    checkout.edit("LLAMA_SERVER_PORT=8000", f"LLAMA_SERVER_PORT={port}")
    other = checkout.home / "configs" / "other.yml"
    other.write_text((checkout.home / "configs" / "demo.yml").read_text())
    first = console(checkout, "start")
    second = console(checkout, "start", "other")

    assert first.returncode == 0, first.stderr
    assert second.returncode == 1
    assert "./console.sh restart other" in second.stderr
    assert checkout.values()["LLAMA_MODEL"] == "demo"


def test_unknown_command(checkout: Checkout) -> None:
    """A word that is no command: usage, exit code 2."""
    done = console(checkout, "frobnicate")

    assert done.returncode == 2
    assert "usage: ./console.sh COMMAND" in done.stderr


def _states(table: str) -> dict[str, str]:
    """What `models` says of each, by name."""
    rows = [line.split("   ") for line in table.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[-1] for row in cells if len(row) == 5 and row[0] != "name"}


def _status_of(checkout: Checkout) -> dict[str, list[dict[str, str]]]:
    told: dict[str, list[dict[str, str]]] = json.loads(console(checkout, "status", "--json").stdout)
    return told


def _gateway(checkout: Checkout) -> dict[str, str]:
    (gateway,) = _status_of(checkout)["gateways"]
    return gateway


def _status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
