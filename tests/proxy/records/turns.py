"""Turns for tests of the usage log, and what should be on record of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, func, select

from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import requests, usage_daily
from hugind.proxy.records.usage import UsageRow

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
SUMS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")


def turn(name: str, created_at: float = MIDNIGHT, **known: Any) -> UsageRow:
    """A turn that went well."""
    fields: dict[str, Any] = {"username": "alice", "path": "/v1/chat/completions", "dialect": "openai", "model": "m"}
    return UsageRow(name, created_at, **{**fields, "status_code": 200, "duration_ms": 2.0, **known})


def mixed(count: int, seed: int = 1, days: int = 6) -> list[UsageRow]:
    """Turns of several users, keys and models, over some days; some have failed. Durations sum up exactly."""
    chance = random.Random(seed)
    return [
        turn(
            f"req_{seed}_{number}",
            MIDNIGHT + chance.choice([0, chance.randrange(days * 86400), chance.randrange(days) * 86400]),
            username=chance.choice(["alice", "bob", "carol"]),
            key_id=chance.choice([None, "k1", "k2"]),
            model=chance.choice(["small", "large"]),
            status_code=chance.choice([200, 200, 200, 499, 502]),
            error_code=chance.choice([None, None, None, "engine_died"]),
            duration_ms=float(chance.randrange(1000)),
            ttft_ms=chance.choice([None, 0.5]),
            prompt_tokens=chance.randrange(1000),
            cached_tokens=chance.randrange(100),
            completion_tokens=chance.randrange(1000),
            stream=chance.choice([True, False]),
        )
        for number in range(count)
    ]


def sums_of(rows: Iterable[UsageRow]) -> dict[str, float]:
    """What `report` should say of them all."""
    rows = list(rows)
    return {
        "requests": len(rows),
        "failed": sum(row.status_code >= 400 or row.error_code is not None for row in rows),
        **{name: sum(getattr(row, name) for row in rows) for name in SUMS[2:]},
    }


def sums_by_day(rows: Iterable[UsageRow]) -> dict[tuple[Any, ...], dict[str, float]]:
    """What the table of daily sums should hold."""
    groups = defaultdict(list)
    for row in rows:
        day = datetime.fromtimestamp(row.created_at, UTC).date()
        groups[day, row.username, row.key_id or "", row.model].append(row)
    return {key: sums_of(group) for key, group in groups.items()}


async def daily(database: Database) -> dict[tuple[Any, ...], dict[str, float]]:
    """The table of daily sums."""
    async with database.read() as connection:
        found = (await connection.execute(select(usage_daily))).mappings().all()
    keys = ("day", "username", "key_id", "model")
    return {tuple(line[key] for key in keys): {name: line[name] for name in SUMS} for line in found}


async def recorded(database: Database) -> dict[str, dict[str, Any]]:
    """Every row, by its request's id."""
    async with database.read() as connection:
        found = (await connection.execute(select(requests))).mappings().all()
    return {line["request_id"]: dict(line) for line in found}


async def count(database: Database, table: Table) -> int:
    """Rows of a table."""
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)
