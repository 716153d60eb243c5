"""`hugind key`: create, list, show, set, rotate, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output
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

key_app = typer.Typer(
    no_args_is_help=True,
    help="The keys of users. A key is shown once, when it is made; what is kept of it is only a hash.",
    epilog="For example:  hugind key create --user alice --expires 30d --models qwen,gemma --note laptop",
)

ALL_SCOPES = ("admin", "inference", "metrics", "models", "sessions")
"""Written again, because `--help` must not load the gateway; a test compares."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A key's public part, hgk_ID_...: hugind key list")]
Expires = Annotated[str | None, typer.Option("--expires", metavar="SPAN", help="For how long: 30d, 12h; or 'never'.")]
Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="The models that it opens, or 'all'.")]
Scopes = Annotated[
    str | None,
    typer.Option("--scopes", metavar="A,B", help=f"What it is for: some of {','.join(ALL_SCOPES)}, or 'all'."),
]
Networks = Annotated[
    str | None, typer.Option("--from", metavar="NET,NET", help="Where it may be used, as 10.0.0.0/8; or 'anywhere'.")
]
Delegates = Annotated[
    bool | None,
    typer.Option(
        "--delegates/--no-delegates", help="May say on whose behalf it asks: X-Hugind-User.", show_default=False
    ),
]
Note = Annotated[str | None, typer.Option("--note", help="A line for those who run the gateway.")]


@key_app.command(epilog=LIMITS_HELP)
def create(
    user: Annotated[str, typer.Option("--user", "-u", help="Whose it is.")],
    expires: Expires = None,
    models: Models = None,
    scopes: Scopes = None,
    networks: Networks = None,
    delegates: Delegates = None,
    note: Note = None,
    requests: Requests = None,
    window: Window = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent: Concurrent = None,
    queued: Queued = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once. Unless told otherwise it never ends and is for every model and own sessions.

    Its limits count beside those of its user: whichever is reached first.

        KEY=$(hugind key create --user alice --expires 30d)

        hugind key create --user monitor --scopes metrics --from 10.0.0.0/8
    """
    from hugind.cli.admin_client import path_of

    given = (requests, window, tokens_per_minute, tokens_per_day, concurrent, queued)
    body = _changes(expires, models, scopes, networks, delegates, note)
    if limits := changed_limits({}, *given):
        body["limits"] = limits
    with _admin() as admin:
        key = admin.post(f"{path_of('user', user)}/keys", body)
    print_secret(key, as_json=as_json)


@key_app.command("list")
def list_keys(
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Those, too, that are good no more.")] = False,
    as_json: Json = False,
) -> None:
    """The keys, without their secrets: what they open, how long, when they were last used."""
    with _admin() as admin:
        keys = admin.get("/keys", user=user, revoked=revoked or None)["keys"]
    if as_json:
        output.print_json(keys)
    else:
        print_keys(keys)


@key_app.command()
def show(key_id: Id, as_json: Json = False) -> None:
    """One key, and what it was used for in all."""
    with _admin() as admin:
        key = admin.get(_path(key_id))
        used = admin.get("/usage", key=key["id"])["total"]
    if as_json:
        output.print_json({**key, "usage": used})
        return
    from hugind.cli import usage, wording

    rows = [
        ("user", key["username"]),
        ("state", _state(key)),
        ("scopes", wording.names(key["scopes"], everything="-")),
        ("models", wording.names(key["models"], everything="all")),
        ("from", wording.names(key["networks"], everything="anywhere")),
        ("limits", wording.limits(key["limits"], none="none of its own")),
        ("delegates", "yes" if key["delegates"] else "no"),
        *((what, wording.moment(key[field])) for what, field in _MOMENTS),
        ("rotated to", key["replaced_by"]),
        ("note", output.plain(key["note"])),
    ]
    output.print_table(key["id"], ("", ""), rows)
    usage.print_sums("used in all", [], used, "")


@key_app.command("set", epilog=LIMITS_HELP)
def change(
    key_id: Id,
    expires: Expires = None,
    models: Models = None,
    scopes: Scopes = None,
    networks: Networks = None,
    delegates: Delegates = None,
    note: Note = None,
    requests: Requests = None,
    window: Window = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent: Concurrent = None,
    queued: Queued = None,
    as_json: Json = False,
) -> None:
    """Change what a key opens, from where, for how long. What is not named stays; it holds at once.

    hugind key set 3fGh9Kq2 --expires never --models all
    """
    given = (requests, window, tokens_per_minute, tokens_per_day, concurrent, queued)
    has_limits = any(value is not None for value in given)
    changes = _changes(expires, models, scopes, networks, delegates, note)
    if not changes and not has_limits:
        raise typer.BadParameter("say what is to be different: see --help")
    with _admin() as admin:
        if has_limits:
            changes["limits"] = changed_limits(admin.get(_path(key_id))["limits"], *given)
        key = admin.patch(_path(key_id), changes)
    _print_changed(key, "changed", as_json=as_json)


@key_app.command()
def rotate(
    key_id: Id,
    grace: Annotated[str, typer.Option("--grace", metavar="SPAN", help="So long the old one is good, too.")] = "0s",
    as_json: Json = False,
) -> None:
    """Make a new key of the same kind and print it, this once; the old one ends, now or after --grace.

    KEY=$(hugind key rotate 3fGh9Kq2 --grace 24h)
    """
    from hugind.cli.durations import parse_duration

    grace_s = parse_duration(grace)
    with _admin() as admin:
        key = admin.post(f"{_path(key_id)}/rotate", {"grace_s": grace_s})
    output.say(f"key {key_id} is good for another {grace}" if grace_s else f"key {key_id} is good no more")
    print_secret(key, as_json=as_json)


@key_app.command()
def revoke(
    key_id: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Have a key refused from now on, and cut what is being answered to it. There is no way back."""
    from hugind.cli.confirm import confirm

    with _admin() as admin:
        key = admin.get(_path(key_id))
        confirm(f"Revoke key {key_id} of {key['username']}?", is_sure=yes, otherwise=f"key {key_id} stays as it is")
        key = admin.delete(_path(key_id))
    _print_changed(key, "revoked", as_json=as_json)


def print_keys(keys: Sequence[dict[str, Any]]) -> None:
    """A table of keys, without their secrets."""
    from hugind.cli import wording

    output.print_table(
        "keys",
        ("id", "user", "state", "scopes", "models", "from", "limits", "expires", "last used", "note"),
        [
            (
                key["id"],
                key["username"],
                _state(key),
                wording.names(key["scopes"], everything="-"),
                wording.names(key["models"], everything="all"),
                wording.names(key["networks"], everything="anywhere"),
                wording.limits(key["limits"], none="-"),
                wording.moment(key["expires_at"]) or "never",
                wording.moment(key["last_used_at"]) or "never",
                output.plain(key["note"]),
            )
            for key in keys
        ],
    )


_MOMENTS = (
    ("made", "created_at"),
    ("expires", "expires_at"),
    ("revoked", "revoked_at"),
    ("last used", "last_used_at"),
)


def _admin() -> AdminClient:
    from hugind.cli.admin_client import AdminClient
    from hugind.supervisor.settings import read_environment

    return AdminClient.of_home(read_environment())


def _path(key_id: str) -> str:
    from hugind.cli.admin_client import path_of

    return path_of("key", key_id)


def _changes(
    expires: str | None,
    models: str | None,
    scopes: str | None,
    networks: str | None,
    delegates: bool | None,
    note: str | None,
) -> dict[str, Any]:
    """The fields of a key that were given."""
    changes: dict[str, Any] = {}
    if expires is not None:
        changes["expires_at"] = _expiry(expires)
    if models is not None:
        changes["models"] = None if models == "all" else _split(models)
    if scopes is not None:
        changes["scopes"] = list(ALL_SCOPES) if scopes == "all" else _split(scopes)
    if networks is not None:
        changes["networks"] = [] if networks == "anywhere" else _split(networks)
    if delegates is not None:
        changes["delegates"] = delegates
    if note is not None:
        changes["note"] = note
    return changes


def _expiry(text: str) -> str | None:
    from hugind.cli.durations import parse_duration

    return None if text == "never" else (datetime.now(UTC) + timedelta(seconds=parse_duration(text))).isoformat()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _state(key: dict[str, Any]) -> str:
    now = datetime.now(UTC)
    revoked, expires = key["revoked_at"], key["expires_at"]
    if revoked is not None:
        if datetime.fromisoformat(revoked) > now:
            return f"rotated to {key['replaced_by']}"
        return "revoked"
    return "expired" if expires is not None and datetime.fromisoformat(expires) <= now else "good"


def _print_changed(key: dict[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(key)
    output.say(f"{what} key {key['id']} of {key['username']}")


def print_secret(key: dict[str, Any], *, as_json: bool) -> None:
    """A key that was just made: what it is to stderr, its secret alone to stdout."""
    if as_json:
        output.print_json(key)
    else:
        output.say(f"key {key['id']} of {key['username']}, shown only now:")
        output.print_text(key["secret"])
