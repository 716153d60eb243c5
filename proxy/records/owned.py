"""Whose a row is, in tables that hold what people said: written down, and asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table

from hugind.proxy.records.usage import storable
from hugind.proxy.sessions.record import Owner

_MAX_USER = 256


@dataclass(frozen=True)
class Reader:
    """Who wants to see something."""

    owner: Owner
    is_delegated: bool = False
    """The key asks on behalf of this one person, and is shown nothing else."""


def owner_columns(owner: Owner) -> dict[str, Any]:
    """What is written down of an owner."""
    return {"owner": owner.digest, "principal": owner.principal, "end_user": _user(owner.user)}


def seen_by(table: Table, reader: Reader) -> ColumnElement[bool]:
    """Rows that exist as far as `reader` is concerned.

    A key that names nobody sees what is of its people, too. One that names a person by itself sees what is of that
    person, and of none in particular.
    """
    owner = reader.owner
    if owner.user is None:
        return table.c.principal == owner.principal
    if reader.is_delegated:
        return table.c.owner == owner.digest
    return table.c.owner.in_([owner.digest, Owner(owner.principal).digest])


def belongs_to(table: Table, principal: str | None, user: str | None) -> list[ColumnElement[bool]]:
    """Rows of a principal, of a person, or of a person of a principal; None: of any."""
    wanted: list[ColumnElement[bool]] = []
    if principal is not None:
        wanted.append(table.c.principal == principal)
    if user is not None:
        wanted.append(table.c.end_user == _user(user))
    return wanted


def _user(user: str | None) -> str | None:
    return None if user is None else storable(user)[:_MAX_USER]
