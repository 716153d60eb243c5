"""Users and their keys, for those who run the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from hugind.proxy.errors import ApiError
from hugind.proxy.routes.account_shapes import (
    Deleted,
    Key,
    KeyChanges,
    Keys,
    KeyWithSecret,
    NewKey,
    NewUser,
    Rotation,
    User,
    UserChanges,
    Users,
    expiry,
    given,
)
from hugind.proxy.routes.callers import actor_of
from hugind.proxy.routes.operators import NO_NUL, Name, operators_router

if TYPE_CHECKING:
    from hugind.proxy.access.accounts import Key as StoredKey
    from hugind.proxy.routes.records import Records

Username = Annotated[str, Path(max_length=64, pattern=NO_NUL)]
KeyId = Annotated[str, Path(max_length=16, pattern=NO_NUL, description="The public part of the key.")]


def users_router(records: Records) -> APIRouter:
    """Who there is."""
    router = operators_router("users")
    accounts = records.accounts

    @router.get("/users", response_model_exclude_unset=True)
    async def list_users(deleted: bool = False) -> Users:
        """Everybody, by name. `deleted`: those, too, who are no more."""
        found = await accounts.users(include_deleted=deleted)
        return Users(users=[User.model_validate(user) for user in found])

    @router.post("/users", status_code=201, response_model_exclude_unset=True)
    async def create_user(wanted: NewUser, request: Request) -> User:
        """A new user. The name of one who was deleted is not given again."""
        user = await accounts.create_user(
            actor_of(request), wanted.username, priority=wanted.priority, limits=given(wanted.limits), note=wanted.note
        )
        await records.tell()
        return User.model_validate(user)

    @router.get("/users/{username}", response_model_exclude_unset=True)
    async def show_user(username: Username) -> User:
        """One of them."""
        return User.model_validate(await accounts.user(username))

    @router.patch("/users/{username}", response_model_exclude_unset=True)
    async def change_user(username: Username, changes: UserChanges, request: Request) -> User:
        """Enable or disable, change priority, limits or note. It holds at once, without a restart."""
        user = await accounts.update_user(actor_of(request), username, given(changes))
        await records.tell()
        return User.model_validate(user)

    @router.delete("/users/{username}")
    async def delete_user(username: Username, request: Request) -> Deleted:
        """Revoke all their keys, end their turns, forget their sessions. What they used stays on record."""
        await accounts.delete_user(actor_of(request), username)
        await records.tell()
        return Deleted(deleted=username, sessions_forgotten=await records.forget_all_of(username))

    return router


def keys_router(records: Records) -> APIRouter:
    """What they come with."""
    router = operators_router("keys")
    accounts = records.accounts

    @router.get("/keys", response_model_exclude_unset=True)
    async def list_keys(user: Annotated[Name | None, Query()] = None, revoked: bool = False) -> Keys:
        """The keys, of one user or of all. `revoked`: those, too, that are good no more."""
        found = await accounts.keys(user, include_revoked=revoked)
        return Keys(keys=[Key.model_validate(key) for key in found])

    @router.post("/users/{username}/keys", status_code=201, response_model_exclude_unset=True)
    async def create_key(
        username: Username,
        request: Request,
        response: Response,
        wanted: Annotated[NewKey, Body()] = NewKey(),  # noqa: B008 - a value, never changed
    ) -> KeyWithSecret:
        """A new key. Its secret is in this answer, and nowhere else."""
        try:
            expires_at = expiry(wanted)
        except ValueError as error:
            raise ApiError(400, str(error), param="expires_at") from None
        key, secret = await accounts.create_key(
            actor_of(request),
            username,
            scopes=wanted.scopes,
            models=wanted.models,
            networks=wanted.networks,
            limits=given(wanted.limits),
            delegates=wanted.delegates,
            note=wanted.note,
            expires_at=expires_at,
        )
        await records.tell()
        return _with_secret(key, secret, response)

    @router.get("/keys/{key_id}", response_model_exclude_unset=True)
    async def show_key(key_id: KeyId) -> Key:
        """One of them."""
        return Key.model_validate(await accounts.key(key_id))

    @router.patch("/keys/{key_id}", response_model_exclude_unset=True)
    async def change_key(key_id: KeyId, changes: KeyChanges, request: Request) -> Key:
        """What it opens, from where, how long. It holds at once; turns that run go on."""
        key = await accounts.update_key(actor_of(request), key_id, given(changes))
        await records.tell()
        return Key.model_validate(key)

    @router.delete("/keys/{key_id}", response_model_exclude_unset=True)
    async def revoke_key(key_id: KeyId, request: Request) -> Key:
        """It is good no more, at once; turns that were asked for with it end."""
        key = await accounts.revoke_key(actor_of(request), key_id)
        await records.tell()
        return Key.model_validate(key)

    @router.post("/keys/{key_id}/rotate", status_code=201, response_model_exclude_unset=True)
    async def rotate_key(
        key_id: KeyId,
        request: Request,
        response: Response,
        wanted: Annotated[Rotation, Body()] = Rotation(),  # noqa: B008 - as above
    ) -> KeyWithSecret:
        """A new key of the same kind; the old one ends, now or after `grace_s`. The secret is in this answer only."""
        key, secret = await accounts.rotate_key(actor_of(request), key_id, wanted.grace_s)
        await records.tell()
        return _with_secret(key, secret, response)

    return router


def _with_secret(key: StoredKey, secret: str, response: Response) -> KeyWithSecret:
    response.headers["cache-control"] = "no-store"
    return KeyWithSecret(**Key.model_validate(key).model_dump(exclude_unset=True), secret=secret)
