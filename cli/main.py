"""The `hugind` command: registers the commands; turns an error into a message, a hint and an exit code.

Every command imports what it needs when it runs, so that `hugind --help` loads no server.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hugind.cli import models, output
from hugind.cli.alias import alias_app
from hugind.cli.audit import audit
from hugind.cli.bench.command import bench_app
from hugind.cli.config import config_app
from hugind.cli.db import db_app
from hugind.cli.doctor import doctor
from hugind.cli.embed import embed
from hugind.cli.key import key_app
from hugind.cli.pull import pull
from hugind.cli.resident import ps, stop
from hugind.cli.serve import VARIABLES, serve
from hugind.cli.server import server_app
from hugind.cli.session import session_app
from hugind.cli.usage import usage
from hugind.cli.user import user_app

app = typer.Typer(
    name="hugind",
    no_args_is_help=True,
    help="Serve GGUF models on this machine to many people: llama.cpp engines behind one gateway with keys.",
    epilog="Start here:  hugind config demo  &&  hugind serve",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help would triple the time of `hugind --help`
)
app.command(epilog=VARIABLES)(serve)
app.command()(pull)
app.command("list")(models.list_models)
app.command("ls", hidden=True)(models.list_models)
app.command()(ps)
app.command()(stop)
app.command()(models.show)
app.command("cp")(models.copy)
app.command("rm")(models.remove)
app.command()(embed)
app.add_typer(alias_app, name="alias")
app.add_typer(server_app, name="server")
app.add_typer(config_app, name="config")
app.add_typer(session_app, name="session")
app.add_typer(user_app, name="user")
app.add_typer(key_app, name="key")
app.command()(usage)
app.command()(audit)
app.add_typer(db_app, name="db")
app.add_typer(bench_app, name="bench")
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.print_text(f"hugind {version('hugind')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before a command."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing runs, 130 interrupted."""
    from hugind.supervisor.errors import HugindError

    try:
        app()
    except HugindError as error:
        output.fail(error.message, error.hint)
        sys.exit(1)
    except OSError as error:  # a disk that is full, a folder that may not be written
        output.fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), None)
        sys.exit(1)


if __name__ == "__main__":
    main()
