"""Every field of users and keys: what is taken, in which form it is stored, and what is said of the rest."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.errors import Invalid
from hugind.proxy.access.fields import (
    MAX_LIMIT,
    MAX_LIST,
    MAX_NOTE,
    check_grace,
    check_key,
    check_user,
    check_username,
    is_username,
)
from hugind.proxy.access.principal import RESERVED_NAMES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


@pytest.mark.parametrize("name", ["a", "0", "alice", "a.b-c_d", "4" * 64, "anonymous2"])
def test_names(name: str) -> None:
    assert name == check_username(name)
    assert is_username(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "Alice", ".a", "-a", "_a", "a b", "a:b", "config:a", "é", "a" * 65, "a\n", "a\0", "\ud800", "a/b"),
        *("' OR '1'='1", "x'; DROP TABLE users;--", "a%", 'a"b', "${jndi:x}", "a\r\nset-cookie: x"),
        *(None, 1, b"alice", ["alice"]),
        *sorted(RESERVED_NAMES),
    ],
)
def test_what_is_no_name(name: object) -> None:
    """Whatever could mean something elsewhere, or is somebody already."""
    with pytest.raises(Invalid) as refused:
        check_username(name)

    assert refused.value.param == "username"
    assert not isinstance(name, str) or not is_username(name)


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("is_enabled", False, False),
        ("priority", -1000, -1000),
        ("priority", 1000, 1000),
        ("note", "", ""),
        ("note", "Robert'); DROP TABLE users;-- 日本 🦙", "Robert'); DROP TABLE users;-- 日本 🦙"),
        ("limits", {}, {}),
        ("limits", {"requests": 0, "tokens_per_day": None}, {"requests": 0, "tokens_per_day": None}),
        ("limits", {"window_s": 0.5, "requests": MAX_LIMIT}, {"window_s": 0.5, "requests": MAX_LIMIT}),
    ],
)
def test_fields_of_a_user(field: str, value: object, stored: object) -> None:
    assert {field: stored} == check_user({field: value})


NO_USER: dict[str, tuple[object, ...]] = {
    "is_enabled": (None, 1, "true"),
    "priority": (None, True, 1.0, "1", 1001, -1001, 10**30),
    "note": (None, 1, "a\0", "a\nb", "\x1b[2J", "\ud800", "x" * (MAX_NOTE + 1)),
    "limits": (None, [], "requests", {"request": 1}, {1: 1}, {"' OR 1": 1}),
    **dict.fromkeys(("id", "username", "created_at", "deleted_at", "keys", "digest", ""), ("x",)),
}
NO_LIMIT: dict[str, tuple[object, ...]] = {
    "requests": (-1, 1.5, True, "1", math.nan, MAX_LIMIT + 1, [1]),
    "window_s": (None, 0, -1, True, "60", math.nan, math.inf, 10**30),
}


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        *((field, value, field) for field, values in NO_USER.items() for value in values),
        *(("limits", {limit: value}, f"limits.{limit}") for limit, values in NO_LIMIT.items() for value in values),
    ],
)
def test_what_no_user_can_have(field: str, value: object, param: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_user({field: value})

    assert param == refused.value.param
    assert refused.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("scopes", {"sessions", "inference"}, ["inference", "sessions"]),
        ("scopes", ["admin", "admin"], ["admin"]),
        ("models", None, None),
        ("models", ("b", "a", "b"), ["a", "b"]),
        ("networks", (), []),
        ("networks", ["192.168.1.7/24", "::1", "10.0.0.1"], ["192.168.1.0/24", "::1/128", "10.0.0.1/32"]),
        ("delegates", True, True),
        ("note", "ci", "ci"),
        ("limits", {"queued": 0}, {"queued": 0}),
        ("expires_at", None, None),
        ("expires_at", LATER, LATER),
        ("expires_at", LATER.astimezone(timezone(timedelta(hours=5))), LATER),
    ],
)
def test_fields_of_a_key(field: str, value: object, stored: object) -> None:
    checked = check_key({field: value}, NOW)

    assert {field: stored} == checked
    assert str(stored) == str(checked[field])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("scopes", value)
            for value in (None, [], "admin", ["root"], ["admin", 1], {"admin": 1}, b"admin", ["ADMIN"])
        ),
        *(("models", value) for value in ([], "a", [""], [" "], [None], ["a\0"], ["x" * 129], 1, {"a": 1})),
        *(("models", value) for value in (["m"] * (MAX_LIST + 1),)),
        *(("networks", value) for value in (None, "10.0.0.0/8", ["10.0.0.0/33"], ["x"], [1], [""], ["' OR 1=1"])),
        *(("delegates", value) for value in (None, 1, "yes")),
        *(("expires_at", value) for value in (NOW, NOW - timedelta(1), LATER.replace(tzinfo=None), "2027-01-01", 1.0)),
        *(
            ("is_enabled", True),
            ("digest", "x"),
            ("id", "x"),
            ("revoked_at", None),
            ("user_id", "x"),
            ("username", "x"),
        ),
    ],
)
def test_what_no_key_can_have(field: str, value: object) -> None:
    with pytest.raises(Invalid) as refused:
        check_key({field: value}, NOW)

    assert field == refused.value.param


names = st.sampled_from(["priority", "limits", "note", "scopes", "models", "networks", "expires_at", "delegates"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.just("requests"), inner),
    max_leaves=5,
)


@given(st.dictionaries(names, values, min_size=1))
def test_whatever_comes_is_taken_or_refused(fields: dict[str, Any]) -> None:
    """And never breaks anything."""
    for check in (check_user, partial(check_key, now=NOW)):
        try:
            stored = set(check(fields))
        except Invalid:
            continue
        assert stored == set(fields)


@pytest.mark.parametrize("seconds", [0, 0.5, 86400])
def test_a_grace(seconds: float) -> None:
    assert seconds == check_grace(seconds)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, 10**30, True, None, "1"])
def test_what_is_no_grace(seconds: object) -> None:
    with pytest.raises(Invalid):
        check_grace(seconds)
