"""`hugind user`, as a person types it: on SQLite and PostgreSQL, with a gateway and without."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from hugind.proxy.access.keys import key_id
from tests.cli.hugind_command import HugindCommand, silent_gateway
from tests.cli.test_server import config_text, start
from tests.eventually import eventually_sync


def test_a_users_life(either: HugindCommand) -> None:
    """Made with a key that is printed alone; told, changed, disabled, enabled, deleted; and the name is gone."""
    made = either(
        "user", "create", "alice", "--requests", "120", "--window", "1m", "--tokens-per-day", "none", "--note", "x"
    )
    secret = made.stdout.strip()
    without = either("user", "create", "bob", "--no-key", "--priority", "-1", "--json")
    again = either("user", "create", "alice")

    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{secret}\n"
    assert key_id(secret.encode()) is not None
    assert secret not in made.stderr
    assert (json.loads(without.stdout)["priority"], json.loads(without.stdout)["key"]) == (-1, None)
    assert (again.returncode, again.stdout) == (1, "")
    assert "there is a user 'alice' already" in again.stderr

    changed = either.json("user", "set", "alice", "--requests", "default", "--concurrent", "2", "--priority", "3")
    disabled = either.json("user", "disable", "alice")
    table = either("user", "list").stdout
    enabled = either("user", "enable", "alice")
    shown = either("user", "show", "alice")

    assert changed["limits"] == {"window_s": 60, "tokens_per_day": None, "concurrent": 2}
    assert (changed["priority"], changed["note"], changed["keys"]) == (3, "x", 1)
    assert (disabled["is_enabled"], disabled["keys"]) == (False, 0)
    assert "disabled" in table
    assert "unlimited tokens/day, 2 turns" in table
    assert "enabled alice" in enabled.stderr
    for words in ("enabled", secret.split("_")[1], "used in all"):
        assert words in shown.stdout

    kept = either("user", "delete", "alice")
    deleted = either("user", "delete", "alice", "--yes")
    everybody = either.json("user", "list", "--deleted")

    assert (kept.returncode, deleted.returncode) == (1, 0)
    assert "user alice stays" in kept.stderr
    assert "--yes" in kept.stderr
    assert [user["username"] for user in either.json("user", "list")] == ["bob"]
    assert [(user["username"], user["deleted_at"] is None) for user in everybody] == [("alice", False), ("bob", True)]
    assert "it is not given again" in either("user", "create", "alice").stderr


def test_through_a_gateway(hugind: HugindCommand) -> None:
    """A gateway that runs takes changes at once: the key opens it, a disabled user's does not, nobody comes without."""
    hugind.write_config("demo", config_text())
    url = start(hugind, "demo")["url"]
    made = hugind("user", "create", "alice")
    secret = made.stdout.strip()

    assert "no gateway runs" not in made.stderr
    assert status(url, secret) == 200
    assert status(url, None) == 401

    assert hugind("user", "disable", "alice").returncode == 0
    assert status(url, secret) == 401
    assert hugind("user", "enable", "alice").returncode == 0
    eventually_sync(lambda: status(url, secret) == 200)
    changes = hugind.json("audit", "--target", "alice")
    assert {entry["actor"] for entry in changes} == {"control"}
    assert {entry["client_ip"] for entry in changes} == {"127.0.0.1"}

    assert hugind("user", "delete", "alice", "--yes").returncode == 0
    assert status(url, secret) == 401
    assert hugind("server", "stop").returncode == 0
    assert [user["username"] for user in hugind.json("user", "list", "--deleted")] == ["alice"]
    assert secret not in written(hugind.home)


def test_what_goes_wrong(hugind: HugindCommand) -> None:
    """A name that is none, an unknown user, nothing to change, a limit that is none; and a gateway that is silent."""
    bad_name = hugind("user", "create", "No Name")
    unknown = hugind("user", "disable", "../keys")
    nothing = hugind("user", "set", "alice")
    bad_limit = hugind("user", "create", "alice", "--requests", "many")
    with silent_gateway(hugind.home):
        silent = hugind("user", "list")

    assert [done.returncode for done in (bad_name, unknown, nothing, bad_limit, silent)] == [1, 1, 2, 2, 1]
    assert "username" in bad_name.stderr
    assert "there is no user '../keys'" in unknown.stderr
    assert "hint:  hugind user list" in unknown.stderr
    assert "say what is to be different" in nothing.stderr
    assert "--requests takes N, 'none' or 'default'" in bad_limit.stderr
    assert "does not answer" in silent.stderr
    assert hugind.json("user", "list") == []


@pytest.mark.parametrize("group", ["user", "key"])
def test_help_teaches(hugind: HugindCommand, group: str) -> None:
    """There is an example to try, and what a limit may be."""
    hugind.is_here = True

    assert f"For example:  hugind {group} create" in hugind(group, "--help").stdout
    assert f"$(hugind {group} create" in hugind(group, "create", "--help").stdout
    assert "'none' for no limit" in hugind(group, "set", "--help").stdout


def status(url: str, secret: str | None) -> int:
    """What a request with this key is answered."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx.get(f"{url}/v1/models", headers=headers).status_code


def written(home: Path) -> str:
    """Everything that is in the files of a home."""
    return "".join(path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file())
