"""Users and their keys, in the database. Every change is one transaction, with its entry in the audit log.

Changes are made one after another, also by several processes: each begins by counting `revisions.access` up, and
whoever comes second waits there. So two that create the same user cannot both find the name free.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.access.errors import AccountError, Conflict, Invalid, NotFound
from hugind.proxy.access.fields import check_grace, check_key, check_user, check_username, is_username
from hugind.proxy.access.keys import NewKey, is_key_id, make_key
from hugind.proxy.access.principal import USER_SCOPES
from hugind.proxy.records.audit import Actor, record
from hugind.proxy.records.database import Database
from hugind.proxy.records.responses import forget_all
from hugind.proxy.records.schema import keys, revisions, users

__all__ = ["AccountError", "Accounts", "Actor", "Conflict", "Invalid", "Key", "NotFound", "User"]


@dataclass(frozen=True)
class User:
    """Somebody who may have keys."""

    id: str
    username: str
    is_enabled: bool
    priority: int
    limits: dict[str, Any]
    """The fields of an `Allowance` that are this user's own; None in one of them: no limit."""
    note: str
    created_at: datetime
    deleted_at: datetime | None
    keys: int
    """How many are good now."""


@dataclass(frozen=True)
class Key:
    """A key, without its secret."""

    id: str
    username: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    networks: tuple[str, ...]
    limits: dict[str, Any]
    delegates: bool
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    """From then on it is refused; to come, where it was rotated with a grace."""
    replaced_by: str | None
    """The key that it was rotated to."""
    last_used_at: datetime | None


class Accounts:
    """The users and keys of one database. Lives as long as that.

    Whoever may change them may also lock themselves out: the last key for `admin` can be revoked like any other. The
    commands of the home's owner need none, so there is always a way back on the machine itself.

    Every method raises `DatabaseAway` where the database cannot be reached; then nothing was changed.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    async def create_user(
        self,
        actor: Actor,
        username: str,
        *,
        priority: int = 0,
        limits: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> User:
        """A new user, without keys.

        Raises:
            Invalid: a value cannot be used.
            Conflict: somebody has or had the name.
        """
        name = check_username(username)
        values = check_user({"priority": priority, "limits": {} if limits is None else limits, "note": note})
        async with self._change() as connection:
            taken = (await connection.execute(select(users.c.deleted_at).where(users.c.username == name))).first()
            if taken is not None and taken.deleted_at is None:
                raise Conflict(f"there is a user '{name}' already", code="username_taken", param="username")
            if taken is not None:
                raise Conflict(
                    f"'{name}' was the name of a user who was deleted: it is not given again",
                    code="username_taken",
                    param="username",
                )
            fresh = {"id": secrets.token_hex(8), "username": name, "is_enabled": True, "created_at": self._now()}
            await connection.execute(users.insert().values(**fresh, **values))
            await record(connection, actor, "user.create", name, values)
            return await self._user(connection, name)

    async def users(self, *, include_deleted: bool = False) -> list[User]:
        """All of them, by name."""
        wanted = self._select_users().order_by(users.c.username)
        if not include_deleted:
            wanted = wanted.where(users.c.deleted_at.is_(None))
        async with self._database.read() as connection:
            return [_as_user(row) for row in await connection.execute(wanted)]

    async def user(self, username: str) -> User:
        """One of them.

        Raises:
            NotFound: nobody has the name, or not any more.
        """
        async with self._database.read() as connection:
            return await self._user(connection, username)

    async def update_user(self, actor: Actor, username: str, changes: Mapping[str, Any]) -> User:
        """Set `is_enabled`, `priority`, `limits` (all of them at once) or `note`; what is not named stays.

        Raises:
            Invalid: a value cannot be used, or no such field can be set.
            NotFound: nobody has the name.
        """
        values = check_user(changes)
        async with self._change() as connection:
            before = await self._user(connection, username)
            changed = _difference(before, values)
            if not changed:
                return before
            await connection.execute(users.update().where(users.c.id == before.id).values(**values))
            await record(connection, actor, "user.update", username, changed)
            return await self._user(connection, username)

    async def delete_user(self, actor: Actor, username: str) -> None:
        """Revoke a user's keys and remove the user, with the responses and conversations that are kept of them.

        The row stays, so that nobody is given the name again.

        Raises:
            NotFound: nobody has the name.
        """
        now = self._now()
        async with self._change() as connection:
            user = await self._user(connection, username)
            good = and_(keys.c.user_id == user.id, _is_not_revoked(now))
            ids = (await connection.scalars(select(keys.c.id).where(good).order_by(keys.c.id))).all()
            await connection.execute(keys.update().where(good).values(revoked_at=now))
            await connection.execute(users.update().where(users.c.id == user.id).values(deleted_at=now))
            await forget_all(connection, username)
            await record(connection, actor, "user.delete", username, {"revoked_keys": list(ids)})

    async def create_key(
        self,
        actor: Actor,
        username: str,
        *,
        scopes: Collection[str] | None = None,
        models: Collection[str] | None = None,
        networks: Collection[str] = (),
        limits: Mapping[str, Any] | None = None,
        delegates: bool = False,
        note: str = "",
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its secret: nobody can find that out again.

        Raises:
            Invalid: a value cannot be used.
            NotFound: nobody has the name.
        """
        now = self._now()
        given = {
            "scopes": USER_SCOPES if scopes is None else scopes,
            "models": models,
            "networks": networks,
            "limits": {} if limits is None else limits,
            "delegates": delegates,
            "note": note,
            "expires_at": expires_at,
        }
        values = check_key(given, now)
        async with self._change() as connection:
            user = await self._user(connection, username)
            made = await self._add_key(connection, user.id, values)
            detail = {"user": username, **{name: _plain(value) for name, value in values.items()}}
            await record(connection, actor, "key.create", made.id, detail)
            return await _key(connection, made.id), made.secret

    async def keys(self, username: str | None = None, *, include_revoked: bool = False) -> list[Key]:
        """Keys of one user or of all, the oldest first; those that expired are among them.

        Raises:
            NotFound: nobody has or had the name.
        """
        wanted = _SELECT_KEYS.order_by(keys.c.created_at, keys.c.id)
        if not include_revoked:
            wanted = wanted.where(_is_not_revoked(self._now()))
        async with self._database.read() as connection:
            if username is not None:
                is_known = select(users.c.id).where(users.c.username == username)
                if not is_username(username) or await connection.scalar(is_known) is None:
                    raise _no_user(username)
                wanted = wanted.where(users.c.username == username)
            return [_as_key(row) for row in await connection.execute(wanted)]

    async def key(self, key_id: str) -> Key:
        """One of them, good or not.

        Raises:
            NotFound: no key has this id.
        """
        async with self._database.read() as connection:
            return await _key(connection, key_id)

    async def update_key(self, actor: Actor, key_id: str, changes: Mapping[str, Any]) -> Key:
        """Set anything that `create_key` takes; what is not named stays, what is named is replaced as a whole.

        Raises:
            Invalid: a value cannot be used, or no such field can be set.
            NotFound: no key has this id.
            Conflict: it is revoked.
        """
        now = self._now()
        values = check_key(changes, now)
        async with self._change() as connection:
            before = await _key(connection, key_id)
            _refuse_revoked(before, now)
            changed = _difference(before, values)
            if not changed:
                return before
            await connection.execute(keys.update().where(keys.c.id == before.id).values(**values))
            await record(connection, actor, "key.update", before.id, {"user": before.username, **changed})
            return await _key(connection, before.id)

    async def rotate_key(self, actor: Actor, key_id: str, grace_s: float = 0) -> tuple[Key, str]:
        """A new key for the same, and its secret. The old one is good for another `grace_s` seconds; 0: not any more.

        Raises:
            Invalid: `grace_s` cannot be used.
            NotFound: no key has this id.
            Conflict: it is revoked, was rotated before, or has expired.
        """
        now, grace = self._now(), timedelta(seconds=check_grace(grace_s))
        async with self._change() as connection:
            old = await _key(connection, key_id)
            _refuse_revoked(old, now)
            if old.replaced_by is not None:
                raise Conflict(f"key {old.id} was rotated already, to {old.replaced_by}", code="key_rotated")
            if old.expires_at is not None and old.expires_at <= now:
                raise Conflict(f"key {old.id} has expired: set another expires_at first", code="key_expired")
            copied = (await connection.execute(select(keys).where(keys.c.id == old.id))).one()._mapping
            made = await self._add_key(connection, copied["user_id"], {name: copied[name] for name in _COPIED})
            ended = {"revoked_at": now + grace, "replaced_by": made.id}
            await connection.execute(keys.update().where(keys.c.id == old.id).values(**ended))
            detail = {"user": old.username, "replaced_by": made.id, "grace_s": grace.total_seconds()}
            await record(connection, actor, "key.rotate", old.id, detail)
            return await _key(connection, made.id), made.secret

    async def revoke_key(self, actor: Actor, key_id: str) -> Key:
        """Have it refused from now on; one that is revoked stays as it is.

        Raises:
            NotFound: no key has this id.
        """
        now = self._now()
        async with self._change() as connection:
            key = await _key(connection, key_id)
            if key.revoked_at is not None and key.revoked_at <= now:
                return key
            await connection.execute(keys.update().where(keys.c.id == key.id).values(revoked_at=now))
            await record(connection, actor, "key.revoke", key.id, {"user": key.username})
            return replace(key, revoked_at=now)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.begin() as connection:
            counted = revisions.update().where(revisions.c.name == "access")
            await connection.execute(counted.values(value=revisions.c.value + 1))
            yield connection

    async def _add_key(self, connection: AsyncConnection, user_id: str, values: Mapping[str, Any]) -> NewKey:
        made = make_key()
        fresh = {"id": made.id, "digest": made.digest, "user_id": user_id, "created_at": self._now()}
        await connection.execute(keys.insert().values(**fresh, **values))
        return made

    async def _user(self, connection: AsyncConnection, username: str) -> User:
        """One that was not deleted."""
        if is_username(username):
            wanted = self._select_users().where(users.c.username == username, users.c.deleted_at.is_(None))
            if (row := (await connection.execute(wanted)).first()) is not None:
                return _as_user(row)
        raise _no_user(username)

    def _select_users(self) -> Select[Any]:
        now = self._now()
        is_unexpired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
        may_have_any = and_(users.c.is_enabled, users.c.deleted_at.is_(None))
        is_good = and_(keys.c.user_id == users.c.id, may_have_any, _is_not_revoked(now), is_unexpired)
        good = select(func.count()).select_from(keys).where(is_good).correlate(users).scalar_subquery()
        return select(users, good.label("keys"))


_COPIED = ("scopes", "models", "networks", "limits", "delegates", "note", "expires_at")
"""What a key passes on to the one that it is rotated to."""

_SELECT_KEYS: Select[Any] = select(
    *(column for column in keys.c if column.name not in ("user_id", "digest")), users.c.username
).join_from(keys, users)


async def _key(connection: AsyncConnection, key_id: str) -> Key:
    if is_key_id(key_id):
        row = (await connection.execute(_SELECT_KEYS.where(keys.c.id == key_id))).first()
        if row is not None:
            return _as_key(row)
    raise NotFound(f"there is no key '{key_id[:64]}'", code="key_not_found", hint="hugind key list")


def _no_user(username: str) -> NotFound:
    return NotFound(f"there is no user '{username[:64]}'", code="user_not_found", hint="hugind user list")


def _is_not_revoked(now: datetime) -> ColumnElement[bool]:
    return or_(keys.c.revoked_at.is_(None), keys.c.revoked_at > now)


def _refuse_revoked(key: Key, now: datetime) -> None:
    if key.revoked_at is not None and key.revoked_at <= now:
        raise Conflict(f"key {key.id} is revoked", code="key_revoked")


def _as_user(row: Row[Any]) -> User:
    return User(**row._mapping)


def _as_key(row: Row[Any]) -> Key:
    values = dict(row._mapping)
    for name in ("scopes", "models", "networks"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Key(**values)


def _difference(before: User | Key, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `values` change, for the audit log; empty: nothing."""
    old = {name: _plain(getattr(before, name)) for name in values}
    new = {name: _plain(value) for name, value in values.items()}
    changed = [name for name in values if old[name] != new[name]]
    if not changed:
        return {}
    return {"before": {name: old[name] for name in changed}, "after": {name: new[name] for name in changed}}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
