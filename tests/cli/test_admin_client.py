"""The admin API for commands, where no gateway runs or one does not answer. Through one that runs: test_user.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hugind.cli.admin_client import AdminClient
from hugind.cli.home_database import configured_url, opened
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.records.usage import write
from hugind.supervisor.errors import HugindError
from hugind.supervisor.settings import Environment, read_environment
from tests.cli.hugind_command import silent_gateway
from tests.proxy.records.turns import mixed


@pytest.fixture
def environment(database_address: str, tmp_path: Path) -> Environment:
    """A home with a database of either kind, as it was made: empty. Nothing runs."""
    return read_environment({"HUGIND_HOME": str(tmp_path / "home"), "DATABASE_URL": database_address})


@pytest.fixture
def admin(environment: Environment) -> Iterator[AdminClient]:
    """A client of a database that is ready."""

    async def prepare() -> None:
        async with opened(configured_url(environment)) as database:
            await database.upgrade()
            await write(database, [(row, None) for row in mixed(25)])

    asyncio.run(prepare())
    with AdminClient.of_home(environment) as client:
        yield client


def test_the_same_routes_without_a_gateway(admin: AdminClient) -> None:
    """Made, told, changed and removed; every change is on record as one of the home's owner."""
    made = admin.post("/users", {"username": "alice", "limits": {"requests": 5}})
    changed = admin.patch("/users/alice", {"is_enabled": False})
    gone = admin.delete("/users/alice")
    actions = admin.get("/audit", actor="control")["entries"]

    assert (made["limits"], changed["is_enabled"], gone["deleted"]) == ({"requests": 5}, False, "alice")
    assert admin.get("/users") == {"users": []}
    assert [entry["action"] for entry in actions] == ["user.delete", "user.update", "user.create"]


def test_refusals_are_told_with_what_to_try(admin: AdminClient) -> None:
    """In the words of the API; unknown users and keys with the command that lists them."""
    with pytest.raises(HugindError, match="there is no user 'bob'") as no_user:
        admin.get("/users/bob")
    with pytest.raises(HugindError, match="there is no key 'abcdefgh'") as no_key:
        admin.delete("/keys/abcdefgh")
    with pytest.raises(HugindError, match="username") as invalid:
        admin.post("/users", {"username": "No Name"})
    with pytest.raises(HugindError, match="GET /admin/v1/nothing: Not Found"):
        admin.get("/nothing")

    assert [caught.value.hint for caught in (no_user, no_key, invalid)] == ["hugind user list", "hugind key list", None]


@pytest.mark.parametrize(("limit", "count"), [(0, 25), (7, 7), (25, 25), (99, 25)])
def test_pages(admin: AdminClient, limit: int, count: int) -> None:
    """As many rows as were asked for, each once, however long a page is."""
    ids = [row["id"] for row in admin.pages("/usage/requests", "requests", limit=limit, page_rows=10)]

    assert len(ids) == len(set(ids)) == count
    assert ids == sorted(ids, reverse=True)


def test_a_new_database(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    """SQLite is made by itself, PostgreSQL wants to be told; either way it is said which one is asked."""
    if configured_url(environment).get_backend_name() == "sqlite":
        with AdminClient.of_home(environment) as client:
            assert client.get("/users") == {"users": []}
        assert "no gateway runs: asking sqlite" in capsys.readouterr().err
        return
    with pytest.raises(DatabaseError, match="there are no tables in") as caught, AdminClient.of_home(environment):
        pass

    assert caught.value.hint == "hugind db init"
    assert "no gateway runs: asking postgresql" in capsys.readouterr().err


def test_a_gateway_that_does_not_answer(environment: Environment) -> None:
    """Nothing is done behind its back: it is told which one, and where its log is."""
    with (
        silent_gateway(environment.home.root) as record,
        AdminClient.of_home(environment) as client,
        pytest.raises(HugindError, match=r"the gateway at http://127\.0\.0\.1:1 \(pid \d+\) does not answer") as caught,
    ):
        client.get("/users")

    assert caught.value.hint == f"see its log: {record.log}"
