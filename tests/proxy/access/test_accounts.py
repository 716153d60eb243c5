"""Users and keys in both kinds of database: what is kept, what is refused, and what is on record of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from hugind.proxy.access.accounts import AccountError, Accounts, Actor, Conflict, Invalid, Key, NotFound
from hugind.proxy.access.keys import digest_of, key_id
from hugind.proxy.records.audit import entries
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.schema import keys, metadata, users
from tests.databases import access_revision

ADMIN = Actor("root", "AbCd1234", "192.0.2.1", "req-1")

INJECTIONS = (
    *("' OR '1'='1", "alice'; DROP TABLE users;--", 'a"b', "a\\", "%", "_", "a\0b", "\ud800", "é", "", "x" * 5000),
    *("${jndi:ldap://x}", "a\r\nset-cookie: x=y", "{{7*7}}", "../../etc/passwd", "AbCd123%", "12345678"),
)


class Clock:
    """The time, as a test wants it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    """Of a database that holds nothing yet."""
    return Accounts(database, now=clock)


@pytest.fixture
async def alice(accounts: Accounts) -> Key:
    """The key of the one user."""
    await accounts.create_user(ADMIN, "alice")
    return (await accounts.create_key(ADMIN, "alice"))[0]


@pytest.fixture
async def elsewhere(database: Database, database_address: str, clock: Clock) -> AsyncIterator[Accounts]:
    """The same accounts, from another process so to speak."""
    other = Database(parse_address(database_address, Path("unused")))
    try:
        yield Accounts(other, now=clock)
    finally:
        await other.aclose()


async def recorded(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    """Actions, targets and details, the oldest first."""
    return [(entry.action, entry.target, entry.detail) for entry in reversed(await entries(database))]


async def everything(database: Database) -> str:
    """All that is in the database, as one text."""
    async with database.read() as connection:
        return repr([(await connection.execute(select(table))).all() for table in metadata.tables.values()])


# ---- users


async def test_a_new_user(accounts: Accounts, clock: Clock, database: Database) -> None:
    """Has what was said of it, no keys, and stands in the list and in the audit log."""
    user = await accounts.create_user(
        ADMIN, "alice", priority=3, limits={"requests": 5, "tokens_per_day": None}, note="x"
    )

    assert user == await accounts.user("alice")
    assert [user] == await accounts.users()
    assert ("alice", True, 3, "x", clock.now, None, 0) == (
        user.username, user.is_enabled, user.priority, user.note, user.created_at, user.deleted_at, user.keys,
    )  # fmt: skip
    assert {"requests": 5, "tokens_per_day": None} == user.limits
    (entry,) = await entries(database)
    assert ("root", "AbCd1234", "192.0.2.1", "req-1", "user.create", "alice") == (
        entry.actor, entry.actor_key_id, entry.client_ip, entry.request_id, entry.action, entry.target,
    )  # fmt: skip
    assert {"priority": 3, "limits": user.limits, "note": "x"} == entry.detail


async def test_no_user_is_called_so(accounts: Accounts, database: Database) -> None:
    for name in ("Alice", "anonymous", "control", "environment", "config:a", *INJECTIONS[:-1]):
        with pytest.raises(Invalid):
            await accounts.create_user(ADMIN, name)

    assert ([], [], 0) == (await accounts.users(), await recorded(database), await access_revision(database))


async def test_a_note_is_only_a_text(accounts: Accounts) -> None:
    await accounts.create_user(ADMIN, "alice")
    for note in ("'; DROP TABLE users;--", "%s %(x)s :x ?", "日本 🦙", "\u202e", "a" * 2000, "hgk_"):
        await accounts.update_user(ADMIN, "alice", {"note": note})
        key, _ = await accounts.create_key(ADMIN, "alice", note=note, models=[note[:128]])
        found = await accounts.key(key.id)

        assert note == (await accounts.user("alice")).note == found.note
        assert (note[:128],) == found.models


async def test_a_name_is_given_once(accounts: Accounts, alice: Key, database: Database) -> None:
    """Not to two, and not again after its user is gone: conversations and usage would be inherited."""
    with pytest.raises(Conflict, match="already"):
        await accounts.create_user(ADMIN, "alice")
    await accounts.delete_user(ADMIN, "alice")
    with pytest.raises(Conflict, match="not given again") as refused:
        await accounts.create_user(ADMIN, "alice")

    assert ("username_taken", "username") == (refused.value.code, refused.value.param)
    assert ["user.create", "key.create", "user.delete"] == [action for action, _, _ in await recorded(database)]


async def test_many_create_the_same_user_at_once(accounts: Accounts, elsewhere: Accounts) -> None:
    """One does; the others are told."""
    both = (accounts, elsewhere)
    results = await asyncio.gather(
        *(both[number % 2].create_user(ADMIN, "alice") for number in range(8)), return_exceptions=True
    )

    assert 7 == sum(isinstance(result, Conflict) for result in results)
    assert 1 == len(await accounts.users())


async def test_changing_a_user(accounts: Accounts, alice: Key, database: Database) -> None:
    """What is named changes, the rest stays; what changed is on record, before and after."""
    await accounts.update_user(ADMIN, "alice", {"priority": 5, "limits": {"requests": 1}, "note": ""})
    user = await accounts.update_user(ADMIN, "alice", {"limits": {"queued": 2}, "priority": 5, "is_enabled": False})

    assert user == await accounts.user("alice")
    assert (False, 5, {"queued": 2}, 0) == (user.is_enabled, user.priority, user.limits, user.keys)
    assert [
        ("user.update", "alice", {
            "before": {"priority": 0, "limits": {}}, "after": {"priority": 5, "limits": {"requests": 1}}
        }),
        ("user.update", "alice", {
            "before": {"limits": {"requests": 1}, "is_enabled": True},
            "after": {"limits": {"queued": 2}, "is_enabled": False},
        }),
    ] == (await recorded(database))[2:]  # fmt: skip


async def test_what_changes_nothing_is_not_on_record(accounts: Accounts, alice: Key, database: Database) -> None:
    before = await recorded(database)
    await accounts.update_user(ADMIN, "alice", {})
    await accounts.update_user(ADMIN, "alice", {"is_enabled": True, "note": ""})
    await accounts.update_key(ADMIN, alice.id, {"scopes": ["sessions", "inference"], "models": None, "networks": []})

    assert before == await recorded(database)


async def test_other_fields_of_a_user_cannot_be_set(accounts: Accounts, alice: Key) -> None:
    for field in ("id", "username", "created_at", "deleted_at", "keys", "is_admin"):
        with pytest.raises(Invalid):
            await accounts.update_user(ADMIN, "alice", {"note": "x", field: "x"})

    assert (await accounts.user("alice")).note == ""


async def test_deleting_a_user(accounts: Accounts, alice: Key, clock: Clock, database: Database) -> None:
    """Revokes the keys; the row stays, for those who ask for it."""
    old, _ = await accounts.create_key(ADMIN, "alice")
    await accounts.revoke_key(ADMIN, old.id)
    in_grace, _ = await accounts.create_key(ADMIN, "alice")
    fresh, _ = await accounts.rotate_key(ADMIN, in_grace.id, 100)
    revoked_at = clock.now
    clock.go(10)
    await accounts.delete_user(ADMIN, "alice")

    with pytest.raises(NotFound):
        await accounts.user("alice")
    assert [] == await accounts.users()
    assert [] == await accounts.keys("alice") == await accounts.keys()
    (user,) = await accounts.users(include_deleted=True)
    assert ("alice", clock.now, 0) == (user.username, user.deleted_at, user.keys)
    found = {key.id: key.revoked_at for key in await accounts.keys("alice", include_revoked=True)}
    assert {old.id: revoked_at, alice.id: clock.now, in_grace.id: clock.now, fresh.id: clock.now} == found
    ended = sorted([alice.id, in_grace.id, fresh.id])
    assert ("user.delete", "alice", {"revoked_keys": ended}) == (await recorded(database))[-1]


# ---- keys


async def test_a_new_key(accounts: Accounts, alice: Key, clock: Clock) -> None:
    """For what users do, unless something else is said."""
    assert alice == await accounts.key(alice.id)
    assert Key(
        id=alice.id, username="alice", scopes=("inference", "sessions"), models=None, networks=(), limits={},
        delegates=False, note="", created_at=clock.now, expires_at=None, revoked_at=None, replaced_by=None,
        last_used_at=None,
    ) == alice  # fmt: skip


async def test_a_key_with_everything(accounts: Accounts, alice: Key, clock: Clock, database: Database) -> None:
    expires_at = clock.now + timedelta(days=30, microseconds=5)
    key, _ = await accounts.create_key(
        ADMIN, "alice", scopes=["metrics", "admin"], models={"b", "a"}, networks=["10.1.2.3/8"],
        limits={"requests": 0, "window_s": 1.5}, delegates=True, note="ci", expires_at=expires_at,
    )  # fmt: skip

    assert key == await accounts.key(key.id)
    assert (("admin", "metrics"), ("a", "b"), ("10.0.0.0/8",)) == (key.scopes, key.models, key.networks)
    assert ({"requests": 0, "window_s": 1.5}, True, "ci", expires_at) == (
        key.limits, key.delegates, key.note, key.expires_at,
    )  # fmt: skip
    assert ("key.create", key.id, {
        "user": "alice", "scopes": ["admin", "metrics"], "models": ["a", "b"], "networks": ["10.0.0.0/8"],
        "limits": {"requests": 0, "window_s": 1.5}, "delegates": True, "note": "ci",
        "expires_at": "2026-01-31T00:00:00.000005+00:00",
    }) == (await recorded(database))[-1]  # fmt: skip


async def test_a_secret_is_handed_over_once(accounts: Accounts, alice: Key, database: Database) -> None:
    """Only its digest is stored, and that is in no other place either."""
    key, secret = await accounts.create_key(ADMIN, "alice")
    fresh, rotated = await accounts.rotate_key(ADMIN, key.id, 10)
    await accounts.update_key(ADMIN, fresh.id, {"note": "x"})
    await accounts.delete_user(ADMIN, "alice")
    stored = await everything(database)

    assert (key.id, fresh.id) == (key_id(secret.encode()), key_id(rotated.encode()))
    for one in (secret, rotated):
        assert one[len("hgk_12345678_") :] not in stored
        assert stored.count(digest_of(one.encode())) == 1
    assert digest_of(secret.encode()) not in repr(await recorded(database))


async def test_changing_a_key(accounts: Accounts, alice: Key, clock: Clock, database: Database) -> None:
    """What is named is replaced as a whole, the rest stays."""
    later = clock.now + timedelta(days=1)
    changes = {"models": ["m"], "scopes": ["admin"], "expires_at": later, "note": "", "networks": ["::1"]}
    key = await accounts.update_key(ADMIN, alice.id, changes)

    assert key == await accounts.key(alice.id)
    assert (("m",), ("admin",), later, ("::1/128",)) == (key.models, key.scopes, key.expires_at, key.networks)
    assert ("key.update", alice.id, {
        "user": "alice",
        "before": {"models": None, "scopes": ["inference", "sessions"], "expires_at": None, "networks": []},
        "after": {
            "models": ["m"], "scopes": ["admin"], "expires_at": "2026-01-02T00:00:00+00:00", "networks": ["::1/128"]
        },
    }) == (await recorded(database))[-1]  # fmt: skip
    assert (await accounts.update_key(ADMIN, alice.id, {"expires_at": None, "models": None})).expires_at is None


async def test_other_fields_of_a_key_cannot_be_set(accounts: Accounts, alice: Key) -> None:
    for field in ("id", "digest", "user_id", "username", "revoked_at", "replaced_by", "last_used_at"):
        with pytest.raises(Invalid):
            await accounts.update_key(ADMIN, alice.id, {"note": "x", field: None})

    assert alice == await accounts.key(alice.id)


async def test_rotating_a_key(accounts: Accounts, clock: Clock, database: Database) -> None:
    """The new one can do all that the old one can; that is good until its grace is over."""
    await accounts.create_user(ADMIN, "alice")
    old, _ = await accounts.create_key(
        ADMIN, "alice", scopes=["admin"], models=["m"], networks=["10.0.0.0/8"], limits={"queued": 1}, delegates=True,
        note="n", expires_at=clock.now + timedelta(days=9),
    )  # fmt: skip
    clock.go(5)
    fresh, secret = await accounts.rotate_key(ADMIN, old.id, 60)

    assert key_id(secret.encode()) == fresh.id != old.id
    assert fresh == await accounts.key(fresh.id)
    copied = ("username", "scopes", "models", "networks", "limits", "delegates", "note", "expires_at")
    assert {name: getattr(old, name) for name in copied} == {name: getattr(fresh, name) for name in copied}
    assert (clock.now, None, None) == (fresh.created_at, fresh.revoked_at, fresh.replaced_by)
    retired = await accounts.key(old.id)
    assert (clock.now + timedelta(seconds=60), fresh.id) == (retired.revoked_at, retired.replaced_by)
    assert 2 == (await accounts.user("alice")).keys == len(await accounts.keys("alice"))
    assert ("key.rotate", old.id, {"user": "alice", "replaced_by": fresh.id, "grace_s": 60.0}) == (
        await recorded(database)
    )[-1]

    clock.go(60)

    assert 1 == (await accounts.user("alice")).keys
    assert [fresh] == await accounts.keys()
    assert [retired, fresh] == await accounts.keys(include_revoked=True)


async def test_what_cannot_be_rotated(accounts: Accounts, alice: Key, clock: Clock, database: Database) -> None:
    """What is revoked, has a successor, or would be of no use."""
    revoked, _ = await accounts.create_key(ADMIN, "alice")
    await accounts.revoke_key(ADMIN, revoked.id)
    at_once, _ = await accounts.create_key(ADMIN, "alice")
    await accounts.rotate_key(ADMIN, at_once.id)
    expired, _ = await accounts.create_key(ADMIN, "alice", expires_at=clock.now + timedelta(seconds=1))
    await accounts.rotate_key(ADMIN, alice.id, 100)
    clock.go(1)
    before = await recorded(database)
    for key, code in (
        (revoked, "key_revoked"), (at_once, "key_revoked"), (alice, "key_rotated"), (expired, "key_expired"),
    ):  # fmt: skip
        with pytest.raises(Conflict) as refused:
            await accounts.rotate_key(ADMIN, key.id, 10)
        assert code == refused.value.code
    with pytest.raises(Invalid):
        await accounts.rotate_key(ADMIN, alice.id, -1)

    assert before == await recorded(database)


async def test_a_key_is_rotated_once(accounts: Accounts, elsewhere: Accounts, alice: Key) -> None:
    """However many want it at the same time."""
    both = (accounts, elsewhere)
    results = await asyncio.gather(
        *(both[number % 2].rotate_key(ADMIN, alice.id, 60) for number in range(6)), return_exceptions=True
    )

    assert 5 == sum(isinstance(result, Conflict) for result in results)
    assert 2 == len(await accounts.keys("alice"))


async def test_revoking_a_key(accounts: Accounts, alice: Key, clock: Clock, database: Database) -> None:
    """At once and for good; doing it again changes nothing. A grace is cut short."""
    key = await accounts.revoke_key(ADMIN, alice.id)
    when = clock.now
    assert when == key.revoked_at
    clock.go(10)
    assert key == await accounts.revoke_key(ADMIN, alice.id) == await accounts.key(alice.id)
    with pytest.raises(Conflict):
        await accounts.update_key(ADMIN, alice.id, {"note": "x"})
    in_grace, _ = await accounts.create_key(ADMIN, "alice")
    await accounts.rotate_key(ADMIN, in_grace.id, 100)

    assert clock.now == (await accounts.revoke_key(ADMIN, in_grace.id)).revoked_at
    actions = [(action, target) for action, target, _ in await recorded(database)]
    assert [("key.revoke", alice.id), ("key.revoke", in_grace.id)] == [row for row in actions if row[0] == "key.revoke"]


async def test_the_last_way_in_can_be_closed(accounts: Accounts) -> None:
    """The machine's owner has the commands."""
    await accounts.create_user(ADMIN, "root")
    key, _ = await accounts.create_key(ADMIN, "root", scopes=["admin"])
    await accounts.revoke_key(ADMIN, key.id)
    await accounts.delete_user(ADMIN, "root")

    assert [] == await accounts.users()


async def test_which_keys_count_as_good(accounts: Accounts, alice: Key, clock: Clock) -> None:
    """Not those that expired, nor any of a user who is disabled; the list has them all the same."""
    await accounts.create_key(ADMIN, "alice", expires_at=clock.now + timedelta(seconds=5))
    await accounts.create_user(ADMIN, "bob")
    await accounts.create_key(ADMIN, "bob")
    assert [("alice", 2), ("bob", 1)] == [(user.username, user.keys) for user in await accounts.users()]
    clock.go(5)
    assert 1 == (await accounts.user("alice")).keys
    await accounts.update_user(ADMIN, "alice", {"is_enabled": False})

    assert 0 == (await accounts.user("alice")).keys
    assert 2 == len(await accounts.keys("alice"))
    assert 3 == len(await accounts.keys())


# ---- both

Ask = Callable[[Accounts, str], Coroutine[Any, Any, Any]]

BY_NAME: dict[str, Ask] = {
    "user": lambda accounts, name: accounts.user(name),
    "update_user": lambda accounts, name: accounts.update_user(ADMIN, name, {"note": "x"}),
    "delete_user": lambda accounts, name: accounts.delete_user(ADMIN, name),
    "create_key": lambda accounts, name: accounts.create_key(ADMIN, name),
    "keys": lambda accounts, name: accounts.keys(name),
}
BY_ID: dict[str, Ask] = {
    "key": lambda accounts, id_: accounts.key(id_),
    "update_key": lambda accounts, id_: accounts.update_key(ADMIN, id_, {"note": "x"}),
    "rotate_key": lambda accounts, id_: accounts.rotate_key(ADMIN, id_),
    "revoke_key": lambda accounts, id_: accounts.revoke_key(ADMIN, id_),
}


@pytest.mark.parametrize("ask", [*BY_NAME, *BY_ID])
async def test_who_is_not_there(accounts: Accounts, alice: Key, database: Database, ask: str) -> None:
    """Whatever the name or id looks like: there is none, and nothing happened."""
    revision, before = await access_revision(database), await everything(database)
    for text in (*INJECTIONS, "bob", "ALICE", "control"):
        with pytest.raises(NotFound) as refused:
            await (BY_NAME | BY_ID)[ask](accounts, text)
        assert len(refused.value.message) < 100
        assert refused.value.code == ("user_not_found" if ask in BY_NAME else "key_not_found")

    assert (revision, before) == (await access_revision(database), await everything(database))


async def test_every_change_counts_the_revision_up(accounts: Accounts, clock: Clock, database: Database) -> None:
    """With its entry in the log, in one transaction: one for each."""

    async def changes() -> AsyncIterator[object]:
        yield await accounts.create_user(ADMIN, "alice")
        key, _ = await accounts.create_key(ADMIN, "alice")
        yield key
        yield await accounts.update_user(ADMIN, "alice", {"priority": 1})
        yield await accounts.update_key(ADMIN, key.id, {"note": "x"})
        fresh, _ = await accounts.rotate_key(ADMIN, key.id, 5)
        yield fresh
        yield await accounts.revoke_key(ADMIN, fresh.id)
        await accounts.delete_user(ADMIN, "alice")
        yield None

    number = 0
    async for _ in changes():
        number += 1
        assert number == await access_revision(database) == len(await recorded(database))
    assert 7 == number


async def test_what_is_refused_leaves_nothing_behind(accounts: Accounts, alice: Key, database: Database) -> None:
    before = await everything(database)
    for refused in (
        accounts.create_user(ADMIN, "alice"),
        accounts.create_user(ADMIN, "bob", limits={"nonsense": 1}),
        accounts.create_key(ADMIN, "alice", scopes=["root"]),
        accounts.update_key(ADMIN, alice.id, {"models": [""]}),
    ):
        with pytest.raises(AccountError):
            await refused

    assert before == await everything(database)


async def test_changes_at_the_same_time(accounts: Accounts, elsewhere: Accounts, database: Database) -> None:
    """None gets in another's way, and none gets lost: a deleted user is left with no good key."""
    await asyncio.gather(*(accounts.create_user(ADMIN, name) for name in "abcd"))
    work: list[Coroutine[Any, Any, Any]] = []
    for name in "abcd":
        work += [
            elsewhere.create_key(ADMIN, name),
            accounts.create_key(ADMIN, name),
            elsewhere.delete_user(ADMIN, name),
        ]
    results = await asyncio.gather(*work, return_exceptions=True)

    assert all(isinstance(result, NotFound) for result in results if isinstance(result, BaseException))
    assert [] == await accounts.keys()
    async with database.read() as connection:
        assert [] == list(await connection.scalars(select(users.c.id).where(users.c.deleted_at.is_(None))))
        made = len(list(await connection.scalars(select(keys.c.id))))
    assert await access_revision(database) == 8 + made
