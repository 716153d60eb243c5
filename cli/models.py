"""`hugind show`, `list`, `cp`, `rm`: the models that a server has, and their other names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output, wording
from hugind.cli.completion import complete_model
from hugind.cli.where import Key, Url, connect, connect_if_there

if TYPE_CHECKING:
    from hugind.cli.shelf import Entry
    from hugind.supervisor.paths import Home

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model or an alias: hugind list", autocompletion=complete_model)
]

LINES = 12
"""Of a template or a licence; --json prints all."""


def show(
    model: Model,
    verbose: Annotated[bool, typer.Option("--verbose", help="With long lists of the model's header.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what a model is and can do.

    And what it is told by default. Exit code 1 when there is none of this name.

    For example:  hugind show demo
    """
    about = connect(url, key).post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        output.print_json(about)
        return
    output.print_table(output.plain(model), ("", ""), facts(about))
    for title in ("parameters", "system", "template", "license"):
        if text := str(about.get(title) or "").strip():
            output.print_text(f"{title}\n{indented(output.plain(text))}\n")
    for message in about.get("messages") or []:
        output.print_text(f"{output.plain(str(message.get('role')))}: {output.plain(str(message.get('content')))}")


def list_models(
    url: Url = None,
    key: Key = None,
    chosen: Annotated[str, typer.Option("--chosen", hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """List all models and aliases.

    Those of this home, served or not; with --url those of a server.

    For example:  hugind list
    """
    server = connect_if_there(url, key)
    if server is not None and server.record is None:
        rows = [_served_row(model) for model in server.get("/api/tags").get("models") or []]
        title = server.url
    else:
        home = _home()
        rows, title = _home_rows(home), str(home.root)
    if as_json:
        output.print_json(rows)
        return
    if chosen:
        _mark(rows, chosen.split())
    output.print_table(title, ("name", "kind", "size", "modified", "state"), map(_listed, rows))


def copy(
    source: Model,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The other name.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Give a model another name, too. Nothing is copied but the name and its settings.

    For example:  hugind cp qwen3 gpt-4o
    """
    server = connect_if_there(url, key)
    if server is None:
        from hugind.cli.alias_book import HomeAliases

        HomeAliases(_home()).create(name, {"model": source})
    else:
        server.post("/api/copy", {"source": source, "destination": name})
    output.say(f"{name} is {source} now")


def remove(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete a model or an alias.

    A model of the library goes with its files. A config: hugind config remove.

    For example:  hugind rm qwen3-8b-q4_k_m
    """
    from hugind.cli.confirm import confirm

    server = connect_if_there(url, key)
    confirm(f"Delete {model}?", is_sure=yes, otherwise=f"{model} stays")
    if server is None:
        _remove_here(model)
    else:
        server.delete("/api/delete", {"model": model})
    output.say(f"deleted {model}")


def _remove_here(model: str) -> None:
    from hugind.cli.shelf import find_entry
    from hugind.supervisor.aliases import Aliases
    from hugind.supervisor.errors import HugindError
    from hugind.supervisor.models.library import Library

    home = _home()
    entry = find_entry(home, model)
    if entry.kind == "alias":
        Aliases(home).remove(entry.name)
    elif entry.kind == "library":
        Library(home).remove(entry.name)
    else:
        raise HugindError(f"'{entry.name}' is a config", hint=f"hugind config remove {entry.name}")


def _home() -> Home:
    from hugind.supervisor.settings import read_environment

    return read_environment().home


def _home_rows(home: Home) -> list[dict[str, Any]]:
    from hugind.cli.gateway_process import served_engines
    from hugind.cli.shelf import entries

    served = served_engines(home)
    return [_home_row(entry, served) for entry in entries(home)]


def _home_row(entry: Entry, served: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    url, engine = _find_served(entry, served)
    state = "cannot be served" if entry.problem else "stopped"
    return {
        "name": entry.name,
        "kind": entry.kind,
        "of": entry.of,
        "size": entry.size_bytes,
        "modified_at": entry.modified_at.isoformat() if entry.modified_at else None,
        "state": engine["state"] if engine else state,
        "url": url,
        "reason": (engine or {}).get("reason") or entry.problem,
        "other_names": list(entry.other_names),
    }


def _find_served(
    entry: Entry, served: dict[str, tuple[str, dict[str, Any]]]
) -> tuple[str, dict[str, Any]] | tuple[None, None]:
    name = entry.of if entry.kind == "alias" else entry.name
    return (None, None) if name is None else served.get(name, (None, None))


def _served_row(model: dict[str, Any]) -> dict[str, Any]:
    parent = (model.get("details") or {}).get("parent_model")
    return {
        "name": model["name"],
        "kind": "alias" if parent else "model",
        "of": parent,
        "size": model.get("size"),
        "modified_at": model.get("modified_at"),
        "state": None,
        "other_names": [],
    }


def _mark(rows: list[dict[str, Any]], chosen: list[str]) -> None:
    from hugind.supervisor.model_names import match_name

    known = {name: row for row in rows for name in (*row["other_names"], row["name"])}
    for given in chosen:
        if (name := match_name(given, known)) is not None:
            row = known[name]
            row["state"] = f"{row['state']}, chosen"


def _listed(row: dict[str, Any]) -> tuple[object, ...]:
    kind = f"alias of {row['of']}" if row["kind"] == "alias" else row["kind"]
    size, reason = row["size"], row.get("reason")
    state = f"{row['state']}: {reason}" if reason else row["state"]
    modified = row["modified_at"]
    age = None if modified is None else f"{wording.span(_seconds_since(modified))} ago"
    return output.plain(row["name"]), kind, None if size is None else wording.size(size), age, state


def _seconds_since(moment: str) -> float:
    return max((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 0.0)


def facts(about: dict[str, Any]) -> list[tuple[str, object]]:
    """What is known of a model, from the answer of /api/show."""
    details = about.get("details") or {}
    info = about.get("model_info") or {}
    facts = [
        ("architecture", info.get("general.architecture") or details.get("family")),
        ("parameters", details.get("parameter_size")),
        ("quantization", details.get("quantization_level")),
        ("context length", details.get("context_length") or _ending(info, ".context_length")),
        ("embedding length", details.get("embedding_length") or _ending(info, ".embedding_length")),
        ("capabilities", wording.names(about.get("capabilities"), everything="none")),
        ("of", details.get("parent_model")),
        ("modified", wording.moment(about.get("modified_at"))),
    ]
    return [(what, output.plain(str(value))) for what, value in facts if value]


def _ending(info: dict[str, Any], suffix: str) -> object:
    return next((value for name, value in info.items() if name.endswith(suffix)), None)


def indented(text: str) -> str:
    """A text below its title, if need be not all of it."""
    lines = text.splitlines()
    more = [f"... {len(lines) - LINES} lines more: --json"] if len(lines) > LINES else []
    return "\n".join(f"  {line}" for line in [*lines[:LINES], *more])
