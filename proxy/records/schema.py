"""The tables. One metadata for SQLite and PostgreSQL; `migrations/` brings an older database to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A point in time, always with UTC; SQLite keeps none by itself."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a point in time needs its zone")
        return value.astimezone(UTC) if dialect.name != "sqlite" else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _number() -> Column[Any]:
    """A row's own number; SQLite counts only a plain INTEGER up."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


users = Table(
    "users",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("username", String(64), nullable=False, unique=True),
    Column("is_enabled", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("deleted_at", Moment),
)
"""`limits`: the fields of an `Allowance` that this user has of its own. A deleted user's row stays: its name is not
given to another, who would inherit conversations and usage with it."""

keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("user_id", String(16), ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("networks", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("delegates", Boolean, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("replaced_by", String(16)),
    Column("last_used_at", Moment),
)
"""`id` is the key's public part, `digest` the SHA-256 of the whole key in hex."""

revisions = Table(
    "revisions",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""`access` counts up with every change of users and keys: gateways look at it instead of at everything."""

requests = Table(
    "llama_requests",
    metadata,
    _number(),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, index=True),
    Column("username", String(128), nullable=False),
    Column("end_user", String(256)),
    Column("key_id", String(16)),
    Column("path", String(128), nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("model", String(128), nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("queue_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("request_bytes", BigInteger, nullable=False),
    Column("response_bytes", BigInteger, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("finish_reason", String(32)),
    Column("error_code", String(64)),
    Column("client_ip", String(64)),
    Index(None, "username", "created_at"),
    Index(None, "model", "created_at"),
)
"""One row for each turn that was admitted. `end_user`: on whose behalf a delegating key asked."""

contents = Table(
    "llama_contents",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("created_at", Moment, nullable=False, index=True),
    Column("request", Text, nullable=False),
    Column("response", Text, nullable=False),
)
"""Only with `usage.record_content`."""

usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", Date, primary_key=True),
    Column("username", String(128), primary_key=True),
    Column("key_id", String(16), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("duration_ms", Float, nullable=False),
)
"""Sums of `llama_requests` by day in UTC; they stay when the rows go. `key_id` is '' where there was none."""

audit = Table(
    "audit_log",
    metadata,
    _number(),
    Column("created_at", Moment, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("actor_key_id", String(16)),
    Column("action", String(64), nullable=False),
    Column("target", String(256), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("client_ip", String(64)),
    Column("request_id", String(64)),
)
"""Every change: who, what, when, from where. Rows are only added."""

limit_accounts = Table(
    "limit_accounts",
    metadata,
    Column("subject", String(160), primary_key=True),
    Column("state", Text, nullable=False),
    Column("updated_at", Moment, nullable=False),
)
"""What users and keys have used up, where gateways share it (`access/limit_database.py`)."""

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("principal", Text, nullable=False, index=True),
    Column("end_user", String(256)),
    Column("created_at", Moment, nullable=False, index=True),
    Column("deleted_at", Moment, index=True),
    Column("previous_id", String(64), index=True),
    Column("conversation_id", String(64), index=True),
    Column("conversation_end", Integer),
    Column("history_bytes", BigInteger, nullable=False),
    Column("input", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""Answers that can be gone on from. `input`: the items that came with the request, `body`: the response; both JSON.
What was said before is with `previous_id`, or in the conversation before the position `conversation_end`. A deleted one
stays while others go on from it. `owner`: digest of the principal and of the person that the request named."""

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("principal", Text, nullable=False, index=True),
    Column("end_user", String(256)),
    Column("created_at", Moment, nullable=False),
    Column("used_at", Moment, nullable=False, index=True),
    Column("notes", Text, nullable=False),
    Column("next_position", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
"""`notes`: what the client calls metadata, JSON. `size_bytes`: of its items."""

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("conversation_id", String(64), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Index(None, "conversation_id", "id", unique=True),
)
"""What was said in a conversation, JSON, in the order of `position`."""
