"""What people may say of users and keys: every field checked, and brought into the form in which it is stored. Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_network
from typing import Any, TypeGuard

from hugind.proxy.access.errors import Invalid
from hugind.proxy.access.principal import ALL_SCOPES, RESERVED_NAMES, Allowance

MAX_PRIORITY = 1000
MAX_LIMIT = 2**53
"""What every JSON parser can tell from its neighbours."""
MAX_WINDOW_S = 366 * 86400
MAX_NOTE = 2000
MAX_MODEL_NAME = 128
MAX_LIST = 1000
"""Entries of a list of models or networks."""
MAX_GRACE_S = 365 * 86400

_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LIMITS = tuple(field.name for field in fields(Allowance))


def is_username(text: str) -> bool:
    """Whether a user can have this name."""
    return _USERNAME.fullmatch(text) is not None and text not in RESERVED_NAMES


def check_username(value: object) -> str:
    """A name for a new user.

    Raises:
        Invalid: it has other characters, is too long, or is one of ours.
    """
    if not isinstance(value, str) or not _USERNAME.fullmatch(value):
        raise Invalid(
            "username",
            "lower-case letters, digits, '.', '_' and '-', at most 64, and a letter or a digit first",
        )
    if value in RESERVED_NAMES:
        raise Invalid("username", f"'{value}' is a name of hugind's own")
    return value


def check_user(given: Mapping[str, object]) -> dict[str, Any]:
    """The fields of a user that can be set, as they are stored.

    Raises:
        Invalid: one cannot be used, or there is no such field.
    """
    return _checked(given, {"is_enabled": _flag, "priority": _priority, "limits": _limits, "note": _note})


def check_key(given: Mapping[str, object], now: datetime) -> dict[str, Any]:
    """The fields of a key that can be set, as they are stored.

    Raises:
        Invalid: one cannot be used, or there is no such field.
    """
    return _checked(
        given,
        {
            "scopes": _scopes,
            "models": _models,
            "networks": _networks,
            "limits": _limits,
            "delegates": _flag,
            "note": _note,
            "expires_at": partial(_expires_at, now=now),
        },
    )


def check_grace(value: object) -> float:
    """For how many seconds a rotated key stays good.

    Raises:
        Invalid: it is no such number.
    """
    if not _is_number(value) or not 0 <= value <= MAX_GRACE_S:
        raise Invalid("grace_s", f"a number of seconds from 0 to {MAX_GRACE_S}")
    return float(value)


def _checked(given: Mapping[str, object], checks: Mapping[str, Callable[[str, Any], Any]]) -> dict[str, Any]:
    for name in given:
        if name not in checks:
            raise Invalid(str(name)[:64], f"there is no such field to set: it may be {', '.join(checks)}")
    return {name: checks[name](name, value) for name, value in given.items()}


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(name, "true or false")
    return value


def _priority(name: str, value: object) -> int:
    if type(value) is not int or abs(value) > MAX_PRIORITY:
        raise Invalid(name, f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}; higher is served first")
    return value


def _note(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NOTE or not _is_plain(value):
        raise Invalid(name, f"a line of at most {MAX_NOTE} characters")
    return value


def _limits(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Invalid(name, f"a mapping of {', '.join(_LIMITS)}")
    for limit, amount in value.items():
        if limit not in _LIMITS:
            raise Invalid(name, f"there is no limit '{str(limit)[:64]}': it may be {', '.join(_LIMITS)}")
        if limit == "window_s":
            if not _is_number(amount) or not 0 < amount <= MAX_WINDOW_S:
                raise Invalid(f"{name}.{limit}", f"a number of seconds above 0, at most {MAX_WINDOW_S}")
        elif amount is not None and (type(amount) is not int or not 0 <= amount <= MAX_LIMIT):
            raise Invalid(f"{name}.{limit}", f"a whole number from 0 to {MAX_LIMIT}, or null for no limit")
    return dict(value)


def _scopes(name: str, value: object) -> list[str]:
    scopes = _strings(name, value, f"some of {', '.join(sorted(ALL_SCOPES))}")
    if unknown := [scope for scope in scopes if scope not in ALL_SCOPES]:
        raise Invalid(name, f"there is no scope '{unknown[0][:64]}': it may be {', '.join(sorted(ALL_SCOPES))}")
    return sorted(set(scopes))


def _models(name: str, value: object) -> list[str] | None:
    if value is None:
        return None
    models = _strings(name, value, "names of models, or null for all of them")
    if any(not model.strip() or len(model) > MAX_MODEL_NAME or not _is_plain(model) for model in models):
        raise Invalid(name, f"a model's name has 1 to {MAX_MODEL_NAME} characters")
    return sorted(set(models))


def _networks(name: str, value: object) -> list[str]:
    if isinstance(value, Collection) and not value:
        return []
    networks = _strings(name, value, "addresses or networks, such as 192.168.1.0/24")
    try:
        return [str(ip_network(network, strict=False)) for network in dict.fromkeys(networks)]
    except ValueError as error:
        raise Invalid(name, str(error)) from None


def _expires_at(name: str, value: object, now: datetime) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Invalid(name, "a point in time with its zone, or null for never")
    if value <= now:
        raise Invalid(name, "it is over already: a point in time that is to come")
    return value.astimezone(UTC)


def _strings(name: str, value: object, what: str) -> list[str]:
    """The entries of a list; a text is none, although it could be taken for its characters."""
    if not isinstance(value, Collection) or isinstance(value, (str, bytes, Mapping)):
        raise Invalid(name, f"a list: {what}")
    if not all(isinstance(entry, str) for entry in value):
        raise Invalid(name, f"a list: {what}")
    if not 1 <= len(value) <= MAX_LIST:
        raise Invalid(name, f"1 to {MAX_LIST} entries: {what}")
    return list(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(text: str) -> bool:
    """Nothing that would move a terminal's cursor, or that a database cannot keep."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
