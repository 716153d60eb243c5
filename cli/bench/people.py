"""Users of a bench's own gateway, each with a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hugind.supervisor.paths import Home

PLENTY: Mapping[str, Any] = {
    "requests": 10**9, "window_s": 60.0, "tokens_per_minute": 10**12, "tokens_per_day": 10**12, "concurrent": 10**6,
    "queued": 10**6,
}  # fmt: skip
"""Every limit is counted, and none is reached."""


async def create_users(home: Home, names: Sequence[str], limits: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The key of each, in the home's SQLite. For a gateway that starts after this.

    Raises:
        HugindError: there are such users already.
    """
    from hugind.proxy.access.accounts import Accounts, Actor  # with them comes the database's library
    from hugind.proxy.records.database import open_database, parse_address

    database = await open_database(parse_address(None, home.database))
    try:
        accounts, actor, keys = Accounts(database), Actor("bench"), {}
        for name in names:
            await accounts.create_user(actor, name, limits=dict(limits or {}))
            _, keys[name] = await accounts.create_key(actor, name)
        return keys
    finally:
        await database.aclose()
