"""`hugind db`: init, upgrade, status, migrate-to."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output

if TYPE_CHECKING:
    from sqlalchemy import URL

    from hugind.proxy.records.database import DatabaseStatus
    from hugind.supervisor.settings import Environment

db_app = typer.Typer(
    no_args_is_help=True,
    help="Where users, keys and usage are on record: SQLite in the hugind home, or PostgreSQL.",
    epilog="PostgreSQL is named by DATABASE_URL, by POSTGRES_AUTH_HOST, _PORT, _DB, _USER, _PASSWORD and _SSLMODE, "
    "or by database_url in settings.yml; without any of them it is SQLite.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@db_app.command()
def init(
    first_admin: Annotated[
        bool, typer.Option("--first-admin", help="Make a user 'admin', too, and print a key that opens everything.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the tables, where there are none. SQLite would be made by itself; PostgreSQL has to be told.

    --first-admin does nothing where somebody has, or had, that name.
    """
    url = _url(_environment())
    status, is_new = asyncio.run(_init(url))
    output.say(f"{'made the tables in' if is_new else 'there are tables already in'} {status.address}")
    secret = _first_admin(url) if first_admin else None
    if as_json:
        output.print_json({**_told(status), "admin_key": secret})
    elif secret:
        output.print_text(secret)


@db_app.command()
def upgrade(as_json: Json = False) -> None:
    """Bring the tables of an older release up to date. What is in them is kept; a copy beforehand is wise."""
    before, after = asyncio.run(_upgrade(_url(_environment())))
    changed = "is of this release already" if before == after.revision else f"was brought from {before} to {after.head}"
    output.say(f"{after.address} {changed}")
    if as_json:
        output.print_json(_told(after))


@db_app.command()
def status(as_json: Json = False) -> None:
    """Which database it is, and whether it can be used: as the gateway that runs sees it. Exit code 1 when not."""
    from hugind.supervisor.run_folder import live_gateways

    environment = _environment()
    if live_gateways(environment.home):
        from hugind.cli.admin_client import AdminClient

        with AdminClient.of_home(environment) as admin:
            about = admin.get("/database")
    else:
        about = _told(asyncio.run(_status(_url(environment))))
    if as_json:
        output.print_json(about)
    else:
        rows = [(what, about[what]) for what in ("kind", "address", "revision", "head")]
        output.print_table("database", ("", ""), rows)
    if about["is_current"]:
        return
    if about["revision"] is None and about["kind"] == "sqlite":
        output.say("not made yet: the first start, or the first user, makes it")
        return
    output.fail("it cannot be used as it is", _advice(about["revision"], about["head"]))
    raise typer.Exit(1)


@db_app.command("migrate-to")
def migrate_to(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="postgresql://user:password@host:5432/name; without: what the environment names.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy users, keys, usage and audit from SQLite to an empty PostgreSQL database, and count what arrived.

    All of it or nothing: interrupted, it can be run again. SQLite stays as it is. No gateway of this home may run.

        hugind db migrate-to postgresql://hugind:secret@db.example/hugind
    """
    from hugind.proxy.records.database import parse_address
    from hugind.supervisor.errors import HugindError
    from hugind.supervisor.run_folder import live_gateways

    environment = _environment()
    if live_gateways(environment.home):
        raise HugindError("a gateway of this home runs, and would go on writing", hint="hugind server stop")
    configured = _url(environment)
    is_sqlite = configured.get_backend_name() == "sqlite"
    if address is None and is_sqlite:
        raise HugindError("where to?", hint="hugind db migrate-to postgresql://user:password@host:5432/name")
    source = configured if is_sqlite else parse_address(None, environment.home.database)
    target = configured if address is None else parse_address(address, environment.home.database)
    counts = asyncio.run(_migrate(source, target))
    if as_json:
        output.print_json({table: {"source": there, "target": here} for table, (there, here) in counts.items()})
    else:
        rows = [(table, f"{there:,}", f"{here:,}") for table, (there, here) in counts.items()]
        output.print_table("copied", ("table", "rows there", "rows here"), rows)
    output.say(f"everything is in {target.render_as_string(hide_password=True)}; {source.database} stays as it was")
    if target != configured:
        output.say(
            "have the gateway use it: POSTGRES_AUTH_* in .env, DATABASE_URL in the environment, or database_url in"
        )
        output.say(f"{environment.home.settings} (mode 0600); then start it")


def _environment() -> Environment:
    from hugind.supervisor.settings import read_environment

    return read_environment()


def _url(environment: Environment) -> URL:
    from hugind.cli.home_database import configured_url

    return configured_url(environment)


def _told(status: DatabaseStatus) -> dict[str, Any]:
    return {**asdict(status), "is_current": status.is_current}


def _advice(revision: str | None, head: str) -> str:
    if revision is None:
        return "hugind db init"
    return "hugind db upgrade" if revision < head else "a newer release of hugind made it: update hugind"


async def _init(url: URL) -> tuple[DatabaseStatus, bool]:
    from hugind.cli.home_database import opened

    async with opened(url) as database:
        before = await database.status()
        if before.revision is None:
            await database.upgrade()
        else:
            await database.prepare()
        return await database.status(), before.revision is None


async def _upgrade(url: URL) -> tuple[str | None, DatabaseStatus]:
    from hugind.cli.home_database import opened

    async with opened(url) as database:
        before = await database.status()
        with output.progress(f"upgrading {before.address}"):
            await database.upgrade()
        return before.revision, await database.status()


async def _status(url: URL) -> DatabaseStatus:
    from hugind.cli.home_database import opened

    async with opened(url) as database:
        return await database.status()


async def _migrate(source: URL, target: URL) -> dict[str, tuple[int, int]]:
    from hugind.cli.home_database import opened
    from hugind.proxy.records.transfer import transfer

    async with opened(source) as there, opened(target) as here:
        if (await here.status()).revision is None:
            await here.upgrade()
        with output.bars() as show:
            return await transfer(there, here, show)


def _first_admin(url: URL) -> str | None:
    from hugind.cli.admin_client import AdminClient
    from hugind.cli.user import first_admin

    with AdminClient(None, url) as admin:
        secret = first_admin(admin)
    output.say("made user admin; its key, shown only now:" if secret else "there is, or was, a user admin already")
    return secret
