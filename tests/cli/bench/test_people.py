"""Users of a bench's gateway: their keys open it, and every limit is counted."""

from __future__ import annotations

from pathlib import Path

from hugind.cli.bench.people import PLENTY, create_users
from hugind.proxy.access.principal import UNLIMITED
from hugind.proxy.access.user_keys import UserKeys
from hugind.proxy.records.database import open_database, parse_address
from hugind.supervisor.paths import Home


async def test_every_user_has_a_key(tmp_path: Path) -> None:
    secrets = await create_users(Home(tmp_path), ["a", "b"], PLENTY)
    database = await open_database(parse_address(None, Home(tmp_path).database))
    try:
        keys = UserKeys(database, UNLIMITED, 60)
        principals = [await keys.look_up(secret.encode(), None) for secret in secrets.values()]
    finally:
        await database.aclose()

    assert [principal and principal.name for principal in principals] == ["a", "b"]
    for principal in principals:
        assert principal is not None
        assert None not in vars(principal.limits).values()
