"""Who asks: what `app` found out of a request before it came to its route."""

from __future__ import annotations

from fastapi import Request

from hugind.proxy.access.principal import Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.records.audit import Actor


def principal_of(request: Request) -> Principal:
    """Whose key it is; `app` has authenticated them."""
    principal = request.scope["principal"]
    assert isinstance(principal, Principal)
    return principal


def end_user_of(request: Request) -> str | None:
    """On whose behalf a delegating key asks."""
    exchange = request.scope["exchange"]
    assert isinstance(exchange, Exchange)
    return exchange.end_user


def actor_of(request: Request) -> Actor:
    """Who is on record for what the request changes."""
    principal, client = principal_of(request), request.scope.get("client")
    return Actor(principal.name, principal.key_id, client[0] if client else None, request.scope["request_id"])


async def require_admin(request: Request) -> None:
    """Refuse everybody else, whatever let them come so far.

    Raises:
        ApiError: 403.
    """
    if not principal_of(request).is_admin:
        raise ApiError(403, "this needs a key with the scope 'admin'", code="not_admin")
