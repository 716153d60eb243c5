"""`hugind audit`."""

from __future__ import annotations

from tests.cli.hugind_command import HugindCommand


def test_every_change_is_told(either: HugindCommand) -> None:
    """Who, what, of what, how; the latest first; narrowed down; never with a secret."""
    secret = either("user", "create", "alice", "--requests", "7", "--note", "hello").stdout.strip()
    either("user", "disable", "alice")
    table = either("audit")
    entries = either.json("audit")
    of_keys = either.json("audit", "--action", "key", "--since", "1h")
    one = either.json("audit", "--limit", "1", "--actor", "control", "--target", "alice")
    nobody = either.json("audit", "--actor", "nobody")

    assert table.returncode == 0, table.stderr
    assert [entry["action"] for entry in entries] == ["user.update", "key.create", "user.create"]
    assert {entry["actor"] for entry in entries} == {"control"}
    for words in ("user.create", "requests 7", "note=hello", "after={is_enabled False}"):
        assert words in table.stdout
    assert [entry["target"] for entry in of_keys] == [secret.split("_")[1]]
    assert [entry["action"] for entry in one] == ["user.update"]
    assert nobody == []
    assert secret not in table.stdout + str(entries)


def test_nothing_yet(hugind: HugindCommand) -> None:
    """An empty table, not an error; a point of time that is none is one."""
    assert hugind("audit").returncode == 0
    assert hugind("audit", "--since", "soon").returncode == 2
