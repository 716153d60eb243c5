"""What holds wherever limits are counted: in memory, in SQLite, in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.limit_database import DatabaseStore
from hugind.proxy.access.limit_stores import Limiter, MemoryStore, Store
from hugind.proxy.access.principal import UNLIMITED, Allowance, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.records.database import Database, parse_address
from tests.databases import PostgresServer

DAY_S = 86400.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1024.0

    def __call__(self) -> float:
        return self.now


def ann(limits: Allowance = UNLIMITED, key_limits: Allowance = UNLIMITED, key_id: str = "ab12") -> Principal:
    """A user with a key."""
    return Principal("ann", key_id=key_id, limits=limits, key_limits=key_limits)


@pytest.fixture
def clock() -> Clock:
    """The stores' clock."""
    return Clock()


@contextmanager
def database_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'hugind.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    address = server.create()
    try:
        yield address
    finally:
        server.drop(address)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def limiter(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Limiter]:
    """One of each kind."""
    async with AsyncExitStack() as stack:
        store: Store = MemoryStore(clock)
        if request.param != "memory":
            address = stack.enter_context(database_url(request.param, tmp_path, request))
            database = Database(parse_address(address, Path("unused")))
            stack.push_async_callback(database.aclose)
            await database.upgrade()
            store = DatabaseStore(database, clock=clock, answer_s=60)
        await stack.enter_async_context(store)
        yield Limiter(store)


async def is_admitted(limiter: Limiter, request_id: str, principal: Principal, tokens: int = 1) -> bool:
    """Whether a turn comes in."""
    try:
        await limiter.admit(request_id, principal, tokens)
    except ApiError:
        return False
    return True


async def test_a_crowd(limiter: Limiter) -> None:
    """Of 200 at once, exactly as many come in as may."""
    principal = ann(Allowance(requests=60))
    came = await asyncio.gather(*(is_admitted(limiter, f"r{number}", principal) for number in range(200)))

    assert 60 == sum(came)


async def test_tokens_are_reserved(limiter: Limiter) -> None:
    """Turns that run at the same time cannot spend what only one of them may; what is left over comes back."""
    principal = ann(Allowance(tokens_per_day=1000))
    came = await asyncio.gather(*(is_admitted(limiter, f"r{number}", principal, 300) for number in range(20)))
    assert 3 == sum(came)
    assert 100 == (await limiter.remaining(principal))["user"]["tokens_per_day"]["remaining"]

    fourth = await limiter.admit("r20", principal, 100)
    await fourth.settle(10)
    await fourth.settle(90)
    assert 90 == (await limiter.remaining(principal))["user"]["tokens_per_day"]["remaining"]


async def test_one_refusal_is_everybodys(limiter: Limiter) -> None:
    """What the key refuses is not counted for its user, and the other way round."""
    principal = ann(Allowance(requests=5), Allowance(requests=2))
    came = [await is_admitted(limiter, f"r{number}", principal) for number in range(4)]
    assert [True, True, False, False] == came

    other_key = ann(Allowance(requests=5), Allowance(requests=9), "cd34")
    assert 3 == sum([await is_admitted(limiter, f"s{number}", other_key) for number in range(6)])
    assert 6 == (await limiter.remaining(other_key))["key"]["requests"]["remaining"]


async def test_who_refuses_is_told(limiter: Limiter) -> None:
    """The user has room for more, the key has not."""
    principal = ann(Allowance(requests=5), Allowance(concurrent=1))
    await limiter.admit("a", principal, 1)
    with pytest.raises(ApiError, match=r"^this key may have 1 request at the same time") as refused:
        await limiter.admit("b", principal, 1)

    assert "4" == refused.value.headers["x-ratelimit-remaining-requests"]
    with pytest.raises(ApiError) as refused:
        await limiter.admit("b", principal, 1, "anthropic")
    assert 429 == refused.value.status
    assert "4" == refused.value.headers["anthropic-ratelimit-requests-remaining"]


async def test_a_place_is_free_once_a_turn_has_ended(limiter: Limiter) -> None:
    """And only then, however much time goes by."""
    principal = ann(Allowance(concurrent=2))
    first, _ = await limiter.admit("a", principal, 1), await limiter.admit("b", principal, 1)

    assert not await is_admitted(limiter, "c", principal)
    await first.settle(0)
    assert await is_admitted(limiter, "d", principal)
    assert not await is_admitted(limiter, "e", principal)


async def test_extending(limiter: Limiter) -> None:
    """As long as there are tokens; not after the turn has ended."""
    admission = await limiter.admit("a", ann(Allowance(tokens_per_minute=100)), 40)

    assert await admission.extend(50)
    assert 90 == admission.reserved
    assert not await admission.extend(11)
    assert 90 == admission.reserved
    await admission.settle(90)
    assert not await admission.extend(1)


async def test_a_window_goes_by(limiter: Limiter, clock: Clock) -> None:
    """Then all is there again."""
    principal = ann(Allowance(requests=1, window_s=10))

    assert await is_admitted(limiter, "a", principal)
    clock.now += 9.75
    assert not await is_admitted(limiter, "b", principal)
    clock.now += 0.25
    assert await is_admitted(limiter, "c", principal)


async def test_a_changed_limit(limiter: Limiter) -> None:
    """Counts with the next request."""
    for number in range(3):
        await limiter.admit(f"r{number}", ann(Allowance(requests=5)), 1)

    assert not await is_admitted(limiter, "r3", ann(Allowance(requests=3)))
    assert await is_admitted(limiter, "r3", ann(Allowance(requests=4)))


async def test_headers(limiter: Limiter) -> None:
    """What is left after this request, in either dialect; with no limits none."""
    admission = await limiter.admit("a", ann(Allowance(requests=60), Allowance(tokens_per_day=1000)), 100)
    openai = dict(admission.headers("openai"))

    assert (b"59", b"1m0s") == (openai[b"x-ratelimit-remaining-requests"], openai[b"x-ratelimit-reset-requests"])
    assert b"900" == openai[b"x-ratelimit-remaining-tokens"]
    assert b"900" == dict(admission.headers("anthropic"))[b"anthropic-ratelimit-tokens-remaining"]
    assert [] == (await limiter.admit("b", ann(Allowance(queued=3)), 1)).headers("openai")


async def test_remaining(limiter: Limiter) -> None:
    """Of each limit that is set, and of nothing else. Looking costs nothing."""
    principal = ann(Allowance(requests=60, concurrent=2), Allowance(tokens_per_day=1000))
    admission = await limiter.admit("a", principal, 100)
    await admission.settle(70)

    for _ in range(2):
        assert await limiter.remaining(principal) == {
            "user": {
                "requests": {"limit": 60, "remaining": 59, "reset_s": 60.0},
                "concurrent": {"limit": 2, "remaining": 2, "reset_s": 0.0},
            },
            "key": {"tokens_per_day": {"limit": 1000, "remaining": 930, "reset_s": DAY_S}},
        }
    assert await limiter.remaining(ann()) == {"user": {}, "key": {}}


async def test_without_limits() -> None:
    """Nothing is counted, and nothing is known afterwards."""
    store = MemoryStore()
    admission = await Limiter(store).admit("a", ann(), 10**9)
    await admission.settle(10**9)

    assert await admission.extend(10**9)
    assert 0 == admission.reserved == len(store)


async def test_another_store() -> None:
    """What was let in before is settled where it was let in."""
    principal, before, after = ann(Allowance(concurrent=1)), MemoryStore(), MemoryStore()
    limiter = Limiter(before)
    first = await limiter.admit("a", principal, 1)
    limiter.store = after
    assert await is_admitted(limiter, "b", principal)
    await first.settle(1)

    assert not await is_admitted(limiter, "c", principal)
    limiter.store = before
    assert await is_admitted(limiter, "d", principal)


async def test_the_idle_are_forgotten(clock: Clock) -> None:
    """However many come by in the course of time; who still has a turn is not."""
    store = MemoryStore(clock)
    limiter = Limiter(store)
    await limiter.admit("long", Principal("bob", limits=Allowance(concurrent=1)), 1)
    for number in range(1000):
        clock.now += 1
        principal = Principal(f"user{number}", limits=Allowance(requests=1, window_s=10))
        await (await limiter.admit(f"r{number}", principal, 1)).settle(1)

    assert len(store) < 30
    assert not await is_admitted(limiter, "again", Principal("bob", limits=Allowance(concurrent=1)))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40).map(lambda n: n / 4)), max_size=60))
def test_forgetting_lets_nobody_in_too_early(visits: list[tuple[int, float]]) -> None:
    """Users and keys that come and go in any order are counted as if all of them were remembered."""
    clock = Clock()
    limiter = Limiter(MemoryStore(clock))
    came: dict[int, list[float]] = {}

    async def visit_all() -> None:
        for number, (who, pause_s) in enumerate(visits):
            clock.now += pause_s
            principal = Principal(
                f"u{who}", key_id=f"k{who}", limits=Allowance(2, 10.0), key_limits=Allowance(requests=3, window_s=20.0)
            )
            times = came.setdefault(who, [])
            fits = sum(at > clock.now - 10 for at in times) < 2 and sum(at > clock.now - 20 for at in times) < 3
            is_in = True
            try:
                await (await limiter.admit(f"r{number}", principal, 1)).settle(1)
            except ApiError:
                is_in = False
            assert fits or not is_in
            if is_in:
                times.append(clock.now)

    asyncio.run(visit_all())
