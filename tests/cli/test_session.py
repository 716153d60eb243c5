"""`hugind session`, on the real engine: list, show, forget, export, import, pin; and without any gateway."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.hugind_command import KEY, HugindCommand
from tests.engines import DEMO_MODEL, engine_binary
from tests.eventually import eventually_sync

TALE = "Tell me of the slot that was never empty. " * 4
ESCAPE = "\x1b[31mred"


def config_text(extra: str = "") -> str:
    """A small chat config whose sessions are saved however short they are."""
    return (
        f"model:\n  model_path: {DEMO_MODEL}\ncontext:\n  ctx_size: 512\nengine:\n  binary: {engine_binary()}\n"
        f"sessions:\n  min_tokens: 8\n  disk_after_s: 0\n{extra}"
    )


def start(hugind: HugindCommand, *arguments: str) -> str:
    """Start detached on a free port; the gateway's address."""
    done = hugind("server", "start", *arguments, "--port", "0", "--detach")
    assert done.returncode == 0, done.stderr
    url: str = hugind.json("server", "status")["gateways"][-1]["url"]
    return url


def ask(url: str, user: str, text: str = TALE, **fields: Any) -> httpx.Response:
    """One turn."""
    body = {"model": "demo", "user": user, "messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def ask_until_saved(hugind: HugindCommand, url: str, user: str, text: str = TALE) -> str:
    """One turn; the id of its session, once that is on disk."""
    session = ask(url, user, text).headers["x-hugind-session-id"]
    folder = hugind.home / "sessions" / "demo"
    eventually_sync(lambda: [path for path in folder.rglob(f"{session}.json") if json.loads(path.read_text())["disk"]])
    return session


def ids(hugind: HugindCommand, *arguments: str) -> list[str]:
    """What `list` tells."""
    return [row["id"] for row in hugind.json("session", "list", *arguments)["sessions"]]


def test_a_sessions_life(hugind: HugindCommand, tmp_path: Path) -> None:
    """Listed and shown while a gateway runs, pinned, exported, imported for another user who goes on with it, and
    forgotten; read, and forgotten, from the files when nothing runs."""
    hugind.write_config("demo", config_text())
    url = start(hugind, "demo")
    alice = ask_until_saved(hugind, url, "alice")
    bob = ask_until_saved(hugind, url, "bob", ESCAPE * 8)
    table = hugind("session", "list")
    shown = hugind("session", "show", alice[:14])
    told = hugind.json("session", "show", alice.removeprefix("ses_"))
    odd = hugind("session", "show", bob)

    assert ids(hugind) == [bob, alice]
    assert ids(hugind, "--user", "alice", "--engine", "demo") == [alice]
    assert alice in table.stdout
    assert "environment/alice" in table.stdout
    assert "any-prefix" in table.stdout
    assert f"user: {TALE}" in shown.stdout
    assert told["messages"] == [{"role": "user", "content": TALE}]
    assert "\x1b" not in odd.stdout + table.stdout
    assert "red" in odd.stdout

    file = tmp_path / "alice.tar"
    exported = hugind("session", "export", alice, str(file))
    again = hugind("session", "export", alice, str(file))
    forced = hugind("session", "export", alice, str(file), "--force")
    imported = hugind("session", "import", str(file), "--engine", "demo", "--user", "carol")
    pinned = hugind("session", "pin", imported.stdout.strip())
    turn = ask(url, "carol")

    assert (exported.returncode, again.returncode, forced.returncode) == (0, 1, 0), exported.stderr
    assert "--force" in again.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()].count("alice.tar") == 1
    assert not list(tmp_path.glob(".alice*"))
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["manifest.json", "transcript.json", "snapshot.kv"]
    assert imported.returncode == 0, imported.stderr
    assert "imported for environment/carol" in imported.stderr
    assert pinned.returncode == 0
    assert turn.headers["x-hugind-session-id"] == imported.stdout.strip()
    assert turn.headers["x-hugind-session"] in ("warm", "cold")
    assert turn.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 8
    assert hugind.json("session", "show", imported.stdout.strip())["pinned"]
    assert hugind("session", "pin", imported.stdout.strip(), "--off").returncode == 0

    assert "--yes" in hugind("session", "forget", "--user", "bob").stderr
    assert hugind("session", "forget", bob, "--yes").returncode == 0
    assert bob not in ids(hugind)

    assert hugind("server", "stop").returncode == 0
    offline = hugind("session", "list", "--json")
    shown = hugind("session", "show", alice)
    needs = [
        hugind("session", "export", alice, str(tmp_path / "other.tar")),
        hugind("session", "import", str(file), "--engine", "demo"),
        hugind("session", "pin", alice),
    ]
    forgotten = hugind("session", "forget", "--user", "alice", "--yes")

    assert "no gateway runs" in offline.stderr
    assert {row["id"] for row in json.loads(offline.stdout)["sessions"]} == {alice, imported.stdout.strip()}
    assert f"user: {TALE}" in shown.stdout
    assert [done.returncode for done in needs] == [3, 3, 3]
    assert all("hugind server start" in done.stderr for done in needs)
    assert (forgotten.returncode, ids(hugind)) == (0, [imported.stdout.strip()])
    assert not list(hugind.home.rglob(f"{alice}*"))
    assert hugind("session", "forget", "--all", "--yes").returncode == 0
    assert not [path for path in (hugind.home / "sessions" / "demo").iterdir() if path.is_dir()]


def test_what_is_not_there(hugind: HugindCommand, tmp_path: Path) -> None:
    """An unknown id, engine or file is told with what to try; a beginning that fits several, too."""
    hugind.write_config("demo", config_text())
    url = start(hugind, "demo")
    for number in range(3):
        ask_until_saved(hugind, url, f"user {number}")
    unknown = hugind("session", "show", "nothing-like-it")
    several = hugind("session", "show", "ses_")
    no_engine = hugind("session", "list", "--engine", "nope")
    not_served = hugind("session", "import", "--engine", "nope", str(DEMO_MODEL))
    no_archive = hugind("session", "import", "--engine", "demo", str(DEMO_MODEL))
    no_file = hugind("session", "import", "--engine", "demo", str(tmp_path / "missing"))

    assert [done.returncode for done in (unknown, several, no_engine, not_served, no_archive, no_file)] == [1] * 6
    assert "hugind session list" in unknown.stderr
    assert "the beginning of several" in several.stderr
    assert "there is no engine 'nope'" in no_engine.stderr
    assert "hugind server start nope" in not_served.stderr
    assert "cannot be imported" in no_archive.stderr
    assert "missing" in no_file.stderr
    assert len(ids(hugind)) == 3
    assert len(ids(hugind, "--limit", "2")) == 2
    assert "1 older ones are not shown" in hugind("session", "list", "--limit", "2").stderr


@pytest.mark.parametrize("arguments", [(), ("ses_x", "--all"), ("--user", "alice", "--all")])
def test_who_is_forgotten_has_to_be_said(hugind: HugindCommand, arguments: tuple[str, ...]) -> None:
    """An id, a user or all, and only one of them: otherwise it is wrong usage."""
    done = hugind("session", "forget", *arguments, "--yes")

    assert done.returncode == 2
    assert "give an ID, or --user, or --all" in done.stderr


def test_an_empty_home(hugind: HugindCommand) -> None:
    """Nothing is listed and nothing made, and it says that no gateway runs."""
    done = hugind("session", "list", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout) == {"engines": [], "sessions": [], "total": 0}
    assert "no gateway runs" in done.stderr
    assert not hugind.home.exists()
