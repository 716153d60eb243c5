"""`hugind key`, as a person types it, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hugind.cli import key
from hugind.proxy.access import principal
from hugind.proxy.access.keys import key_id
from tests.cli.hugind_command import HugindCommand


def test_a_keys_life(either: HugindCommand) -> None:
    """Made with all that it can have; told, changed, rotated with a grace, revoked. Its secret is on stdout, once."""
    either("user", "create", "alice", "--no-key")
    made = either(
        *("key", "create", "--user", "alice", "--expires", "30d", "--models", "a, b", "--scopes", "all"),
        *("--from", "10.1.2.3/8,::1", "--delegates", "--note", "laptop", "--requests", "5", "--json"),
    )
    key = json.loads(made.stdout)
    left = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)

    assert made.returncode == 0, made.stderr
    assert key_id(key["secret"].encode()) == key["id"]
    assert key["secret"] not in made.stderr
    assert timedelta(days=29) < left < timedelta(days=30)
    assert (key["models"], key["networks"]) == (["a", "b"], ["10.0.0.0/8", "::1/128"])
    assert (key["scopes"], key["delegates"], key["limits"]) == (
        ["admin", "inference", "metrics", "models", "sessions"],
        True,
        {"requests": 5},
    )

    changed = either.json(
        *("key", "set", key["id"], "--expires", "never", "--models", "all", "--from", "anywhere", "--no-delegates"),
        *("--requests", "default", "--queued", "0"),
    )
    rotated = either("key", "rotate", key["id"], "--grace", "24h")
    new = rotated.stdout.strip()
    table = either("key", "list", "--user", "alice").stdout
    shown = either("key", "show", key["id"]).stdout

    assert (changed["expires_at"], changed["models"], changed["networks"]) == (None, None, [])
    assert (changed["delegates"], changed["limits"], changed["note"]) == (False, {"queued": 0}, "laptop")
    assert rotated.stdout == f"{new}\n"
    assert f"{key['id']} is good for another 24h" in rotated.stderr
    assert new not in rotated.stderr
    assert f"rotated to {key_id(new.encode())}" in table
    assert "0 waiting" in table
    assert "laptop" in shown
    assert key["secret"] not in table + shown

    kept = either("key", "revoke", key["id"])
    revoked = either("key", "revoke", key["id"], "--yes", "--json")
    listed = either.json("key", "list", "--user", "alice")
    every = either.json("key", "list", "--revoked")

    assert (kept.returncode, revoked.returncode) == (1, 0)
    assert "stays as it is" in kept.stderr
    assert json.loads(revoked.stdout)["revoked_at"] is not None
    assert [one["id"] for one in listed] == [key_id(new.encode())]
    assert [one["id"] for one in every] == [key["id"], key_id(new.encode())]


def test_what_goes_wrong(hugind: HugindCommand) -> None:
    """Unknown users and keys, a span without a unit, a scope or network that is none: told, and nothing is made."""
    hugind.is_here = True
    hugind("user", "create", "alice", "--no-key")
    wrong = [
        hugind("key", "create", "--user", "bob"),
        hugind("key", "rotate", "nothing1"),
        hugind("key", "create", "--user", "alice", "--scopes", "everything"),
        hugind("key", "create", "--user", "alice", "--from", "the office"),
        hugind("key", "create", "--user", "alice", "--expires", "0s"),
        hugind("key", "create", "--user", "alice", "--expires", "30"),
        hugind("key", "rotate", "nothing1", "--grace", "soon"),
        hugind("key", "set", "nothing1"),
        hugind("key", "create"),
    ]

    assert [done.returncode for done in wrong] == [1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert all(done.stdout == "" for done in wrong)
    assert "there is no user 'bob'" in wrong[0].stderr
    assert "hint:  hugind key list" in wrong[1].stderr
    assert "write it as 30d, 12h, 45m or 90s" in wrong[5].stderr
    assert hugind.json("key", "list") == []


def test_the_scopes_are_those_of_the_gateway() -> None:
    """The commands name them without loading it."""
    assert set(key.ALL_SCOPES) == principal.ALL_SCOPES
