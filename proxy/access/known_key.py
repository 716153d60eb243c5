"""One key as the database has it, and whom it stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Row, Select, select

from hugind.proxy.access.principal import ALL_SCOPES, UNLIMITED, Allowance, Principal
from hugind.proxy.records.schema import keys, users

SELECT_KEYS: Select[Any] = select(
    *(keys.c.id, keys.c.digest, keys.c.scopes, keys.c.models, keys.c.networks, keys.c.limits, keys.c.delegates),
    *(keys.c.expires_at, keys.c.revoked_at, keys.c.replaced_by),
    *(users.c.username, users.c.is_enabled, users.c.deleted_at, users.c.priority, users.c.limits.label("user_limits")),
).join_from(keys, users)
"""The rows that `read_key` takes."""

_LIMITS = frozenset(one.name for one in fields(Allowance))


@dataclass(slots=True, eq=False)
class KnownKey:
    """A key that is good, as of a revision of `revisions.access`."""

    id: str
    digest: bytes = field(repr=False)
    revision: int
    """-1: of none that counts any more."""
    principal: Principal
    ends_at: float
    """Unix seconds: when it expires, or a rotation's grace is over. Infinite where it does not end by itself."""
    user_limits: Mapping[str, Any]

    def allow(self, defaults: Allowance) -> None:
        """Take other limits for those that its user has not set."""
        self.principal = replace(self.principal, limits=_overlaid(defaults, self.user_limits))


def read_key(row: Row[Any], revision: int, defaults: Allowance, now: float) -> KnownKey | None:
    """A key; None: it is not good, because it was revoked, has expired, or its user is disabled or deleted.

    Only a key with a successor can have a grace. Any other is revoked as soon as that is written: the clock of whoever
    did it may be ahead of ours.
    """
    is_revoked = row.revoked_at is not None and row.replaced_by is None
    ends = [moment.timestamp() for moment in (row.expires_at, row.revoked_at) if moment is not None]
    ends_at = min(ends, default=math.inf)
    if is_revoked or ends_at <= now or not row.is_enabled or row.deleted_at is not None:
        return None
    principal = Principal(
        name=row.username,
        engines=None if row.models is None else frozenset(row.models),
        scopes=ALL_SCOPES & frozenset(row.scopes),
        key_id=row.id,
        priority=row.priority,
        limits=_overlaid(defaults, row.user_limits),
        key_limits=_overlaid(UNLIMITED, row.limits),
        delegates=row.delegates,
        expires_at=ends_at if ends else None,
        networks=tuple(ip_network(network) for network in row.networks),
    )
    return KnownKey(row.id, bytes.fromhex(row.digest), revision, principal, ends_at, row.user_limits)


def _overlaid(allowance: Allowance, own: Mapping[str, Any]) -> Allowance:
    """An allowance with what somebody has of their own in place of what it says."""
    return replace(allowance, **{name: value for name, value in own.items() if name in _LIMITS})
