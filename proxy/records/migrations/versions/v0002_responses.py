"""Responses and conversations that are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hugind.proxy.records import schema

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("end_user", sa.String(length=256), nullable=True),
        sa.Column("created_at", schema.Moment(timezone=True), nullable=False),
        sa.Column("deleted_at", schema.Moment(timezone=True), nullable=True),
        sa.Column("previous_id", sa.String(length=64), nullable=True),
        sa.Column("conversation_id", sa.String(length=64), nullable=True),
        sa.Column("conversation_end", sa.Integer(), nullable=True),
        sa.Column("history_bytes", sa.BigInteger(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
    )
    for column in ("conversation_id", "created_at", "deleted_at", "previous_id", "principal"):
        op.create_index(op.f(f"ix_responses_{column}"), "responses", [column], unique=False)
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("end_user", sa.String(length=256), nullable=True),
        sa.Column("created_at", schema.Moment(timezone=True), nullable=False),
        sa.Column("used_at", schema.Moment(timezone=True), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("next_position", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    for column in ("principal", "used_at"):
        op.create_index(op.f(f"ix_conversations_{column}"), "conversations", [column], unique=False)
    op.create_table(
        "conversation_items",
        sa.Column("conversation_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "position", name=op.f("pk_conversation_items")),
    )
    op.create_index(
        op.f("ix_conversation_items_conversation_id_id"), "conversation_items", ["conversation_id", "id"], unique=True
    )
