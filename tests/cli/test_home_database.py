"""The database of a home."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import URL, text

from hugind.cli.home_database import configured_url, opened
from hugind.proxy.records.errors import DatabaseError
from hugind.supervisor.settings import Environment, read_environment


def environment(home: Path, **variables: str) -> Environment:
    """What is said by variables, and nothing else."""
    return read_environment({"HUGIND_HOME": str(home), **variables})


def test_which_one_it_is(tmp_path: Path) -> None:
    """The environment beats settings.yml, and that beats the file in the home."""
    alone = configured_url(environment(tmp_path))
    (tmp_path / "settings.yml").write_text("database_url: postgresql://one@host/set\n")
    set_there = configured_url(environment(tmp_path))
    named = configured_url(environment(tmp_path, DATABASE_URL="postgresql://one@host/named"))
    socket = configured_url(
        environment(
            tmp_path, POSTGRES_AUTH_HOST="/run/pg", POSTGRES_AUTH_DB="d b", POSTGRES_AUTH_USER="u",
            POSTGRES_AUTH_PASSWORD="p@ss word",
        )
    )  # fmt: skip

    assert alone.database == str(tmp_path / "hugind.db")
    assert set_there.database == "set"
    assert named.database == "named"
    assert (socket.database, socket.password, dict(socket.query)) == (
        "d b",
        "p@ss word",
        {"host": "/run/pg", "port": "5432"},
    )


async def test_what_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    """Not with the traceback of a driver, nor with what was asked of it."""
    (tmp_path / "hugind.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(DatabaseError, match=r"hugind\.db cannot be used: file is not a database") as caught:
        async with opened(configured_url(environment(tmp_path))) as database:
            await database.status()

    assert "\n" not in caught.value.message


async def test_no_parameter_is_told(tmp_path: Path) -> None:
    """They may be digests of keys."""
    statements = "CREATE TABLE digests (digest TEXT UNIQUE)", "INSERT INTO digests VALUES (:digest), (:digest)"
    with pytest.raises(DatabaseError) as caught:
        await run(configured_url(environment(tmp_path)), *statements, digest="hidden")

    assert "UNIQUE constraint failed" in caught.value.message
    assert "hidden" not in caught.value.message


async def run(url: URL, *statements: str, **values: str) -> None:
    """One after the other, in one transaction."""
    async with opened(url) as database, database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement), values if ":" in statement else {})
