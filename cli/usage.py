"""`hugind usage`: who used what; sums, or turn by turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from hugind.cli import output

By = Literal["user", "day", "hour", "model", "key"]

MAX_SUMS = 100_000

_SUMS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")


def usage(
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only of this user.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only with this key, by its public part.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only of this model.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From then on: 7d ago, or a date as 2026-01-31.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Before then.")] = None,
    by: Annotated[
        By | None, typer.Option("--by", help="What the sums are of.", show_default="user", case_sensitive=False)
    ] = None,
    requests: Annotated[bool, typer.Option("--requests", help="Single turns, the latest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Of --requests, at most so many; 0: all.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
) -> None:
    """What was used: requests, tokens and time, of every turn that was admitted, whatever became of it.

    failed: not served to their end. cached: of the prompts' tokens, those that the engine had already. Days are those
    of UTC. Sums of days stay when single turns are removed (usage.retention_days in settings.yml).

        hugind usage --since 7d --by day

        hugind usage --user alice --requests --csv > alice.csv
    """
    from hugind.cli.admin_client import AdminClient
    from hugind.cli.durations import parse_moment
    from hugind.supervisor.settings import read_environment

    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")
    if requests and by is not None:
        raise typer.BadParameter("--requests lists single turns: leave --by out")
    now = datetime.now(UTC)
    which: dict[str, Any] = {"user": user, "key": key, "model": model}
    for name, text in (("since", since), ("until", until)):
        which[name] = None if text is None else parse_moment(text, now).isoformat()
    with AdminClient.of_home(read_environment()) as admin:
        if requests:
            _print_turns(
                admin.pages("/usage/requests", "requests", limit=limit, **which), as_json=as_json, as_csv=as_csv
            )
            return
        found = admin.get("/usage", **which, by=by or "user", limit=MAX_SUMS)
    if as_json:
        output.print_json(found)
    elif as_csv:
        columns = (by or "user", *_SUMS)
        output.print_csv(columns, ([row[column] for column in columns] for row in found["rows"]))
    else:
        print_sums(f"usage by {by or 'user'}", found["rows"], found["total"], by or "user")


def print_sums(title: str, rows: Sequence[dict[str, Any]], total: dict[str, Any], by: str) -> None:
    """A table of sums, with the total as its last line."""
    lines = [(_of(row, by), *_sums(row)) for row in rows]
    output.print_table(
        title,
        (by, "requests", "failed", "prompt", "cached", "answer", "time"),
        [*lines, ("total", *_sums(total))],
    )


def _of(row: dict[str, Any], by: str) -> str:
    from hugind.cli import wording

    if by == "hour":
        return str(wording.moment(row[by]))
    return output.plain(str(row[by])) if row[by] is not None else "without a key of a user"


def _sums(row: dict[str, Any]) -> tuple[str, ...]:
    from hugind.cli import wording

    return (*(f"{row[name]:,}" for name in _SUMS[:-1]), wording.span(row["duration_ms"] / 1000))


def _print_turns(turns: Iterable[dict[str, Any]], *, as_json: bool, as_csv: bool) -> None:
    from hugind.cli import wording

    if as_json:
        output.print_json({"requests": list(turns)})
    elif as_csv:
        output.print_csv(TURN_COLUMNS, ([turn[column] for column in TURN_COLUMNS] for turn in turns))
    else:
        output.print_table(
            "turns",
            (
                "when",
                "user",
                "model",
                "status",
                "prompt",
                "cached",
                "answer",
                "queue ms",
                "first ms",
                "ms",
                "end",
                "id",
            ),
            [
                (
                    wording.moment(turn["created_at"]),
                    wording.person(turn["username"], turn["end_user"]),
                    output.plain(turn["model"]),
                    turn["status_code"],
                    f"{turn['prompt_tokens']:,}",
                    f"{turn['cached_tokens']:,}",
                    f"{turn['completion_tokens']:,}",
                    f"{turn['queue_ms']:,.0f}",
                    None if turn["ttft_ms"] is None else f"{turn['ttft_ms']:,.0f}",
                    f"{turn['duration_ms']:,.0f}",
                    turn["error_code"] or turn["finish_reason"],
                    turn["request_id"],
                )
                for turn in turns
            ],
        )


TURN_COLUMNS = (
    "id",
    "request_id",
    "created_at",
    "username",
    "end_user",
    "key_id",
    "path",
    "dialect",
    "model",
    "status_code",
    "duration_ms",
    "queue_ms",
    "ttft_ms",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "request_bytes",
    "response_bytes",
    "stream",
    "finish_reason",
    "error_code",
    "client_ip",
)
