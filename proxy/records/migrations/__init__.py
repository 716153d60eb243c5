"""The steps from one release's tables to the next, run by alembic."""
