"""The database of this home: which one it is, and opened for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from hugind.proxy.books import database_url
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseError
from hugind.supervisor.settings import Environment, load_settings


def configured_url(environment: Environment) -> URL:
    """Where it is: `DATABASE_URL` or `POSTGRES_AUTH_*`, else settings.yml, else a file in the home.

    Raises:
        ConfigError: settings.yml cannot be used.
        DatabaseError: the address cannot be used.
    """
    return database_url(environment.home, load_settings(environment.home), environment)


@asynccontextmanager
async def opened(url: URL) -> AsyncIterator[Database]:
    """A database as it is, ready for use or not. Closed at the end of the block.

    Raises:
        DatabaseError: it is no database, or not one of ours.
    """
    database = Database(url)
    try:
        with told_plainly(database.address):
            yield database
    finally:
        await database.aclose()


@contextmanager
def told_plainly(address: str) -> Iterator[None]:
    """What is wrong with a database, in one line."""
    try:
        yield
    except SQLAlchemyError as error:
        words = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
        raise DatabaseError(f"{address} cannot be used: {words[0]}", hint="hugind db status") from error
