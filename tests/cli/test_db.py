"""`hugind db`: SQLite and PostgreSQL, by address and by parts, there and away."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from hugind.cli.home_database import configured_url, opened
from hugind.proxy.access.keys import key_id
from hugind.proxy.records.database import HEAD
from hugind.proxy.records.usage import write
from hugind.supervisor.settings import read_environment
from tests.cli.hugind_command import HugindCommand, silent_gateway
from tests.databases import PostgresServer
from tests.proxy.records.turns import mixed


def test_sqlite_is_made_by_itself(hugind: HugindCommand) -> None:
    """Nothing is there, nothing is made by looking; init makes it, once, with the first admin if asked."""
    before = hugind("db", "status", "--json")
    made = hugind("db", "init", "--first-admin")
    again = hugind.json("db", "init", "--first-admin")
    upgraded = hugind("db", "upgrade")
    (admin,) = hugind.json("key", "list")
    user = hugind.json("user", "show", "admin")

    assert before.returncode == 0
    assert json.loads(before.stdout)["revision"] is None
    assert "not made yet" in before.stderr
    assert made.returncode == 0, made.stderr
    assert key_id(made.stdout.strip().encode()) == admin["id"]
    assert made.stdout.strip() not in made.stderr
    assert (again["admin_key"], again["is_current"]) == (None, True)
    assert "is of this release already" in upgraded.stderr
    assert admin["scopes"] == ["admin", "inference", "metrics", "models", "sessions"]
    assert user["limits"] == {"requests": None}
    assert (hugind.home / "hugind.db").stat().st_mode & 0o777 == 0o600


def test_postgres_by_its_parts(hugind: HugindCommand, postgres_address: str) -> None:
    """POSTGRES_AUTH_*, a folder with a UNIX socket as host too: not ready until init; the password is never told."""
    hugind.use_postgres(postgres_address)
    hugind.env["POSTGRES_AUTH_PASSWORD"] = "p@ss w/rd"
    before = hugind("db", "status")
    refused = hugind("user", "create", "alice")
    made = hugind("db", "init")
    after = hugind("db", "status")
    alice = hugind("user", "create", "alice")

    assert hugind.env["POSTGRES_AUTH_HOST"]
    assert (before.returncode, refused.returncode) == (1, 1)
    assert "hint:  hugind db init" in before.stderr
    assert "hint:  hugind db init" in refused.stderr
    assert (made.returncode, after.returncode, alice.returncode) == (0, 0, 0), made.stderr
    assert "postgresql" in after.stdout
    assert HEAD in after.stdout
    for done in (before, refused, made, after, alice):
        assert "p@ss" not in done.stdout + done.stderr
        assert "p%40ss" not in done.stdout + done.stderr
    assert not (hugind.home / "hugind.db").exists()


def test_of_another_release(hugind: HugindCommand, postgres_address: str) -> None:
    """A newer one is left alone, an older one is not used as it is; it is told what to do."""
    hugind.is_here = True
    hugind.env["DATABASE_URL"] = postgres_address
    hugind("db", "init")
    with psycopg.connect(postgres_address, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = [hugind("db", "status"), hugind("db", "init"), hugind("db", "upgrade"), hugind("user", "list")]
    with psycopg.connect(postgres_address, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    older = [hugind("db", "status"), hugind("db", "init"), hugind("user", "list")]

    assert [done.returncode for done in newer + older] == [1] * 7
    assert all("newer release" in done.stderr for done in newer)
    assert all("hint:  hugind db upgrade" in done.stderr for done in older)


def test_a_database_that_is_away(hugind: HugindCommand) -> None:
    """Nothing listens there: told in a line, without the password; an address that is none, too."""
    hugind.is_here = True
    hugind.env["DATABASE_URL"] = "postgresql://me:hidden@127.0.0.1:1/name"
    wrong = [hugind("db", "status"), hugind("db", "init"), hugind("user", "list")]
    hugind.env["DATABASE_URL"] = "mysql://me:hidden@host/name"
    wrong += [hugind("db", "status"), hugind("usage")]
    del hugind.env["DATABASE_URL"]
    hugind.env["POSTGRES_AUTH_HOST"] = "somewhere"
    wrong.append(hugind("db", "status"))

    assert [done.returncode for done in wrong] == [1] * 6
    assert all("Traceback" not in done.stderr and "hidden" not in done.stderr for done in wrong)
    assert all("me:***@127.0.0.1:1/name" in done.stderr for done in wrong[:3])
    assert "'mysql' is not supported" in wrong[3].stderr
    assert "POSTGRES_AUTH_USER are needed together" in wrong[5].stderr


def test_a_gateway_that_runs_is_asked(hugind: HugindCommand) -> None:
    """Its database is what counts, not what this shell names; and nothing is copied behind its back."""
    with silent_gateway(hugind.home):
        status = hugind("db", "status")
        migrate = hugind("db", "migrate-to", "postgresql://me@127.0.0.1:1/name")

    assert (status.returncode, migrate.returncode) == (1, 1)
    assert "does not answer" in status.stderr
    assert "a gateway of this home runs" in migrate.stderr
    assert "hint:  hugind server stop" in migrate.stderr


def test_from_sqlite_to_postgres(hugind: HugindCommand, postgres_address: str) -> None:
    """Everything arrives and is counted; the key goes on being good there; not twice; SQLite stays as it was."""
    hugind.is_here = True
    secret = hugind("user", "create", "alice").stdout.strip()
    asyncio.run(_record(hugind, 40))
    moved = hugind("db", "migrate-to", postgres_address)
    again = hugind("db", "migrate-to", postgres_address)
    nowhere = hugind("db", "migrate-to")
    sideways = hugind("db", "migrate-to", f"sqlite:///{hugind.home / 'other.db'}")
    here = hugind.json("user", "list")
    hugind.use_postgres(postgres_address)
    there = hugind.json("user", "list")
    by_parts = hugind("db", "migrate-to")

    assert moved.returncode == 0, moved.stderr
    cells = {line.split()[0]: line.split()[1:] for line in moved.stdout.splitlines() if line.split()}
    assert cells["users"] == ["1", "1"]
    assert cells["llama_requests"] == ["40", "40"]
    assert cells["audit_log"] == ["2", "2"]
    assert "llama_requests: 40" in moved.stderr
    assert "database_url" in moved.stderr
    assert "POSTGRES_AUTH_*" in moved.stderr
    assert [done.returncode for done in (again, nowhere, sideways, by_parts)] == [1, 1, 1, 1]
    assert "is in use already" in again.stderr
    assert "hugind db migrate-to postgresql://" in nowhere.stderr
    assert "nothing can be copied" in sideways.stderr
    assert "is in use already" in by_parts.stderr
    assert here == there
    assert hugind.json("key", "list")[0]["id"] == secret.split("_")[1]
    assert hugind.json("usage")["total"]["requests"] == 40


@pytest.fixture
def postgres_address(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """An empty PostgreSQL database."""
    address = postgres_server.create()
    request.addfinalizer(lambda: postgres_server.drop(address))  # noqa: PT021 - a line instead of a block
    return address


async def _record(hugind: HugindCommand, count: int) -> None:
    async with opened(configured_url(read_environment(hugind.env))) as database:
        await write(database, [(row, None) for row in mixed(count)])
