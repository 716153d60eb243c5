"""What alembic runs for each migration: on the connection that `run.py` gives it."""

from __future__ import annotations

from alembic import context

from hugind.proxy.records.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
