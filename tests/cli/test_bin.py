"""bin/*.sh, as a person runs them, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from hugind.proxy.access.keys import key_id
from tests.cli.checkout import Checkout

BOOTSTRAP, USERS = "bin/bootstrap_user_cli.sh", "bin/user_management_cli.sh"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout with everything installed and nothing set up."""
    checkout = Checkout(tmp_path)
    checkout.pretend_installed()
    return checkout


@pytest.fixture
def ready(checkout: Checkout, database_address: str) -> Checkout:
    """Bootstrapped, with a database of either kind; PostgreSQL is named in .env."""
    if database_address.startswith("postgresql"):
        checkout.dotenv.write_text(dotenv_of(database_address))
    done = checkout(BOOTSTRAP, "--offline")
    assert done.returncode == 0, done.stderr
    assert key_id(done.stdout.strip().encode()) is not None
    return checkout


def dotenv_of(address: str) -> str:
    """POSTGRES_AUTH_* as a person writes them, quotes and all."""
    url = make_url(address)
    parts = {
        "HOST": url.host or url.query["host"],
        "PORT": url.port or "",
        "DB": url.database,
        "USER": url.username,
        "PASSWORD": url.password or "not asked for",
    }
    return "".join(f"POSTGRES_AUTH_{name}={shlex.quote(str(value))}\n" for name, value in parts.items())


def test_bootstrap_twice(checkout: Checkout) -> None:
    """The first run makes .env (0600, all of it comments), config.env, the database and the admin's key; the next
    changes nothing."""
    first = checkout(BOOTSTRAP, "--offline")
    files = [path.read_text() for path in (checkout.dotenv, checkout.config)]
    second = checkout(BOOTSTRAP, "--offline")

    assert first.returncode == 0, first.stderr
    assert stat.S_IMODE(checkout.dotenv.stat().st_mode) == 0o600
    assert all(line.startswith("#") for line in files[0].splitlines())
    assert checkout.values()["HUGIND_ADMIN_KEY"] == first.stdout.strip()
    assert (checkout.home / "hugind.db").exists()
    assert "create-user --username alice" in first.stderr
    assert (second.returncode, second.stdout) == (0, "")
    assert [path.read_text() for path in (checkout.dotenv, checkout.config)] == files


def test_the_commands(ready: Checkout) -> None:
    """Every one of them, as the help lists them, with the database that .env names."""
    made = ready(USERS, "create-user", "--username", "alice", "--note", "two words")
    another = ready(USERS, "create-key", "--username=alice", "--expires", "30d")
    rotated = ready(USERS, "rotate-key", "--key", key_of(another), "--grace", "24h")
    listed = json.loads(ready(USERS, "list-keys", "--username", "alice", "--json").stdout)
    asked = ready(USERS, "revoke-key", "--key", key_of(made))
    steps = [
        ready(USERS, "init-db"),
        ready(USERS, "revoke-key", "--key", key_of(made), "--yes"),
        ready(USERS, "disable-user", "--username", "alice"),
        ready(USERS, "enable-user", "--username", "alice"),
        ready(USERS, "list-users"),
        ready(USERS, "usage", "--username", "alice", "--since", "7d", "--csv"),
        ready(USERS, "delete-user", "--username", "alice", "--yes"),
    ]

    assert [key_of(done) for done in (made, another, rotated)] == [key["id"] for key in listed]
    assert asked.returncode == 1
    assert [done.returncode for done in steps] == [0] * 7, [done.stderr for done in steps]
    assert "two words" in steps[4].stdout
    assert steps[5].stdout.startswith("user,requests,")
    assert "deleted alice" in steps[6].stderr
    is_sqlite = not ready.dotenv.read_text().startswith("POSTGRES")
    assert (ready.home / "hugind.db").exists() == is_sqlite


def test_what_goes_wrong(checkout: Checkout) -> None:
    """A word that is no command, a name that is missing, a file that the shell cannot read: told, and what to do."""
    unknown = checkout(USERS, "frobnicate")
    nameless = checkout(USERS, "create-user", "--no-key")
    valueless = checkout(USERS, "create-key", "--username")
    keyless = checkout(USERS, "rotate-key")
    taught = checkout(USERS, "create-user", "--help")
    helped = [checkout(USERS), checkout(USERS, "--help"), checkout(BOOTSTRAP, "--help")]
    checkout.dotenv.write_text("POSTGRES_AUTH_HOST=somewhere\n")
    half = checkout(USERS, "list-users")
    checkout.dotenv.write_text("POSTGRES_AUTH_PASSWORD='not ended\n")
    broken = checkout(USERS, "list-users")

    assert [done.returncode for done in (unknown, nameless, valueless, keyless, half)] == [2, 2, 2, 2, 1]
    assert "usage: ./bin/user_management_cli.sh COMMAND" in unknown.stderr
    assert "create-user needs --username NAME" in nameless.stderr
    assert "create-key needs a value for --username" in valueless.stderr
    assert "rotate-key needs --key ID" in keyless.stderr
    assert "--tokens-per-day" in taught.stdout
    assert all(done.returncode == 0 and "usage: ./bin/" in done.stdout for done in helped)
    assert "needed together" in half.stderr
    assert broken.returncode != 0
    assert str(checkout.dotenv) in broken.stderr
    assert not checkout.home.exists()


def test_without_an_installation(tmp_path: Path) -> None:
    """The command that installs is told; through a symlink from anywhere."""
    checkout = Checkout(tmp_path)
    link = tmp_path / "users"
    link.symlink_to(checkout.root / USERS)
    done = subprocess.run([str(link), "list-users"], env=checkout.env, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (3, "")
    assert "hugind is not installed yet" in done.stderr
    assert "./bin/bootstrap_user_cli.sh" in done.stderr


def key_of(done: subprocess.CompletedProcess[str]) -> str:
    """The public id of the key that was printed, alone."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() not in done.stderr
    public_id = key_id(done.stdout.strip().encode())
    assert public_id is not None
    return public_id
