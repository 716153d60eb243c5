"""Nothing that was admitted is missing from the usage log, and nothing is in it twice: whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from hugind.proxy.access.principal import Principal
from tests.databases import PostgresServer
from tests.eventually import eventually
from tests.proxy.people import add_user, bearer, rows
from tests.proxy.serving import Served, chat, connect, http_request, make_books, serving, standin_config

CHAT = "/v1/chat/completions"
TURNS = 5000
AT_ONCE = 24
KILL_EVERY = 700
PLENTY = {"requests": 10**9, "window_s": 86400.0}
"""A limit that is never reached: what is left of it tells how many were admitted."""


async def test_admitted_turns_are_rows(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """5,000 turns: whole, streamed, left by their client, cut by the death of a worker, while the database is away."""
    address = postgres_server.create()
    books = make_books(tmp_home(tmp_path), address=address)
    await books.database.upgrade()
    await books.database.aclose()
    config = standin_config(
        tmp_path,
        server={"max_slots": 4, "concurrency": 2},
        limits={"max_queue": AT_ONCE},
        engine={"max_deaths": 1000, "backoff_max_s": 0.05},
    )
    try:
        async with serving(tmp_path, {"chat": config}, database_address=address, drain_s=1) as served:
            secret = await add_user(served.gateway.books.accounts, "alice", PLENTY)
            # One whole request, so that the key is known before the database goes.
            assert (await served.client.get("/v1/models", headers=bearer(secret))).status_code == 200
            driver = _Driver(served, secret)
            async with asyncio.TaskGroup() as group:
                faults = group.create_task(_faults(served, driver, postgres_server, address))
                for number in range(AT_ONCE):
                    group.create_task(driver.drive(random.Random(number)))
            faults.result()
            await eventually(lambda: served.engine().state == "ready", 60)
            await eventually(lambda: served.leases().free == 8, 60)
            found = await rows(served)
            principal = served.gateway.books.keys.known(secret.encode())
            assert principal is not None
            admitted = await _admitted(served, principal)

        assert driver.sent == TURNS
        assert len(found) == len({row["request_id"] for row in found}) == admitted
        ids = {row["request_id"] for row in found}
        assert driver.answered <= ids
        ends = Counter(row["status_code"] for row in found)
        assert {200, 499, 502} <= set(ends), ends
        assert not [row for row in found if row["status_code"] == 200 and not row["completion_tokens"]]
    finally:
        postgres_server.drop(address)


def tmp_home(folder: Path) -> Any:
    from hugind.supervisor.paths import Home

    home = Home(folder)
    home.create()
    return home


class _Driver:
    """Clients of one user."""

    def __init__(self, served: Served, secret: str) -> None:
        self.sent = 0
        self.answered: set[str] = set()
        """The ids of requests that were answered with 200 or broke off after it."""
        self._served = served
        self._secret = secret

    async def drive(self, dice: random.Random) -> None:
        """One client after the other, until all turns were sent."""
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._served.port}", headers=bearer(self._secret), timeout=60, trust_env=False
        ) as client:
            while self.sent < TURNS:
                self.sent += 1
                kind = dice.random()
                if kind < 0.15:
                    await self._leave(dice)
                else:
                    await self._ask(client, is_stream=kind < 0.5)

    async def _ask(self, client: httpx.AsyncClient, *, is_stream: bool) -> None:
        try:
            answer = await client.post(CHAT, json=chat(max_tokens=4, stream=is_stream, standin={"token_ms": 0.5}))
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            self.answered.add(answer.headers["x-request-id"])

    async def _leave(self, dice: random.Random) -> None:
        async with connect(self._served.port) as client:
            body = chat(max_tokens=50, stream=True, standin={"token_ms": 2, "prefill_ms": 2})
            await client.send(http_request(body, key=self._secret))
            if dice.random() < 0.7:
                await client.reader.read(1)
            client.leave()


async def _faults(served: Served, driver: _Driver, server: PostgresServer, address: str) -> None:
    """Workers die by the way; the database goes away twice."""
    away_at, back_at = [TURNS // 5, TURNS * 3 // 5], [TURNS * 2 // 5, TURNS * 4 // 5]
    next_kill = KILL_EVERY
    while driver.sent < TURNS:
        await asyncio.sleep(0.01)
        if driver.sent >= next_kill:
            next_kill += KILL_EVERY
            if (spawn := served.worker(index=next_kill // KILL_EVERY % 2).spawn) is not None:
                os.kill(spawn.process.pid, signal.SIGKILL)
        if away_at and driver.sent >= away_at[0]:
            away_at.pop(0)
            await asyncio.to_thread(server.allow, address, is_allowed=False)
        if back_at and driver.sent >= back_at[0]:
            back_at.pop(0)
            await asyncio.to_thread(server.allow, address, is_allowed=True)
    if back_at:
        await asyncio.to_thread(server.allow, address, is_allowed=True)


async def _admitted(served: Served, principal: Principal) -> int:
    left = await served.gateway.books.limiter.remaining(principal)
    return PLENTY["requests"] - left["user"]["requests"]["remaining"]  # type: ignore[no-any-return]
