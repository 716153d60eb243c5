"""`hugind session`: list, show, forget, export, import, pin."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output, wording

if TYPE_CHECKING:
    from hugind.cli.session_home import SessionHome

NOTHING_RUNS = 3

session_app = typer.Typer(
    no_args_is_help=True,
    help="Conversations that the gateway keeps: in a slot, in memory, on disk. See them, move them, forget them.",
    epilog="An id may be cut short, as long as it is clear which one is meant.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A session's id, or its beginning: hugind session list")]
Engine = Annotated[str | None, typer.Option("--engine", "-e", help="Only of this engine (a config's name).")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Only of this user: the `user` of the requests.")]
Principal = Annotated[str | None, typer.Option("--principal", help="Only of whoever has this key, by its name.")]


@session_app.command("list")
def list_sessions(
    user: User = None,
    engine: Engine = None,
    principal: Principal = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many of the newest.")] = 100,
    as_json: Json = False,
) -> None:
    """The sessions, newest first, and what each engine can do with them.

    where: slot (nothing to do when its user returns), memory or disk (restored in milliseconds), none (only known by
    what was said: computed anew). A slot's session may have a copy in memory or on disk besides: size counts all.

    hits: how often a turn found its session in the slot (hot), in memory (warm), on disk (cold) or nowhere (new).
    """
    sessions = _sessions()
    found = sessions.overview(engine=engine, user=user, principal=principal, limit=limit)
    _tell_what_is_read(sessions, engine)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        "sessions",
        ("id", "user", "engine", "where", "tokens", "size", "age", "hits", ""),
        [_row(session) for session in found["sessions"]],
    )
    output.print_table(
        "engines",
        ("engine", "can be continued with", "memory", "disk", "refused", "slot files", "why"),
        [_engine_row(about) for about in found["engines"]],
    )
    if (more := found["total"] - len(found["sessions"])) > 0:
        output.say(f"{more:,} older ones are not shown: --limit")


@session_app.command()
def show(session_id: Id, as_json: Json = False) -> None:
    """One session: whose it is, where it is, and what was said, where that is known."""
    sessions = _sessions()
    about = sessions.show(sessions.find(session_id))
    if about["gateway"] is None:
        _tell_what_is_read(sessions, about["engine"])
    if as_json:
        output.print_json(about)
        return
    messages = about.pop("messages")
    output.print_table(about["id"], ("", ""), [(key, _value(key, value)) for key, value in about.items()])
    for message in messages or []:
        output.print_text(f"{output.plain(str(message.get('role')))}: {output.plain(_text(message))}")
    if messages is None:
        output.say("what was said is not known")


@session_app.command()
def forget(
    session_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One session.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Every session of this user.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session.")] = False,
    engine: Engine = None,
    principal: Principal = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a session, or many: what was said, every snapshot, what its slot holds. There is no way back.

    Where sessions are encrypted, the key of whoever has none left is destroyed, too. A session in the middle of a turn
    is waited for, but not for long.

    Give an ID, or --user, or --all; --engine and --principal narrow the last two.
    """
    from hugind.cli.confirm import confirm

    if [session_id is not None, user is not None, everything].count(True) != 1:
        raise typer.BadParameter("give an ID, or --user, or --all")
    sessions = _sessions()
    if session_id is not None:
        row = sessions.find(session_id)
        question = f"Forget {row['id']} of {_owner(row)}, {row['tokens']:,} tokens?"
        confirm(question, is_sure=yes, otherwise="nothing was forgotten")
        sessions.forget(row)
        output.say(f"forgot {row['id']}")
        return
    whose = "every session" if user is None else f"every session of user '{output.plain(user)}'"
    narrowed = "".join(f", {what} {name}" for what, name in (("engine", engine), ("principal", principal)) if name)
    confirm(f"Forget {whose}{narrowed}?", is_sure=yes, otherwise="nothing was forgotten")
    forgotten = sessions.forget_all(user=user, principal=principal, engine=engine)
    output.say(f"forgot {len(forgotten):,} sessions")


@session_app.command()
def export(
    session_id: Id,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; made with mode 0600.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write one session into one file: its record, what was said, its snapshot.

    The file is a tar that nobody but this session's reader should get: it holds the conversation in the clear, however
    sessions are kept here. `hugind session import` takes it.
    """
    from hugind.supervisor.errors import HugindError

    if file.exists() and not force:
        raise HugindError(f"{file} is there already", hint="name another file, or --force overwrites it")
    sessions = _sessions()
    row = _or_exit(sessions).find(session_id)
    gateway = sessions.gateway(row)
    with output.progress(f"exporting {row['id']}"):
        size = gateway.export_session(row["id"], file)
    output.say(f"exported {row['id']} to {file}, {wording.size(size)}")


@session_app.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hugind session export` wrote.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="The engine that goes on with it.")],
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whose it shall be: a `user` of requests.")] = None,
    principal: Annotated[
        str | None, typer.Option("--principal", help="Whose key; needed where the engine has several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new session from a file, for whoever is named; prints its id. Nothing that is there is touched.

    Every byte is checked first. The snapshot is kept if this engine could have written it: the same model, build and
    settings. Otherwise what was said is kept, and the next turn computes it.
    """
    gateway = _or_exit(_sessions(), engine).gateway_of(engine)
    with file.open("rb") as source, output.progress(f"importing {file}"):
        about = gateway.import_session(source, engine=engine, user=user, principal=principal)
    if as_json:
        output.print_json(about)
    else:
        output.print_text(about["id"])
    output.say(f"imported for {_owner(about)}")
    if about["problem"]:
        output.say(f"without its snapshot, so that the next turn computes what was said: {about['problem']}")


@session_app.command()
def pin(
    session_id: Id,
    off: Annotated[bool, typer.Option("--off", help="Do not keep it any longer than others.")] = False,
) -> None:
    """Keep a session whatever its age and however short room gets: it never leaves the disk, and memory last."""
    sessions = _sessions()
    row = _or_exit(sessions).find(session_id)
    sessions.gateway(row).pin_session(row["id"], is_pinned=not off)
    output.say(f"{'unpinned' if off else 'pinned'} {row['id']}")


def _sessions() -> SessionHome:
    from hugind.cli.session_home import SessionHome
    from hugind.supervisor.settings import read_environment

    return SessionHome(read_environment().home)


def _or_exit(sessions: SessionHome, engine: str | None = None) -> SessionHome:
    """What needs a gateway ends here where none runs."""
    if not sessions.runs:
        output.fail("this needs a gateway, and none runs", f"hugind server start {engine or 'CONFIG'}")
        raise typer.Exit(NOTHING_RUNS)
    return sessions


def _tell_what_is_read(sessions: SessionHome, engine: str | None) -> None:
    read = [name for name in sessions.unserved if engine in (None, name)]
    if not sessions.runs:
        output.say("no gateway runs: read from the files")
    elif read:
        output.say(f"not served just now, so read from the files: {', '.join(read)}")


def _row(session: dict[str, Any]) -> tuple[object, ...]:
    marks = [mark for mark in ("pinned", "kept", "dirty") if session[mark]]
    where = f"slot {session['slot']}" if session["place"] == "slot" else session["place"]
    size = session["memory_bytes"] + session["disk_bytes"]
    return (
        session["id"],
        _owner(session),
        session["engine"],
        where,
        f"{session['tokens']:,}",
        wording.size(size),
        _age(session["idle_s"]),
        ", ".join(f"{label} {count}" for label, count in session["hits"].items() if count),
        ", ".join([*marks, *([f"hollow {session['hollow']}"] if session["hollow"] else [])]),
    )


def _engine_row(about: dict[str, Any]) -> tuple[object, ...]:
    folder = about["slots_folder"]
    return (
        about["engine"],
        about["ability"],
        f"{wording.size(about['memory_bytes'])} of {wording.size(about['memory_budget_bytes'])}",
        f"{wording.size(about['disk_bytes'])} of {wording.size(about['disk_budget_bytes'])}",
        about["refused_snapshots"],
        "in memory" if folder["is_memory"] else f"on disk: {folder['reason']}",
        about["reason"],
    )


def _owner(about: dict[str, Any]) -> str:
    """The key's name, and the person where requests say so."""
    parts = (about["principal"], about["user"])
    return output.plain("/".join(part for part in parts if part))


def _value(key: str, value: Any) -> object:
    if key.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if key.endswith("_bytes"):
        return wording.size(value)
    if key == "idle_s":
        return _age(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
    return output.plain(value) if isinstance(value, str) else value


def _text(message: dict[str, Any]) -> str:
    """What was said, without what is no text."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") or f"[{part.get('type')}]" for part in content if isinstance(part, dict)]
        return " ".join(map(str, parts))
    if content is None:
        return "[tool calls]" if message.get("tool_calls") else ""
    return str(content)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
