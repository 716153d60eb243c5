"""Users and keys as they come in: times, lifetimes, and what was said of them at all."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from hugind.proxy.access import accounts
from hugind.proxy.access.principal import Allowance
from hugind.proxy.routes.account_shapes import (
    Key,
    Limits,
    NewKey,
    User,
    UserChanges,
    expiry,
    given,
    parse_moment,
)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00.5+02:00", datetime(2026, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
    ],
)
def test_times_as_people_write_them(text: str, moment: datetime) -> None:
    """With a zone, or in UTC."""
    found = parse_moment(text)

    assert (moment, UTC) == (found, found.tzinfo)


@examples(st.one_of(st.text(), st.datetimes().map(str), st.integers(), st.floats(), st.none(), st.booleans()))
def test_a_time_or_a_refusal(value: object) -> None:
    """Whatever comes, it is a time that can be reckoned with, or ValueError."""
    try:
        found = parse_moment(value)
    except ValueError:
        return
    assert found - timedelta(days=366) < found < found + timedelta(days=366)


def test_when_a_key_ends() -> None:
    """Never, at a time, or after a time; not both."""
    moment = datetime(2190, 1, 1, tzinfo=UTC)
    soon = expiry(NewKey(expires_in_s=60))

    assert None is expiry(NewKey())
    assert moment == expiry(NewKey.model_validate({"expires_at": "2190-01-01"}))
    assert soon is not None
    assert timedelta(0) < soon - datetime.now(UTC) <= timedelta(minutes=1)
    with pytest.raises(ValueError, match="not both"):
        expiry(NewKey.model_validate({"expires_at": "2190-01-01", "expires_in_s": 60}))


def test_only_what_was_said() -> None:
    """What a request leaves out is no change, and a limit that is null is one."""
    changes = UserChanges.model_validate({"limits": {"requests": None}})

    assert {"limits": {"requests": None}} == given(changes)
    assert {} == given(UserChanges())


def test_nothing_is_forgotten() -> None:
    """All limits can be set, and all of users and keys is shown but a user's inner id."""
    assert {field.name for field in fields(Allowance)} == set(Limits.model_fields)
    assert {field.name for field in fields(accounts.User)} == {"id", *User.model_fields}
    assert {field.name for field in fields(accounts.Key)} == set(Key.model_fields)
