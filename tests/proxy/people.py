"""Users of a gateway in tests, and what is on record of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import select

from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.access.principal import USER_SCOPES
from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import requests
from tests.proxy.serving import Served

TESTER = Actor("tester")


async def add_user(accounts: Accounts, name: str, limits: Mapping[str, Any] | None = None, **key: Any) -> str:
    """A new user; returns the secret of a key of theirs. `key`: as `add_key` takes it."""
    await accounts.create_user(TESTER, name, limits=dict(limits or {}))
    return await add_key(accounts, name, **key)


async def add_key(accounts: Accounts, name: str, **given: Any) -> str:
    """Another key of a user: its secret."""
    plain: dict[str, Any] = {
        "scopes": tuple(sorted(USER_SCOPES)), "models": None, "networks": (), "limits": {}, "delegates": False,
        "note": "", "expires_at": None,
    }  # fmt: skip
    _, secret = await accounts.create_key(TESTER, name, **{**plain, **given})
    return secret


def bearer(secret: str, **more: str) -> dict[str, str]:
    """Headers of a request with this key; `_` stands for `-`."""
    return {"Authorization": f"Bearer {secret}", **{name.replace("_", "-"): value for name, value in more.items()}}


def own_logs(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, but for what the test's own client says."""
    return "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))


async def rows_of(database: Database) -> list[dict[str, Any]]:
    """All that is on record of requests, oldest first."""
    async with database.read() as connection:
        found = await connection.execute(select(requests).order_by(requests.c.id))
        return [dict(row) for row in found.mappings()]


async def rows(served: Served) -> list[dict[str, Any]]:
    """As `rows_of`, with what waits to be written."""
    await served.gateway.books.usage.flush()
    return await rows_of(served.gateway.books.database)
