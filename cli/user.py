"""`hugind user`: create, list, show, set, disable, enable, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output
from hugind.cli.key import ALL_SCOPES, print_secret
from hugind.cli.limit_options import (
    LIMITS_HELP,
    Concurrent,
    Queued,
    Requests,
    TokensPerDay,
    TokensPerMinute,
    Window,
    changed_limits,
)

if TYPE_CHECKING:
    from hugind.cli.admin_client import AdminClient

user_app = typer.Typer(
    no_args_is_help=True,
    help="Who may use the gateway. From the first user on, nobody is served without a key.",
    epilog="For example:  hugind user create alice --requests 120 --tokens-per-day 200000",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A user's name: hugind user list")]
Priority = Annotated[int | None, typer.Option("--priority", help="Higher is served first; 0 unless said.")]
Note = Annotated[str | None, typer.Option("--note", help="A line for those who run the gateway.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@user_app.command(epilog=LIMITS_HELP)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, '.', '_' and '-'.")],
    priority: Priority = None,
    requests: Requests = None,
    window: Window = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent: Concurrent = None,
    queued: Queued = None,
    note: Note = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Make no key yet.")] = False,
    as_json: Json = False,
) -> None:
    """Make a user, and print the first key. It is shown this once: what is kept of it is only a hash.

    The name of somebody who was deleted is not given again.

        KEY=$(hugind user create alice)

        hugind user create batch --priority -1 --concurrent 2 --no-key
    """
    limits = changed_limits({}, requests, window, tokens_per_minute, tokens_per_day, concurrent, queued)
    body = {"username": name, "limits": limits, "priority": priority, "note": note}
    with _admin() as admin:
        user = admin.post("/users", {field: value for field, value in body.items() if value is not None})
        output.say(f"made user {name}")
        key = None if no_key else admin.post(f"{_path(name)}/keys", {})
    if as_json:
        output.print_json({**user, "keys": user["keys"] + (key is not None), "key": key})
    elif key is not None:
        print_secret(key, as_json=False)


@user_app.command("list")
def list_users(
    deleted: Annotated[bool, typer.Option("--deleted", help="Those, too, who are no more.")] = False,
    as_json: Json = False,
) -> None:
    """Everybody, by name, with their limits and how many keys of theirs are good."""
    with _admin() as admin:
        users = admin.get("/users", deleted=deleted or None)["users"]
    if as_json:
        output.print_json(users)
        return
    from hugind.cli import wording

    output.print_table(
        "users",
        ("name", "state", "keys", "priority", "limits", "since", "note"),
        [
            (
                user["username"],
                _state(user),
                user["keys"],
                user["priority"],
                wording.limits(user["limits"], none="default"),
                wording.moment(user["created_at"]),
                output.plain(user["note"]),
            )
            for user in users
        ],
    )


@user_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One user, with their keys and what they used in all."""
    with _admin() as admin:
        user = admin.get(_path(name))
        keys = admin.get("/keys", user=name)["keys"]
        used = admin.get("/usage", user=name)["total"]
    if as_json:
        output.print_json({**user, "key_list": keys, "usage": used})
        return
    from hugind.cli import key, usage, wording

    rows = [
        ("state", _state(user)),
        ("priority", user["priority"]),
        ("limits", wording.limits(user["limits"], none="default")),
        ("since", wording.moment(user["created_at"])),
        ("note", output.plain(user["note"])),
    ]
    output.print_table(user["username"], ("", ""), rows)
    key.print_keys(keys)
    usage.print_sums("used in all", [], used, "")


@user_app.command("set", epilog=LIMITS_HELP)
def change(
    name: Name,
    priority: Priority = None,
    requests: Requests = None,
    window: Window = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent: Concurrent = None,
    queued: Queued = None,
    note: Note = None,
    as_json: Json = False,
) -> None:
    """Change limits, priority or note. What is not named stays; it holds at once, without a restart.

    hugind user set alice --requests 300 --window 60 --tokens-per-day none
    """
    given = (requests, window, tokens_per_minute, tokens_per_day, concurrent, queued)
    changes: dict[str, Any] = {}
    if priority is not None:
        changes["priority"] = priority
    if note is not None:
        changes["note"] = note
    if not changes and not any(value is not None for value in given):
        raise typer.BadParameter("say what is to be different: see --help")
    with _admin() as admin:
        if any(value is not None for value in given):
            changes["limits"] = changed_limits(admin.get(_path(name))["limits"], *given)
        user = admin.patch(_path(name), changes)
    _print_changed(user, "changed", as_json=as_json)


@user_app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Have every key of a user refused, and cut what is being answered; enable takes it back."""
    with _admin() as admin:
        user = admin.patch(_path(name), {"is_enabled": False})
    _print_changed(user, "disabled", as_json=as_json)


@user_app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let a user in again."""
    with _admin() as admin:
        user = admin.patch(_path(name), {"is_enabled": True})
    _print_changed(user, "enabled", as_json=as_json)


@user_app.command()
def delete(name: Name, yes: Yes = False, as_json: Json = False) -> None:
    """Remove a user, and revoke all their keys. There is no way back; what they used stays on record.

    A gateway that runs also ends their turns and forgets their sessions. Where none runs, sessions stay on disk, and
    nobody can come to them any more: hugind session forget --principal NAME --all
    """
    from hugind.cli.confirm import confirm

    with _admin() as admin:
        user = admin.get(_path(name))
        confirm(f"Delete {name}, with {user['keys']} good keys?", is_sure=yes, otherwise=f"user {name} stays")
        gone = admin.delete(_path(name))
    if as_json:
        output.print_json(gone)
    sessions = gone.get("sessions_forgotten")
    output.say(f"deleted {name}" + (f", and {sessions:,} sessions" if sessions else ""))


def first_admin(admin: AdminClient) -> str | None:
    """The key of a new user `admin`, which opens everything; None where somebody has, or had, that name.

    Raises:
        HugindError: as the calls of `AdminClient`.
    """
    if any(user["username"] == "admin" for user in admin.get("/users", deleted=True)["users"]):
        return None
    note = "made by the installer"
    admin.post("/users", {"username": "admin", "limits": {"requests": None}, "note": note})
    secret: str = admin.post("/users/admin/keys", {"scopes": list(ALL_SCOPES), "note": note})["secret"]
    return secret


def _admin() -> AdminClient:
    from hugind.cli.admin_client import AdminClient
    from hugind.supervisor.settings import read_environment

    return AdminClient.of_home(read_environment())


def _path(name: str) -> str:
    from hugind.cli.admin_client import path_of

    return path_of("user", name)


def _state(user: dict[str, Any]) -> str:
    if user["deleted_at"] is not None:
        return "deleted"
    return "enabled" if user["is_enabled"] else "disabled"


def _print_changed(user: dict[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(user)
    output.say(f"{what} {user['username']}")
