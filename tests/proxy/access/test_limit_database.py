"""Gateways that share their limits, one of which is killed, and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import select

from hugind.proxy.access.limit_database import DatabaseStore
from hugind.proxy.access.limit_stores import Admission, Limiter
from hugind.proxy.access.limits import Account
from hugind.proxy.access.principal import Allowance, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.schema import limit_accounts
from hugind.supervisor import tasks
from tests.databases import PostgresServer
from tests.eventually import eventually

HOLD_S = 90.0
PATIENCE_S = 60.0
"""On a busy machine a transaction takes its time, and the database is not away for that."""


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1024.0

    def __call__(self) -> float:
        return self.now


class Gateways:
    """Any number of them on one database, each with connections of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Gateways:
        self.database = self._connect()
        await self.database.upgrade()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, clock: Clock | None = None, *, renew_s: float = 600) -> tuple[Limiter, DatabaseStore]:
        """One more."""
        store = DatabaseStore(
            self._connect(), hold_s=HOLD_S, renew_s=renew_s, retry_s=0.02, answer_s=PATIENCE_S, clock=clock
        )
        await self._stack.enter_async_context(store)
        return Limiter(store), store

    def _connect(self) -> Database:
        database = Database(parse_address(self._address, Path("unused")))
        self._stack.push_async_callback(database.aclose)
        return database


@pytest.fixture
async def gateways(database_address: str) -> AsyncIterator[Gateways]:
    """On a database of either kind."""
    async with Gateways(database_address) as started:
        yield started


def ann(limits: Allowance, key_limits: Allowance | None = None) -> Principal:
    """A user, perhaps with a key."""
    return Principal("ann", limits=limits, key_id="ab12", key_limits=key_limits or Allowance())


async def admitted(limiter: Limiter, request_id: str, principal: Principal, tokens: int = 1) -> Admission | None:
    """The turn, if it comes in."""
    try:
        return await limiter.admit(request_id, principal, tokens)
    except ApiError:
        return None


async def left(limiter: Limiter, principal: Principal, limit_name: str) -> int:
    """What a user has left of a limit."""
    remaining = await limiter.remaining(principal)
    return int(remaining["user"][limit_name]["remaining"])


async def test_a_crowd_at_two_gateways(gateways: Gateways) -> None:
    """Of 200 at once, exactly as many come in as may, by the database's own clock."""
    limiters = [(await gateways.start())[0] for _ in range(2)]
    principal = ann(Allowance(requests=60, window_s=3600), Allowance(requests=1000))
    came = await asyncio.gather(*(admitted(limiters[number % 2], f"r{number}", principal) for number in range(200)))

    assert 60 == sum(admission is not None for admission in came)


async def test_tokens_at_two_gateways(gateways: Gateways) -> None:
    """Turns that come, grow and end at the same time spend what there is and no more."""
    principal = ann(Allowance(tokens_per_day=1000), Allowance(tokens_per_minute=100_000))
    limiters = [(await gateways.start())[0] for _ in range(2)]
    spent: list[int] = []
    most_held = 0

    async def turn(number: int) -> None:
        nonlocal most_held
        admission = await admitted(limiters[number % 2], f"r{number}", principal, 8)
        if admission is None:
            return
        while await admission.extend(10) and admission.reserved < 8 + number:
            pass
        most_held = max(most_held, admission.reserved)
        spent.append(admission.reserved - number % 8)
        await admission.settle(spent[-1])

    await asyncio.gather(*(turn(number) for number in range(100)))
    for limiter in limiters:
        await limiter.remaining(principal)  # behind everything that was settled there

    assert most_held > 8
    assert sum(spent) <= 1000
    assert 1000 - sum(spent) == await left(limiters[0], principal, "tokens_per_day")


async def test_a_gateway_that_is_killed(gateways: Gateways) -> None:
    """What it held is free again after a while; what one holds that lives is not."""
    clock = Clock()
    killed, _ = await gateways.start(clock)
    lives, _ = await gateways.start(clock, renew_s=0.01)
    other, _ = await gateways.start(clock)
    principal = ann(Allowance(concurrent=3, tokens_per_day=1000))
    await killed.admit("a", principal, 100)
    await killed.admit("b", principal, 100)
    turn = await lives.admit("c", principal, 100)
    assert await turn.extend(50)
    assert await admitted(other, "d", principal) is None

    for _ in range(3):
        clock.now += 60  # and no more, before it has renewed
        async with asyncio.timeout(10):
            while await expiry(gateways, "c") < clock.now + HOLD_S:
                pass

    assert 2 == await left(other, principal, "concurrent")
    assert 850 == await left(other, principal, "tokens_per_day")
    await turn.settle(30)
    assert 3 == await left(lives, principal, "concurrent")
    assert 970 == await left(other, principal, "tokens_per_day")


async def expiry(gateways: Gateways, request_id: str) -> float:
    """When a hold expires, as it is written."""
    async with gateways.database.read() as connection:
        state = await connection.scalar(select(limit_accounts.c.state))
    return Account.from_json(str(state)).holds[request_id][1] or 0.0


async def test_who_leaves_while_asking_holds_nothing(gateways: Gateways) -> None:
    """A client that goes away in the very moment in which it is let in has no turn."""

    class Parting(Clock):
        def __call__(self) -> float:  # which is asked in the middle of the transaction
            asking.cancel()
            return self.now

    limiter, _ = await gateways.start(Parting())
    principal = ann(Allowance(concurrent=10, tokens_per_day=1000))
    asking = tasks.start(limiter.admit("a", principal, 100), "ask and leave")
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert 10 == await left(limiter, principal, "concurrent")
    assert 1000 == await left(limiter, principal, "tokens_per_day")


async def test_a_restart(gateways: Gateways) -> None:
    """What was used before counts after it."""
    principal = ann(Allowance(requests=3, window_s=3600))
    limiter, _ = await gateways.start()
    for number in range(2):
        admission = await limiter.admit(f"r{number}", principal, 1)
        await admission.settle(1)
    limiter, _ = await gateways.start()

    assert await admitted(limiter, "s0", principal)
    assert not await admitted(limiter, "s1", principal)


async def test_the_database_goes_away_and_comes_back(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile each gateway counts for itself, nobody sees an error, and what was admitted before is paid after."""
    address = postgres_server.create()
    try:
        async with Gateways(address) as gateways:
            limiter, store = await gateways.start()
            other, other_store = await gateways.start()
            principal = ann(Allowance(requests=3, window_s=3600, tokens_per_day=1000))
            before = await limiter.admit("a", principal, 100)

            postgres_server.allow(address, is_allowed=False)
            meanwhile = [await admitted(limiter, f"m{number}", principal, 200) for number in range(5)]
            assert [True, True, True, False, False] == [one is not None for one in meanwhile]
            assert store.is_away
            assert 400 == await left(limiter, principal, "tokens_per_day")
            assert await before.extend(50)
            await before.settle(140)
            for one in meanwhile:
                if one is not None:
                    await one.settle(200)
            assert await admitted(other, "o", principal) is not None

            postgres_server.allow(address, is_allowed=True)
            await eventually(lambda: not store.is_away and not other_store.is_away)
            await eventually_left(other, principal, 860)
            assert 2 == await left(other, principal, "requests")
            assert await admitted(limiter, "b", principal) is not None
            assert 1 == await left(other, principal, "requests")
        assert 2 == sum("counts limits for itself" in record.message for record in caplog.records)
    finally:
        postgres_server.drop(address)


async def eventually_left(limiter: Limiter, principal: Principal, tokens: int) -> None:
    """Wait until another gateway has written what its turns cost."""
    async with asyncio.timeout(10):
        while await left(limiter, principal, "tokens_per_day") != tokens:
            pass


async def test_tables_that_are_not_there(postgres_server: PostgresServer) -> None:
    """A gateway that began while the database was away counts in memory until it is what it has to be."""
    address = postgres_server.create()
    database = Database(parse_address(address, Path("unused")))
    try:
        async with DatabaseStore(database, retry_s=0.02, answer_s=PATIENCE_S) as store:
            limiter, principal = Limiter(store), ann(Allowance(requests=1))
            assert await admitted(limiter, "a", principal) is not None
            assert await admitted(limiter, "b", principal) is None
            await database.upgrade()
            await eventually(lambda: not store.is_away)
            assert await admitted(limiter, "c", principal) is not None
    finally:
        await database.aclose()
        postgres_server.drop(address)
