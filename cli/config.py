"""`hugind config`: check, schema, list, show, remove, demo, defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output

if TYPE_CHECKING:
    from hugind.supervisor.paths import Home

config_app = typer.Typer(no_args_is_help=True, help="The YAML files that say which engines there are.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str, typer.Argument(help="A config's name, or a file.")]


@config_app.command()
def check(name: Name, as_json: Json = False) -> None:
    """Say whether a config can be used: its keys, its values, and whether its files exist."""
    from hugind.supervisor.config import find_config, load_config, missing_files
    from hugind.supervisor.errors import ConfigError

    home = _home()
    path = None
    try:
        name, path = find_config(name, home)
        config = load_config(path)
        for key, file in missing_files(config, home):
            raise ConfigError(f"there is no file {file}", path=path, key=key, hint="put it there, or correct the path")
    except ConfigError as error:
        if not as_json:
            raise
        about = {"problem": error.problem, "line": error.line, "key": error.key, "hint": error.hint}
        output.print_json({"ok": False, "config": name, "path": path, **about})
        raise typer.Exit(1) from None
    if as_json:
        output.print_json({"ok": True, "config": name, "path": path})
    else:
        output.say(f"{path}: good")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from hugind.supervisor.config import json_schema

    output.print_json(json_schema())


@config_app.command("list")
def list_configs(as_json: Json = False) -> None:
    """The configs of the home. What is being served: hugind server list."""
    from hugind.supervisor.config import load_config
    from hugind.supervisor.errors import ConfigError

    home = _home()
    rows: list[dict[str, Any]] = []
    for name in home.config_names():
        row: dict[str, Any] = {"config": name, "path": str(home.config(name)), "model": None, "problem": None}
        try:
            row["model"] = load_config(home.config(name)).model.model_path
        except ConfigError as error:
            row["problem"] = str(error)
        rows.append(row)
    if as_json:
        output.print_json(rows)
    else:
        table = [(row["config"], row["model"], row["problem"]) for row in rows]
        output.print_table(f"configs in {home.configs}", ("config", "model", "problem"), table)


@config_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Print a config: the file as it is, or with --json every key with its default. Keys are masked there."""
    from hugind.supervisor.config import find_config, load_config

    _, path = find_config(name, _home())
    config = load_config(path)
    if as_json:
        output.print_json(config.model_dump(mode="json"))
    else:
        output.print_text(path.read_text(encoding="utf-8").rstrip())


@config_app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A config's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a config. The model's files stay. Refused while a gateway serves it, unless that is `hugind serve`."""
    from hugind.cli.greeting import is_on_demand
    from hugind.supervisor.config import find_config
    from hugind.supervisor.errors import HugindError
    from hugind.supervisor.run_folder import live_gateways

    home = _home()
    if "/" in name or name.endswith((".yml", ".yaml")):
        raise HugindError("remove takes a config's name, not a file", hint="hugind config list")
    name, path = find_config(name, home)
    serving = [record for record in live_gateways(home) if name in record.configs]
    if not all(map(is_on_demand, serving)):
        raise HugindError(f"'{name}' is being served", hint="hugind server stop")
    if not yes and not (_is_terminal() and typer.confirm(f"Delete {path}?")):
        raise HugindError(f"{path} is kept", hint="--yes deletes it without asking")
    path.unlink()
    output.say(f"deleted {path}{'; what it still answers is finished' if serving else ''}")


@config_app.command()
def demo(quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what was made.")] = False) -> None:
    """Put the demo model and a config for it into the home; what is there already stays.

    The demo model has random weights: it answers with noise, and shows only that everything works.
    """
    from hugind.cli.demo import install_demo

    for path in install_demo(_home()):
        output.say(f"made {path}")
    if not quiet:
        output.say("start it with: hugind serve, or hugind server start demo")


@config_app.command()
def defaults(
    lib: Annotated[
        str | None,
        typer.Option("--lib", help="A llama-server, a folder that holds one, or a libllama beside one; '' for none."),
    ] = None,
    hf_token: Annotated[
        str | None, typer.Option("--hf-token", help="Token for gated Hugging Face repositories.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set or show the defaults of this machine (settings.yml, mode 0600)."""
    from hugind.supervisor.llama.binary import resolve_binary
    from hugind.supervisor.settings import load_settings, save_settings

    home = _home()
    changes: dict[str, str | int | None] = {}
    if lib is not None:
        if lib:
            output.say(f"llama-server {resolve_binary(lib).build}")
        changes["lib"] = str(Path(lib).expanduser().absolute()) if "/" in lib else lib or None
    if hf_token is not None:
        changes["hf_token"] = hf_token
    settings = save_settings(home, changes) if changes else load_settings(home)
    shown = settings.model_dump(mode="json")
    if as_json:
        output.print_json(shown)
    else:
        output.print_table(str(home.settings), ("key", "value"), shown.items())


def _home() -> Home:
    from hugind.supervisor.settings import read_environment

    return read_environment().home


def _is_terminal() -> bool:
    import sys

    return sys.stdin.isatty()
