"""Who asks, and who is on record for it."""

from __future__ import annotations

import pytest
from fastapi import Request

from hugind.proxy.access.accounts import Actor
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.routes.callers import actor_of, end_user_of, principal_of, require_admin
from tests.proxy.exchanges import FakeClient


def request(
    principal: Principal, client: tuple[str, int] | None = ("10.0.0.1", 1), end_user: str | None = None
) -> Request:
    """As it comes to a route."""
    exchange = FakeClient().exchange
    exchange.end_user = end_user
    given = {"principal": principal, "request_id": "req_1", "exchange": exchange, "client": client}
    return Request({**exchange.scope, **given})


async def test_who_is_on_record() -> None:
    """The name and the key, from where, in which request; a socket in the file system has no address."""
    alice = Principal("alice", key_id="k1")

    assert alice is principal_of(request(alice))
    assert Actor("alice", "k1", "10.0.0.1", "req_1") == actor_of(request(alice))
    assert Actor("alice", "k1", None, "req_1") == actor_of(request(alice, client=None))
    assert (None, "eve") == (end_user_of(request(alice)), end_user_of(request(alice, end_user="eve")))


async def test_only_the_admin_may() -> None:
    """Every other scope together is not enough."""
    await require_admin(request(Principal("root", scopes=frozenset({"admin"}))))
    with pytest.raises(ApiError) as refused:
        await require_admin(request(Principal("mallory", scopes=ALL_SCOPES - {"admin"})))

    assert (403, "not_admin") == (refused.value.status, refused.value.code)
