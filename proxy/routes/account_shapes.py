"""Users and keys as the admin API takes and shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hugind.proxy.access.fields import (
    MAX_GRACE_S,
    MAX_LIMIT,
    MAX_LIST,
    MAX_MODEL_NAME,
    MAX_NOTE,
    MAX_PRIORITY,
    MAX_WINDOW_S,
)
from hugind.proxy.access.principal import USER_SCOPES, Scope
from hugind.proxy.routes.operators import NO_NUL

MAX_SECONDS = 100 * 366 * 86400
FIRST_YEAR, LAST_YEAR = 1970, 2999

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_SHOWN = ConfigDict(from_attributes=True)


def parse_moment(given: object) -> datetime:
    """A point in time as people write it; without a zone it is UTC.

    Raises:
        ValueError: it is none, or so far away that reckoning with it would fail.
    """
    if not isinstance(given, str):
        raise ValueError("a date or a time in ISO 8601 is expected")  # noqa: TRY004 - pydantic takes no TypeError
    moment = datetime.fromisoformat(given)
    if not FIRST_YEAR < moment.year < LAST_YEAR:
        raise ValueError(f"a year between {FIRST_YEAR} and {LAST_YEAR} is expected")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


_EXAMPLES = ["2026-01-31T12:00:00Z", "2026-01-31"]
Time = Annotated[
    AwareDatetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "examples": _EXAMPLES})
]
Note = Annotated[str, Field(max_length=MAX_NOTE, pattern=NO_NUL)]
Username = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=0, le=MAX_LIMIT)]
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
"""Higher is served first."""


class Limits(BaseModel):
    """What is set for this user or key. Absent: the gateway's default (of a user), none (of a key). null: no limit."""

    model_config = _STRICT

    requests: Count | None = Field(None, description="In any `window_s` seconds.")
    window_s: float = Field(60, gt=0, le=MAX_WINDOW_S)
    tokens_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    concurrent: Count | None = Field(None, description="Turns at once, waiting ones included.")
    queued: Count | None = Field(None, description="Turns that may wait for a slot of one engine.")


class NewUser(BaseModel):
    """A user to be made. It has no key yet."""

    model_config = _STRICT

    username: Username
    priority: Priority = 0
    limits: Limits = Limits()
    note: Note = ""


class UserChanges(BaseModel):
    """What shall be different. `limits` replaces all that is set."""

    model_config = _STRICT

    is_enabled: bool = True
    priority: Priority = 0
    limits: Limits = Limits()
    note: Note = ""


class KeyChanges(BaseModel):
    """What shall be different. What is absent stays as it is."""

    model_config = _STRICT

    scopes: list[Scope] = Field(sorted(USER_SCOPES), min_length=1, max_length=MAX_LIST)
    models: list[Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME, pattern=NO_NUL)]] | None = Field(
        None, min_length=1, max_length=MAX_LIST, description="The models that it opens; null: all."
    )
    networks: list[Annotated[str, Field(max_length=64, pattern=NO_NUL)]] = Field(
        [], max_length=MAX_LIST, description="Where requests may come from, such as 10.0.0.0/8; none: anywhere."
    )
    limits: Limits = Limits()
    delegates: bool = Field(False, description="May name the person behind a request (`X-Hugind-User`).")
    note: Note = ""
    expires_at: Time | None = None


class NewKey(KeyChanges):
    """A key to be made."""

    expires_in_s: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = Field(
        None, description="Instead of `expires_at`."
    )


class Rotation(BaseModel):
    """How a key gives way to its successor."""

    model_config = _STRICT

    grace_s: int = Field(0, ge=0, le=MAX_GRACE_S, description="So long the old one is good, too.")


class User(BaseModel):
    """Somebody with keys."""

    model_config = _SHOWN

    username: str
    is_enabled: bool
    priority: int
    limits: Limits
    note: str
    created_at: datetime
    deleted_at: datetime | None
    keys: int
    """That are good now."""


class Users(BaseModel):
    users: list[User]


class Key(BaseModel):
    """A key, without its secret."""

    model_config = _SHOWN

    id: str
    username: str
    scopes: list[Scope]
    models: list[str] | None
    networks: list[str]
    limits: Limits
    delegates: bool
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    """In the future: it has been replaced, and is good until then."""
    replaced_by: str | None
    last_used_at: datetime | None


class KeyWithSecret(Key):
    """A key that was just made. Nobody can ask for its secret again."""

    secret: str


class Keys(BaseModel):
    keys: list[Key]


class Deleted(BaseModel):
    deleted: str
    sessions_forgotten: int | None
    """null: no gateway runs here."""


def given(body: BaseModel) -> dict[str, Any]:
    """What a request says, and nothing of what it leaves out."""
    return body.model_dump(exclude_unset=True)


def expiry(wanted: NewKey) -> datetime | None:
    """When a new key ends.

    Raises:
        ValueError: it says so twice.
    """
    if wanted.expires_in_s is None:
        return wanted.expires_at
    if wanted.expires_at is not None:
        raise ValueError("expires_in_s or expires_at, not both")
    return datetime.now(UTC) + timedelta(seconds=wanted.expires_in_s)
