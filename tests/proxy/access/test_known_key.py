"""A key as the database has it: whom it stands for, until when, and when it stands for nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.access.known_key import SELECT_KEYS, KnownKey, read_key
from hugind.proxy.access.principal import UNLIMITED, USER_SCOPES, Allowance, Principal
from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import keys

ADMIN = Actor("root")
DEFAULTS = Allowance(requests=60, window_s=30, tokens_per_day=1000)
LATER = datetime(2030, 1, 1, tzinfo=UTC)
NOW = LATER.timestamp() - 86400


async def read(database: Database, key_id: str, now: float = NOW) -> KnownKey | None:
    async with database.read() as connection:
        row = (await connection.execute(SELECT_KEYS.where(keys.c.id == key_id))).one()
    return read_key(row, 7, DEFAULTS, now)


async def test_a_plain_key(database: Database) -> None:
    """All models, what users do, the limits of those who have none of their own; no end."""
    accounts = Accounts(database)
    await accounts.create_user(ADMIN, "alice")
    key, _ = await accounts.create_key(ADMIN, "alice")
    known = await read(database, key.id)

    assert known is not None
    assert (key.id, 7, math.inf) == (known.id, known.revision, known.ends_at)
    assert Principal("alice", None, USER_SCOPES, key.id, limits=DEFAULTS) == known.principal


async def test_a_key_with_everything(database: Database) -> None:
    accounts = Accounts(database)
    await accounts.create_user(ADMIN, "alice", priority=4, limits={"requests": None, "concurrent": 2, "window_s": 5})
    key, _ = await accounts.create_key(
        ADMIN, "alice", scopes=["admin"], models=["m"], networks=["10.0.0.0/8", "::1"], limits={"requests": 3},
        delegates=True, expires_at=LATER,
    )  # fmt: skip
    known = await read(database, key.id)

    assert known is not None
    assert known.principal == Principal(
        name="alice",
        engines=frozenset({"m"}),
        scopes=frozenset({"admin"}),
        key_id=key.id,
        priority=4,
        limits=Allowance(requests=None, window_s=5, tokens_per_day=1000, concurrent=2),
        key_limits=Allowance(requests=3),
        delegates=True,
        expires_at=LATER.timestamp(),
        networks=(ip_network("10.0.0.0/8"), ip_network("::1")),
    )
    known.allow(UNLIMITED)
    assert Allowance(window_s=5, concurrent=2) == known.principal.limits
    assert Allowance(requests=3) == known.principal.key_limits


@pytest.mark.parametrize(
    ("expires_in_s", "grace_s", "ends_in_s"), [(None, 50, 50), (100, 50, 50), (50, 100, 50), (50, None, 50)]
)
async def test_it_ends_when_the_first_of_two_does(
    sqlite_database: Database, expires_in_s: float | None, grace_s: float | None, ends_in_s: float
) -> None:
    """Its expiry, or the grace that it was left when it was rotated; at that very moment it is no key any more."""
    start = datetime.fromtimestamp(NOW, UTC)
    accounts = Accounts(sqlite_database, now=lambda: start)
    await accounts.create_user(ADMIN, "alice")
    expires_at = None if expires_in_s is None else start + timedelta(seconds=expires_in_s)
    key, _ = await accounts.create_key(ADMIN, "alice", expires_at=expires_at)
    if grace_s is not None:
        await accounts.rotate_key(ADMIN, key.id, grace_s)
    known = await read(sqlite_database, key.id)

    assert known is not None
    assert NOW + ends_in_s == known.ends_at == known.principal.expires_at
    assert await read(sqlite_database, key.id, NOW + ends_in_s - 0.001) is not None
    assert await read(sqlite_database, key.id, NOW + ends_in_s) is None


@pytest.mark.parametrize("how", ["revoked", "disabled", "deleted", "rotated"])
async def test_it_stands_for_nobody(sqlite_database: Database, how: str) -> None:
    accounts = Accounts(sqlite_database, now=lambda: datetime.fromtimestamp(NOW, UTC))
    await accounts.create_user(ADMIN, "alice")
    key, _ = await accounts.create_key(ADMIN, "alice")
    if how == "revoked":
        await accounts.revoke_key(ADMIN, key.id)
    elif how == "rotated":
        await accounts.rotate_key(ADMIN, key.id)
    elif how == "disabled":
        await accounts.update_user(ADMIN, "alice", {"is_enabled": False})
    else:
        await accounts.delete_user(ADMIN, "alice")

    assert await read(sqlite_database, key.id) is None


async def test_a_key_that_is_revoked_by_a_clock_ahead_of_ours(sqlite_database: Database) -> None:
    """Is revoked at once: only a rotation leaves a grace."""
    accounts = Accounts(sqlite_database, now=lambda: datetime.fromtimestamp(NOW + 3600, UTC))
    await accounts.create_user(ADMIN, "alice")
    key, _ = await accounts.create_key(ADMIN, "alice")
    await accounts.revoke_key(ADMIN, key.id)

    assert await read(sqlite_database, key.id) is None


@pytest.mark.parametrize("odd", [{"scopes": ["inference", "later"]}, {"limits": {"requests": 1, "later": 2}}])
async def test_what_a_newer_release_wrote(sqlite_database: Database, odd: Mapping[str, Any]) -> None:
    """A scope or limit that is not known here is as good as none."""
    accounts = Accounts(sqlite_database)
    await accounts.create_user(ADMIN, "alice")
    key, _ = await accounts.create_key(ADMIN, "alice", scopes=["inference"], limits={"requests": 1})
    async with sqlite_database.begin() as connection:
        await connection.execute(keys.update().values(**odd))
    known = await read(sqlite_database, key.id)

    assert known is not None
    assert (frozenset({"inference"}), Allowance(requests=1)) == (known.principal.scopes, known.principal.key_limits)
