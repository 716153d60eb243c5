"""`hugind alias`: create, list, show, rm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output, wording
from hugind.cli.completion import complete_model
from hugind.cli.where import Key, Url, connect

if TYPE_CHECKING:
    from hugind.cli.alias_book import AliasBook

alias_app = typer.Typer(
    no_args_is_help=True,
    help="Other names for models, with settings. A request may override them.",
    epilog='For example:  hugind alias create tutor --model qwen3 --system "You explain." --temperature 0.3',
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An alias: hugind alias list")]


@alias_app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As clients will ask for it: tutor, gpt-4o, team/tutor.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A model, or another alias.", autocompletion=complete_model
        ),
    ],
    system: Annotated[str | None, typer.Option("--system", help="Before chats that bring no system message.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0)] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0, max=1)] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=0)] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", min=0, max=1)] = None,
    repeat_penalty: Annotated[float | None, typer.Option("--repeat-penalty", "--repetition-penalty", min=0)] = None,
    presence_penalty: Annotated[float | None, typer.Option("--presence-penalty")] = None,
    frequency_penalty: Annotated[float | None, typer.Option("--frequency-penalty")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    num_predict: Annotated[
        int | None, typer.Option("--num-predict", "--max-new-tokens", help="Tokens of an answer at most.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Ends an answer; may be given again.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="KEY=VALUE", help="Another one, by Ollama's name; may be given again."),
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option("--message", metavar="ROLE=TEXT", help="Put before every chat; may be given again."),
    ] = None,
    load_in_8bit: Annotated[
        bool, typer.Option("--load-in-8bit", help="The file of MODEL with about 8 bits a weight.")
    ] = False,
    load_in_4bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="The file of MODEL with about 4 bits a weight.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make an alias, or another one in its place.

    A running gateway serves it from the next request on. Of another alias it takes over what is not said here.

    For example:  hugind alias create mistral-instruct --model mistral-7b --temperature 0.7 --stop "<|eot_id|>"
    """
    if load_in_8bit and load_in_4bit:
        raise typer.BadParameter("either --load-in-8bit or --load-in-4bit")
    parameters = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "num_predict": num_predict,
        "stop": stop or None,
        **dict(map(_read_parameter, parameter or [])),
    }
    said = {
        "model": model,
        "system": system,
        "parameters": {option: value for option, value in parameters.items() if value is not None},
        "messages": list(map(_read_message, message or [])),
        "quantization": "8bit" if load_in_8bit else "4bit" if load_in_4bit else None,
    }
    made = _book(url, key).create(name, {field: value for field, value in said.items() if value})
    if as_json:
        output.print_json(made)
    output.say(f"{name} is {made['model']} now")


@alias_app.command("list")
def list_aliases(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List all aliases.

    For example:  hugind alias list --json
    """
    aliases = _book(url, key).all()
    if as_json:
        output.print_json(aliases)
        return
    rows = [
        (alias["name"], alias["model"], _parameters(alias), wording.excerpt(alias.get("system"))) for alias in aliases
    ]
    output.print_table("aliases", ("name", "model", "parameters", "system"), rows)


@alias_app.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show one alias: its model and its settings.

    For example:  hugind alias show tutor
    """
    alias = _book(url, key).get(name)
    if as_json:
        output.print_json(alias)
        return
    facts = [
        ("model", alias["model"]),
        ("chosen for", alias.get("quantization")),
        ("system", output.plain(alias.get("system") or "") or None),
        *((f"  {option}", json.dumps(value)) for option, value in (alias.get("parameters") or {}).items()),
        *((str(said["role"]), output.plain(str(said["content"]))) for said in alias.get("messages") or []),
        ("license", wording.excerpt(alias.get("license"))),
    ]
    output.print_table(alias["name"], ("", ""), [(what, value) for what, value in facts if value is not None])


@alias_app.command()
def rm(name: Name, url: Url = None, key: Key = None) -> None:
    """Forget an alias. Its model stays.

    For example:  hugind alias rm tutor
    """
    _book(url, key).remove(name)
    output.say(f"alias {name} is no more")


def _book(url: str | None, key: str | None) -> AliasBook:
    from hugind.cli.alias_book import HomeAliases, ServerAliases

    if url is None and key is None:
        from hugind.supervisor.settings import read_environment

        return HomeAliases(read_environment().home)
    return ServerAliases(connect(url, key))


def _read_parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise typer.BadParameter(f"--parameter takes KEY=VALUE, not '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _read_message(text: str) -> dict[str, str]:
    role, separator, content = text.partition("=")
    if not role or not separator:
        raise typer.BadParameter(f"--message takes ROLE=TEXT, not '{text}'")
    return {"role": role, "content": content}


def _parameters(alias: dict[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in (alias.get("parameters") or {}).items())
