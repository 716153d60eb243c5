"""Run the steps on a connection. Imported only where there is something to do: alembic is large."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, within the connection's transaction. Blocks.

    Raises:
        alembic.util.CommandError: the database is at a revision that is not known here.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
