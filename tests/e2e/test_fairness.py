"""Users cannot starve each other, on the real engine with two slots: who is next, and how much each of them gets.

Nothing here depends on how fast the machine is: what counts is the order in which the gateway gave its slots away, and
what was served within so many turns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hugind.cli.bench.fairness_figures import Served as Turn
from hugind.cli.bench.fairness_figures import jain
from hugind.cli.bench.fairness_load import Person, measure_crowd
from hugind.supervisor.config import Config
from tests.e2e.conftest import chat_config
from tests.proxy.people import add_user, rows
from tests.proxy.serving import Served, serving

pytestmark = pytest.mark.e2e

HEAVY_IN_FLIGHT, HEAVY_TOKENS = 32, 8
LIGHT, LIGHT_TOKENS = ("light-1", "light-2", "light-3", "light-4"), 7
"""One token less: so the rows of a shared key tell who was who."""
BUSY = {"busy-4": 4, "busy-16": 16, "busy-64": 64, "busy-128": 128}
BUSY_IN_FLIGHT = 4
WARM_UP_TURNS = 30
COUNTED_TURNS = 120
LIMIT_S = 90


@pytest.mark.parametrize(
    ("policy", "passed_by"), [("fair", range(3)), ("fifo", range(HEAVY_IN_FLIGHT // 2, HEAVY_IN_FLIGHT + 2))]
)
async def test_light_user_is_next(tmp_path: Path, policy: str, passed_by: range) -> None:
    """Beside 32 turns of one user, each turn of another comes next; in the order of arrival, after all of them.

    From the arrival of a light turn to its slot the heavy user gets none, or what was given away before the request had
    been read.
    """
    async with _people(tmp_path, policy, ("heavy", *LIGHT)) as (served, people):
        heavy = partial(people["heavy"].ask, 8, HEAVY_TOKENS)
        light = [partial(people[name].ask, 8, LIGHT_TOKENS) for name in LIGHT]
        await measure_crowd(heavy, light, in_flight=HEAVY_IN_FLIGHT, turns=3, pause_s=lambda: 0, limit_s=LIMIT_S)
        found = [row for row in await rows(served) if row["status_code"] == 200]

    granted = [_granted_at(row) for row in found if row["completion_tokens"] == HEAVY_TOKENS]
    light_rows = [row for row in found if row["completion_tokens"] == LIGHT_TOKENS]
    passed = [sum(row["created_at"].timestamp() < at < _granted_at(row) for at in granted) for row in light_rows]

    assert len(passed) >= 3 * len(LIGHT)
    assert set(passed) <= set(passed_by), passed


async def test_equally_busy_users_get_the_same(tmp_path: Path) -> None:
    """With answers of 4 to 128 tokens, four users get as many tokens each; in the order of arrival they do not."""
    shares = {policy: await _serve_busy(tmp_path / policy, policy) for policy in ("fair", "fifo")}

    assert {policy: set(BUSY) for policy in shares} == {policy: set(tokens) for policy, tokens in shares.items()}
    fair, fifo = (jain(list(shares[policy].values())) for policy in ("fair", "fifo"))
    assert fair is not None
    assert fifo is not None
    assert fair >= 0.95 > 0.9 > fifo, shares


async def _serve_busy(folder: Path, policy: str) -> Counter[str]:
    """Tokens of prompts and answers, of so many turns after the first ones."""
    folder.mkdir()
    ended: list[tuple[str, Turn]] = []
    async with _people(folder, policy, tuple(BUSY)) as (_, people), asyncio.timeout(LIMIT_S):

        async def ask_again(name: str) -> None:
            while len(ended) < WARM_UP_TURNS + COUNTED_TURNS:
                ended.append((name, await people[name].ask(8, BUSY[name])))

        async with asyncio.TaskGroup() as group:
            for name in BUSY:
                for _ in range(BUSY_IN_FLIGHT):
                    group.create_task(ask_again(name))
    counted: Counter[str] = Counter()
    for name, turn in ended[WARM_UP_TURNS:][:COUNTED_TURNS]:
        counted[name] += turn.tokens
    return counted


@asynccontextmanager
async def _people(folder: Path, policy: str, names: Sequence[str]) -> AsyncIterator[tuple[Served, dict[str, Person]]]:
    """Users of a gateway: each by a key of their own and in turns, or all by one key in the order of arrival."""
    is_fair = policy == "fair"
    config = Config.model_validate(
        chat_config(
            folder,
            device={"threads": 1, "threads_batch": 1},  # OpenMP threads wait for each other badly beside other work
            server={"max_slots": 2, "scheduling": "turns" if is_fair else "batch"},
        )
    )
    async with serving(folder, {"chat": config}) as served, AsyncExitStack() as stack:
        accounts = served.gateway.books.accounts
        secrets = {name: await add_user(accounts, name) for name in (names if is_fair else ("everybody",))}
        people = {
            name: Person(
                name,
                f"http://127.0.0.1:{served.port}",
                engine="chat",
                key=secrets[name if is_fair else "everybody"],
                seed=seed,
            )
            for seed, name in enumerate(names)
        }
        for person in people.values():
            await stack.enter_async_context(person)
        yield served, people


def _granted_at(row: dict[str, Any]) -> float:
    """When the turn got its slot, on the clock of `created_at`."""
    return float(row["created_at"].timestamp() + row["queue_ms"] / 1e3)
