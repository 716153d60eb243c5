"""The keys of users in memory: known without asking, gone as soon as they change, safe while the database is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.access import user_keys as user_keys_module
from hugind.proxy.access.accounts import Accounts, Actor
from hugind.proxy.access.keys import make_key
from hugind.proxy.access.misses import BURST, INTERVAL_S
from hugind.proxy.access.principal import UNLIMITED, Allowance, Principal
from hugind.proxy.access.user_keys import CHUNK, POLL_SLACK_S, UserKeys
from hugind.proxy.errors import ApiError
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.schema import keys, revisions, users
from hugind.supervisor import tasks
from tests.databases import PostgresServer, access_revision
from tests.eventually import eventually

ADMIN = Actor("root")
HERE = "192.0.2.1"
STALE_S = 900.0


class Clock:
    """Both clocks, as a test wants them. In whole seconds: a database keeps no less than a microsecond."""

    def __init__(self) -> None:
        self.wall = float(int(time.time()))
        self.steady = 0.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@dataclass
class Hold:
    """A place where a reader waits."""

    has_come: asyncio.Event = field(default_factory=asyncio.Event)
    is_released: asyncio.Event = field(default_factory=asyncio.Event)
    then: Callable[[], None] = lambda: None
    """What happens right after it went on."""


class WatchedDatabase(Database):
    """Counts who reads, and holds readers up after they have read."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.reads = 0
        self._holds: dict[int, Hold] = {}

    def hold(self, nth: int = 1) -> Hold:
        """The next reader, or the `nth` from now, waits with what it has read until it is released."""
        hold = self._holds[self.reads + nth] = Hold()
        return hold

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        self.reads += 1
        hold = self._holds.pop(self.reads, None)
        async with super().read() as connection:
            yield connection
        if hold is not None:
            hold.has_come.set()
            await hold.is_released.wait()
            asyncio.get_running_loop().call_soon(hold.then)


@dataclass
class Gate:
    """A gateway's view of the keys, and the accounts of whoever changes them."""

    keys: UserKeys
    database: WatchedDatabase
    accounts: Accounts
    clock: Clock
    ended: list[frozenset[str]] = field(default_factory=list)

    async def add(self, username: str = "alice", **given: Any) -> tuple[str, bytes]:
        """A key's id and secret; its user is made where there is none."""
        if username not in [user.username for user in await self.accounts.users()]:
            await self.accounts.create_user(ADMIN, username)
        key, secret = await self.accounts.create_key(ADMIN, username, **given)
        return key.id, secret.encode()

    async def ask(self, key: bytes, address: str | None = HERE) -> Principal | None:
        """As the gateway does it."""
        return self.keys.known(key) or await self.keys.look_up(key, address)


@asynccontextmanager
async def opened(address: str, **options: Any) -> AsyncIterator[Gate]:
    clock = Clock()
    ours, theirs = (WatchedDatabase(parse_address(address, Path("unused"))) for _ in range(2))
    user_keys = UserKeys(ours, UNLIMITED, STALE_S, now=lambda: clock.wall, monotonic=lambda: clock.steady, **options)
    gate = Gate(user_keys, ours, Accounts(theirs, now=lambda: datetime.fromtimestamp(clock.wall, UTC)), clock)
    user_keys.on_ended(gate.ended.append)
    try:
        yield gate
    finally:
        await ours.aclose()
        await theirs.aclose()


@pytest.fixture
async def gate(database: Database, database_address: str) -> AsyncIterator[Gate]:
    """Of either kind of database. Nothing is polled: changes are noticed when the test says so."""
    async with opened(database_address) as found:
        await found.keys.refresh()
        yield found


@pytest.fixture
async def sqlite_gate(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Gate]:
    """The same, where the kind of database makes no difference."""
    async with opened(f"sqlite:///{tmp_path / 'hugind.db'}") as found:
        await found.keys.refresh()
        yield found


async def code_of(asking: Any) -> tuple[int, str | None]:
    """With what it is refused."""
    with pytest.raises(ApiError) as refused:
        await asking
    assert (refused.value.retry_after_s or 0) >= 1
    return refused.value.status, refused.value.code


# ---- good keys and others


async def test_a_good_key_is_asked_for_once(gate: Gate) -> None:
    """From then on it is known, without the database."""
    key_id, secret = await gate.add(models=["m"])
    assert gate.keys.known(secret) is None
    principal = await gate.keys.look_up(secret, HERE)
    reads = gate.database.reads

    assert principal is not None
    assert ("alice", key_id, frozenset({"m"})) == (principal.name, principal.key_id, principal.engines)
    assert principal is gate.keys.known(secret) is await gate.keys.look_up(secret, HERE)
    assert reads == gate.database.reads


async def test_what_is_no_key_never_reaches_the_database(sqlite_gate: Gate) -> None:
    """However often, and from wherever: it is as quick as that."""
    reads = sqlite_gate.database.reads
    _, secret = await sqlite_gate.add()
    for wrong in (b"", b"secret", b"hgk_", secret[:-1], secret + b"x", secret.swapcase(), b"\xff\0", b"' OR 1=1 --"):
        for _ in range(BURST):
            assert await sqlite_gate.ask(wrong) is None

    assert reads == sqlite_gate.database.reads


async def test_a_key_that_nobody_made_is_asked_for_once(gate: Gate) -> None:
    """It looks like one. The answer is remembered until something changes."""
    made = make_key()
    reads = gate.database.reads
    for _ in range(3):
        assert await gate.ask(made.secret.encode()) is None
    assert gate.database.reads == reads + 1

    key_id, _ = await gate.add()
    async with gate.database.begin() as connection:
        await connection.execute(keys.update().where(keys.c.id == key_id).values(digest=made.digest))
        await connection.execute(revisions.update().values(value=revisions.c.value + 1))
    assert await gate.ask(made.secret.encode()) is None
    await gate.keys.refresh()

    assert await gate.ask(made.secret.encode()) is not None


async def test_two_who_ask_for_the_same_key_at_once(gate: Gate) -> None:
    """Ask once, and neither suffers when the other leaves."""
    _, secret = await gate.add()
    reads = gate.database.reads
    hold = gate.database.hold()
    asking = [tasks.start(gate.keys.look_up(secret, HERE), "ask") for _ in range(3)]
    await hold.has_come.wait()
    asking[0].cancel()
    hold.is_released.set()
    first, second, third = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, Principal)
    assert second is third
    assert gate.database.reads == reads + 1


async def test_a_bounded_number_is_remembered(sqlite_database: Database, tmp_path: Path) -> None:
    """The key that was not used for longest goes; it is only looked up again."""
    async with opened(f"sqlite:///{tmp_path / 'hugind.db'}", max_keys=2, max_refused=2) as gate:
        await gate.keys.refresh()
        secrets = [(await gate.add())[1] for _ in range(3)]
        await gate.keys.refresh()
        for secret in secrets[:2]:
            await gate.ask(secret)
        assert gate.keys.known(secrets[0])
        await gate.ask(secrets[2])
        others = [make_key().secret.encode() for _ in range(3)]
        for other in others:
            await gate.ask(other)
        reads = gate.database.reads
        for other in others[1:]:
            await gate.ask(other)

        assert [True, False, True] == [gate.keys.known(secret) is not None for secret in secrets]
        assert await gate.ask(secrets[1])
        assert [] == gate.ended
        assert await gate.ask(others[0]) is None
        assert gate.database.reads == reads + 2


# ---- changes


@pytest.mark.parametrize("how", ["revoke", "rotate", "disable", "delete"])
async def test_a_key_that_ends_is_refused(gate: Gate, how: str) -> None:
    """As soon as the change is noticed; whoever listens is told which key, and of no other."""
    key_id, secret = await gate.add()
    _, other = await gate.add("bob")
    assert await gate.ask(secret)
    assert await gate.ask(other)
    if how == "revoke":
        await gate.accounts.revoke_key(ADMIN, key_id)
    elif how == "rotate":
        await gate.accounts.rotate_key(ADMIN, key_id)
    elif how == "disable":
        await gate.accounts.update_user(ADMIN, "alice", {"is_enabled": False})
    else:
        await gate.accounts.delete_user(ADMIN, "alice")
    await gate.keys.refresh()
    reads = gate.database.reads

    assert gate.keys.known(secret) is None
    assert await gate.ask(secret) is None
    assert gate.keys.known(other)
    assert gate.database.reads == reads
    assert [frozenset({key_id})] == gate.ended


async def test_a_user_who_is_enabled_again(gate: Gate) -> None:
    _, secret = await gate.add()
    assert await gate.ask(secret)
    for is_enabled in (False, True):
        await gate.accounts.update_user(ADMIN, "alice", {"is_enabled": is_enabled})
        await gate.keys.refresh()
        assert (await gate.ask(secret) is not None) == is_enabled


async def test_changes_of_a_good_key(gate: Gate) -> None:
    """Hold from the next look on; nothing ended."""
    key_id, secret = await gate.add()
    await gate.ask(secret)
    await gate.accounts.update_user(ADMIN, "alice", {"priority": 7, "limits": {"requests": 3}})
    await gate.accounts.update_key(ADMIN, key_id, {"scopes": ["metrics"], "models": ["m"], "limits": {"queued": 1}})
    await gate.keys.refresh()
    principal = gate.keys.known(secret)

    assert principal is not None
    assert (7, Allowance(requests=3), Allowance(queued=1)) == (
        principal.priority,
        principal.limits,
        principal.key_limits,
    )
    assert (frozenset({"metrics"}), frozenset({"m"})) == (principal.scopes, principal.engines)
    assert [] == gate.ended


async def test_defaults_that_change_hold_at_once(sqlite_gate: Gate) -> None:
    """For what a user has no limit of their own."""
    _, secret = await sqlite_gate.add()
    await sqlite_gate.accounts.update_user(ADMIN, "alice", {"limits": {"requests": 3}})
    await sqlite_gate.keys.refresh()
    await sqlite_gate.ask(secret)
    sqlite_gate.keys.defaults = Allowance(requests=9, queued=2)
    principal = sqlite_gate.keys.known(secret)
    _, later = await sqlite_gate.add()
    fresh = await sqlite_gate.ask(later)

    assert Allowance(requests=9, queued=2) == sqlite_gate.keys.defaults
    assert principal is not None
    assert fresh is not None
    assert Allowance(requests=3, queued=2) == principal.limits == fresh.limits


async def test_more_keys_than_are_read_at_once(gate: Gate) -> None:
    """All of a deleted user's end, and nobody else's."""
    _, other = await gate.add("bob")
    await gate.accounts.create_user(ADMIN, "alice")
    made = [make_key() for _ in range(2 * CHUNK + 1)]
    alike: dict[str, Any] = {
        "user_id": (await gate.accounts.user("alice")).id, "scopes": [], "networks": [], "limits": {},
        "delegates": False, "note": "", "created_at": datetime.now(UTC),
    }  # fmt: skip
    async with gate.database.begin() as connection:
        await connection.execute(keys.insert(), [{"id": key.id, "digest": key.digest, **alike} for key in made])
    for key in made:
        assert await gate.ask(key.secret.encode())
    assert await gate.ask(other)
    await gate.accounts.delete_user(ADMIN, "alice")
    await gate.keys.refresh()

    assert {key.id for key in made} == set().union(*gate.ended)
    assert not any(gate.keys.known(key.secret.encode()) for key in made)
    assert gate.keys.known(other)


async def test_a_change_that_overtakes_a_look_up(gate: Gate) -> None:
    """What was read before the change is not remembered after it."""
    key_id, secret = await gate.add()
    await gate.keys.refresh()
    hold = gate.database.hold()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(gate.keys.look_up(secret, HERE))
        await hold.has_come.wait()
        await gate.accounts.revoke_key(ADMIN, key_id)
        await gate.keys.refresh()
        hold.is_released.set()

    assert asking.result() is None
    assert gate.keys.known(secret) is None


async def test_a_look_up_that_comes_while_all_is_read_anew(gate: Gate) -> None:
    """With what it read before the change: that is read anew, too."""
    key_id, secret = await gate.add()
    _, other = await gate.add("bob")
    await gate.keys.refresh()
    assert await gate.ask(other)
    look_up, reading = gate.database.hold(), gate.database.hold(3)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(gate.keys.look_up(secret, HERE))
        await look_up.has_come.wait()
        await gate.accounts.revoke_key(ADMIN, key_id)
        group.create_task(gate.keys.refresh())
        await reading.has_come.wait()
        look_up.is_released.set()
        assert await asking
        reading.is_released.set()

    assert gate.keys.known(secret) is None
    assert [frozenset({key_id})] == gate.ended


async def test_a_key_that_ends_before_who_asked_has_heard_that_it_is_good(sqlite_gate: Gate) -> None:
    """Is not good: nobody would be told of its end a second time."""
    gate = sqlite_gate
    _, secret = await gate.add(expires_at=datetime.fromtimestamp(gate.clock.wall + 60, UTC))
    hold = gate.database.hold()
    hold.then = lambda: gate.clock.go(60)
    hold.is_released.set()

    assert await gate.keys.look_up(secret, HERE) is None


async def test_an_older_state_is_put_back(gate: Gate) -> None:
    """From a backup: its revision may be any, and what is known is read anew all the same."""
    key_id, secret = await gate.add()
    _, other = await gate.add("bob")
    await gate.keys.refresh()
    assert await gate.ask(secret)
    async with gate.database.begin() as connection:
        await connection.execute(revisions.update().values(value=1))
        await connection.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=datetime.now(UTC)))
    assert await gate.ask(other)

    assert gate.keys.known(secret) is None
    assert [frozenset({key_id})] == gate.ended


@pytest.mark.parametrize("how", ["expiry", "grace"])
async def test_time_ends_keys(sqlite_gate: Gate, how: str) -> None:
    """To the moment, and whoever listens hears of it soon."""
    gate = sqlite_gate
    expires_at = datetime.fromtimestamp(gate.clock.wall + 60, UTC) if how == "expiry" else None
    key_id, secret = await gate.add(expires_at=expires_at)
    if how == "grace":
        await gate.accounts.rotate_key(ADMIN, key_id, 60)
    async with gate.keys:
        principal = await gate.ask(secret)
        assert principal is not None
        assert gate.clock.wall + 60 == pytest.approx(principal.expires_at)
        gate.clock.wall += 59.9
        assert gate.keys.known(secret)
        gate.clock.wall += 0.2
        assert gate.keys.known(secret) is None
        assert await gate.ask(secret) is None
        await eventually(lambda: gate.ended)
        assert await gate.ask(secret) is None

    assert [frozenset({key_id})] == gate.ended


async def test_an_expiry_can_be_put_off(sqlite_gate: Gate) -> None:
    key_id, secret = await sqlite_gate.add(expires_at=datetime.now(UTC) + timedelta(seconds=60))
    assert await sqlite_gate.ask(secret)
    await sqlite_gate.accounts.update_key(ADMIN, key_id, {"expires_at": None})
    await sqlite_gate.keys.refresh()
    sqlite_gate.clock.go(100)
    await sqlite_gate.keys.refresh()

    assert sqlite_gate.keys.known(secret)


async def test_changes_are_noticed_unasked(gate: Gate) -> None:
    """Those of another process too; and whoever listens badly keeps it from nobody."""

    def breaks(_: frozenset[str]) -> None:
        raise RuntimeError

    gate.keys.on_ended(breaks)
    later: list[frozenset[str]] = []
    gate.keys.on_ended(later.append)
    key_id, secret = await gate.add()
    async with gate.keys:
        assert await gate.ask(secret)
        await gate.accounts.revoke_key(ADMIN, key_id)
        await eventually(lambda: later)
        assert gate.keys.known(secret) is None

    assert [frozenset({key_id})] == gate.ended == later


async def test_whether_there_are_users(gate: Gate) -> None:
    """From the first on, even if all are gone again."""
    assert not gate.keys.has_users
    await gate.accounts.create_user(ADMIN, "bob")
    await gate.keys.refresh()
    assert gate.keys.has_users
    await gate.accounts.create_user(ADMIN, "alice")
    await gate.accounts.update_user(ADMIN, "bob", {"is_enabled": False})

    assert ["alice", "bob"] == await gate.keys.names()
    await gate.accounts.delete_user(ADMIN, "bob")
    assert ["alice"] == await gate.keys.names()
    async with gate.database.begin() as connection:
        await connection.execute(users.delete())
        await connection.execute(revisions.update().values(value=99))
    await gate.keys.refresh()
    assert gate.keys.has_users


async def test_uses_are_written_down_at_the_end(gate: Gate) -> None:
    """And count as no change."""
    key_id, secret = await gate.add()
    idle_id, _ = await gate.add()
    revision = await access_revision(gate.database)
    async with gate.keys:
        await gate.ask(secret)
        gate.clock.go(5)
        gate.keys.known(secret)

    assert gate.clock.wall == pytest.approx((await gate.accounts.key(key_id)).last_used_at.timestamp())  # type: ignore[union-attr]
    assert (await gate.accounts.key(idle_id)).last_used_at is None
    assert revision == await access_revision(gate.database)


# ---- guessing


async def test_guessing_is_slow(sqlite_gate: Gate) -> None:
    """After so many, 429; for those from there whose keys are known, and for others, nothing changes."""
    gate = sqlite_gate
    _, secret = await gate.add()
    _, unused = await gate.add()
    await gate.keys.refresh()
    assert await gate.ask(secret)
    reads = gate.database.reads
    for _ in range(BURST):
        assert await gate.ask(make_key().secret.encode()) is None
    assert gate.database.reads == reads + BURST

    assert (429, "too_many_invalid_keys") == await code_of(gate.ask(make_key().secret.encode()))
    assert (429, "too_many_invalid_keys") == await code_of(gate.ask(unused))
    assert gate.database.reads == reads + BURST
    assert await gate.ask(secret)
    assert await gate.ask(b"no key") is None
    assert await gate.ask(make_key().secret.encode(), "192.0.2.2") is None

    gate.clock.go(INTERVAL_S)

    assert await gate.ask(unused)
    assert await gate.ask(make_key().secret.encode()) is None
    assert (429, "too_many_invalid_keys") == await code_of(gate.ask(make_key().secret.encode()))


async def test_the_same_wrong_key_again_and_again(sqlite_gate: Gate) -> None:
    """Is slow as well, though nobody is asked."""
    wrong = make_key().secret.encode()
    for _ in range(BURST):
        assert await sqlite_gate.ask(wrong) is None

    assert (429, "too_many_invalid_keys") == await code_of(sqlite_gate.ask(wrong))


async def test_good_keys_use_nothing_up(sqlite_gate: Gate) -> None:
    """However many users come from behind one address, as after a restart."""
    secrets = [(await sqlite_gate.add())[1] for _ in range(2 * BURST)]

    assert all([await sqlite_gate.ask(secret) for secret in secrets])


# ---- a database that is away


@dataclass
class Away:
    """A real PostgreSQL that refuses everybody, when told to."""

    server: PostgresServer
    address: str

    def go(self) -> None:
        self.server.allow(self.address, is_allowed=False)

    def come_back(self) -> None:
        self.server.allow(self.address, is_allowed=True)


@pytest.fixture
async def away(postgres_server: PostgresServer) -> AsyncIterator[Away]:
    address = postgres_server.create()
    try:
        database = Database(parse_address(address, Path("unused")))
        await database.upgrade()
        await database.aclose()
        yield Away(postgres_server, address)
    finally:
        postgres_server.drop(address)


async def test_while_the_database_is_away(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    """Who is known goes on, who is not must wait, who was refused stays out; and all is well when it is back."""
    caplog.set_level(logging.INFO, user_keys_module.__name__)
    async with opened(away.address) as gate:
        await gate.keys.refresh()
        revoked_id, revoked = await gate.add()
        _, secret = await gate.add()
        _, unused = await gate.add()
        for key in (revoked, secret):
            assert await gate.ask(key)
        await gate.accounts.revoke_key(ADMIN, revoked_id)
        await gate.keys.refresh()
        away.go()

        assert (503, "database_away") == await code_of(gate.ask(unused))  # nobody has noticed yet
        for _ in range(3):
            await gate.keys.refresh()
            assert await gate.ask(secret)
            assert await gate.ask(revoked) is None
            assert await gate.ask(b"no key") is None
            assert (503, "database_away") == await code_of(gate.ask(unused))
            assert (503, "database_away") == await code_of(gate.ask(make_key().secret.encode()))
        assert gate.keys.has_users

        away.come_back()
        await gate.keys.refresh()
        assert await gate.ask(unused)
        assert await gate.ask(secret)
        assert await gate.ask(revoked) is None
        assert await gate.ask(make_key().secret.encode()) is None

    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


async def test_what_changed_while_it_was_away(away: Away) -> None:
    """Counts as soon as it is back."""
    async with opened(away.address) as gate:
        key_id, secret = await gate.add()
        async with gate.keys:
            assert await gate.ask(secret)
            away.go()
            await gate.keys.refresh()
            away.come_back()
            await gate.accounts.revoke_key(ADMIN, key_id)
            await eventually(lambda: gate.ended)

            assert await gate.ask(secret) is None


async def test_nobody_is_known_for_ever(away: Away) -> None:
    """After `stale_s` without an answer a key could have been revoked long since."""
    async with opened(away.address) as gate:
        _, secret = await gate.add()
        await gate.keys.refresh()
        assert await gate.ask(secret)
        away.go()
        gate.clock.go(STALE_S + POLL_SLACK_S - 0.01)
        await gate.keys.refresh()
        assert gate.keys.known(secret)
        gate.clock.go(0.01)

        assert gate.keys.known(secret) is None
        assert (503, "database_away") == await code_of(gate.ask(secret))
        away.come_back()
        assert (503, "database_away") == await code_of(gate.ask(secret))
        await gate.keys.refresh()
        assert gate.keys.known(secret)
        assert [] == gate.ended


async def test_time_ends_keys_while_it_is_away(away: Away) -> None:
    """Nobody need be asked for that."""
    async with opened(away.address) as gate:
        key_id, secret = await gate.add(expires_at=datetime.fromtimestamp(gate.clock.wall + 60, UTC))
        async with gate.keys:
            assert await gate.ask(secret)
            away.go()
            await gate.keys.refresh()
            gate.clock.wall += 61
            assert await gate.ask(secret) is None
            await eventually(lambda: gate.ended)

    assert [frozenset({key_id})] == gate.ended


async def test_it_is_away_from_the_start(away: Away) -> None:
    """Then nobody can tell whether a key is needed: it is."""
    away.go()
    async with opened(away.address) as gate, gate.keys:
        assert gate.keys.has_users
        assert (503, "database_away") == await code_of(gate.ask(make_key().secret.encode()))
        away.come_back()
        await eventually(lambda: not gate.keys.has_users)
        _, secret = await gate.add()
        await eventually(lambda: gate.keys.has_users)
        assert await gate.ask(secret)


async def test_a_database_that_is_not_as_it_was(sqlite_gate: Gate) -> None:
    """Nothing can be told from one without our tables either; what is known is good for a while."""
    gate = sqlite_gate
    _, secret = await gate.add()
    _, unused = await gate.add()
    await gate.keys.refresh()
    assert await gate.ask(secret)
    async with gate.database.begin() as connection:
        await connection.execute(revisions.delete())
    await gate.keys.refresh()

    assert gate.keys.known(secret)
    assert (503, "database_away") == await code_of(gate.ask(unused))


async def test_nothing_that_is_logged_or_raised_holds_a_key(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    """Nor its digest, whatever goes wrong."""
    caplog.set_level(logging.DEBUG, "hugind")
    made = make_key()
    async with opened(away.address) as gate, gate.keys:
        await gate.ask(made.secret.encode())
        gate.clock.go(1)
        away.go()
        with pytest.raises(ApiError) as refused:
            await gate.ask(make_key().secret.encode())
        await gate.keys.refresh()

    for text in (caplog.text, repr(refused.value), repr(gate.keys), repr(vars(gate.keys))):
        assert made.secret[13:] not in text
        assert made.digest not in text
