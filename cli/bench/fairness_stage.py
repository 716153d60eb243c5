"""What the fairness bench runs: one gateway with an engine for each policy, users with keys of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hugind.cli.bench.child import POLL_S, bench_environment, start_child
from hugind.cli.bench.fairness_load import Person
from hugind.cli.bench.people import create_users
from hugind.cli.bench.session_stage import Play
from hugind.cli.client import GatewayClient
from hugind.supervisor.errors import HugindError
from hugind.supervisor.llama.binary import EMBEDDED
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, live_gateways

READY_TIMEOUT_S = 600
IDLE_TIMEOUT_S = 60
STOP_S = 60
PATIENCE_S = 3600
"""How long a turn may wait for a slot: nobody is turned away here."""
ROOM = 1000
"""Turns that may wait."""
EVERYBODY = "everybody"


@dataclass(frozen=True)
class Policy:
    """One way to decide whose turn is next."""

    name: str
    """Of its engine, too."""
    scheduling: str
    has_own_keys: bool
    """Every user has one; else they share one, and are one user to the gateway."""
    words: str


FIFO = Policy(
    "fifo",
    "batch",
    has_own_keys=False,
    words="everybody shares one key, `scheduling: batch`: turns start in the order of arrival, on whatever slot "
    "becomes free, as at a server that knows no users",
)
FAIR = Policy(
    "fair",
    "turns",
    has_own_keys=True,
    words="a key for each user, `scheduling: turns`: users take turns, who was served least comes first, each with "
    "the machine to itself",
)
POLICIES = (FIFO, FAIR)


class Scene:
    """A gateway that serves every policy. Lives inside `set_scene`."""

    def __init__(self, record: GatewayRecord, keys: dict[str, str], stack: AsyncExitStack) -> None:
        self.url = record.url
        self._record = record
        self._keys = keys
        self._stack = stack
        self._seed = 0

    async def person(self, policy: Policy, user: str) -> Person:
        """Somebody new under the policy; closed with the scene."""
        self._seed += 1
        key = self._keys[user if policy.has_own_keys else EVERYBODY]
        person = Person(user, self.url, engine=policy.name, key=key, seed=self._seed)
        return await self._stack.enter_async_context(person)

    async def until_idle(self, policy: Policy, slots: int) -> None:
        """Wait until nobody is served under the policy, and nobody waits.

        Raises:
            HugindError: somebody does after a minute still.
        """
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                while True:
                    engine = next(one for one in await _engines(self._record) if one["name"] == policy.name)
                    if engine["free_slots"] == slots and engine["waiting"] == 0:
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise HugindError(f"the slots of '{policy.name}' were not free within {IDLE_TIMEOUT_S} s") from None


@asynccontextmanager
async def set_scene(
    folder: Path, play: Play, policies: Sequence[Policy], users: Sequence[str], *, memory_folder: Path | None
) -> AsyncIterator[Scene]:
    """Start a gateway whose home is `folder`, every engine ready; ended on every way out.

    Raises:
        HugindError: it did not start; the message holds its last words.
    """
    home = Home(folder)
    home.create()
    for policy in policies:
        home.config(policy.name).write_text(yaml.safe_dump(_config(play, policy, memory_folder)))
    home.settings.write_text(yaml.safe_dump({"limits": {"requests": 0}}))
    keys = await create_users(home, [*users, EVERYBODY])
    names = [policy.name for policy in policies]
    argv = [sys.executable, "-m", "hugind.cli.main", "server", "start", *names, "--host", "127.0.0.1", "--port", "0"]
    async with AsyncExitStack() as stack:
        await start_child(
            stack, argv,
            name="gateway", folder=home.logs, env=bench_environment(home), is_ready=lambda: _is_ready(home),
            timeout_s=READY_TIMEOUT_S, stop_s=STOP_S,
        )  # fmt: skip
        yield Scene((await asyncio.to_thread(live_gateways, home))[0], keys, stack)


def _config(play: Play, policy: Policy, memory_folder: Path | None) -> dict[str, Any]:
    return {
        "model": {"model_path": str(play.model)},
        "context": {"ctx_size": play.ctx_size},
        "server": {"max_slots": play.slots, "scheduling": policy.scheduling},
        "engine": {"binary": EMBEDDED if play.binary.kind == "embedded" else play.binary.argv[0]},
        "sessions": {"memory_folder": str(memory_folder) if memory_folder else None},
        "limits": {"max_queue": ROOM, "max_wait_s": PATIENCE_S},
    }


async def _is_ready(home: Home) -> bool:
    records = await asyncio.to_thread(live_gateways, home)
    if not records:
        return False
    try:
        engines = await _engines(records[0])
    except HugindError:  # it does not answer yet, or never will
        return False
    for engine in engines:
        if engine["state"] == "failed":
            raise HugindError(f"the engine cannot serve: {engine['reason']}")
    return all(engine["state"] == "ready" for engine in engines)


async def _engines(record: GatewayRecord) -> list[dict[str, Any]]:
    return await asyncio.to_thread(GatewayClient(record).engines)
