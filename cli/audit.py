"""`hugind audit`: who changed what, when, from where."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from hugind.cli import output


def audit(
    actor: Annotated[str | None, typer.Option("--actor", help="Only by this user; 'control': by commands.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Only this, as key.rotate; or key: all of keys.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Only of this user, key or engine.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From then on: 7d ago, or a date as 2026-01-31.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0: all.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Every change of users and keys, and what was done with the gateway: the latest first.

    Secrets are in none of it.

        hugind audit --since 7d --action key
    """
    from hugind.cli import wording
    from hugind.cli.admin_client import AdminClient
    from hugind.cli.durations import parse_moment
    from hugind.supervisor.settings import read_environment

    start = None if since is None else parse_moment(since, datetime.now(UTC)).isoformat()
    with AdminClient.of_home(read_environment()) as admin:
        entries = list(
            admin.pages("/audit", "entries", limit=limit, actor=actor, action=action, target=target, since=start)
        )
    if as_json:
        output.print_json(entries)
        return
    output.print_table(
        "changes",
        ("when", "who", "what", "of", "how", "from"),
        [
            (
                wording.moment(entry["created_at"]),
                _who(entry),
                entry["action"],
                output.plain(entry["target"]),
                _detail(entry["detail"]),
                entry["client_ip"],
            )
            for entry in entries
        ],
    )


def _who(entry: Mapping[str, Any]) -> str:
    key = f" (key {entry['actor_key_id']})" if entry["actor_key_id"] else ""
    return output.plain(entry["actor"]) + key


def _detail(detail: Mapping[str, Any]) -> str:
    """What was set, without what is empty."""
    parts = [f"{name}={_value(value)}" for name, value in detail.items() if value not in (None, "", [], {}, False)]
    return output.plain(", ".join(parts)) or "-"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "none" if value is None else str(value)
