"""`hugind ps` and `hugind stop`: which models are loaded, and unload one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from hugind.cli import output, wording
from hugind.cli.completion import complete_model
from hugind.cli.where import Key, Url, connect

FOREVER_YEARS = 20
"""Beyond, somebody said forever: Ollama's own rule."""


def ps(
    url: Url = None,
    key: Key = None,
    plain: Annotated[bool, typer.Option("--plain", help="One line for each, to be searched.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the loaded models.

    Their size, where they compute, how many requests use them, and until when they stay.

    refs: requests that need it just now. expires: when it is unloaded unless somebody asks for it before.

    For example:  hugind ps --url http://10.0.0.5:11434
    """
    models: list[dict[str, Any]] = connect(url, key).get("/api/ps").get("models") or []
    if as_json:
        output.print_json(models)
    elif plain:
        for model in models:
            output.print_text(plain_line(model))
    else:
        now = datetime.now(UTC)
        columns = ("name", "size", "processor", "context", "refs", "expires")
        output.print_table("loaded models", columns, [_row(model, now) for model in models])


def stop(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A loaded model: hugind ps", autocompletion=complete_model)
    ],
    url: Url = None,
    key: Key = None,
) -> None:
    """Unload a model.

    What it is answering is finished first, and its conversations are kept. Somebody who asks for it has it loaded
    again. The whole server: hugind server stop.

    For example:  hugind stop demo
    """
    connect(url, key).post("/api/generate", {"model": model, "keep_alive": 0}, waits=True)
    output.say(f"unloading {model}")


def plain_line(model: dict[str, Any]) -> str:
    """`name: refs=1 expires=2026-05-08T12:00:00Z`"""
    expires_at = "in-use" if model.get("refs") else "never" if _stays(model) else model["expires_at"]
    return f"{output.plain(model['name'])}: refs={model.get('refs', '-')} expires={expires_at}"


def processor(size: int, size_vram: int) -> str:
    """Which share of a model is computed where, as Ollama words it."""
    if size <= 0 or size_vram <= 0:
        return "100% CPU"
    if size_vram >= size:
        return "100% GPU"
    cpu = round(100 * (size - size_vram) / size)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def until(model: dict[str, Any], now: datetime) -> str:
    """How long a model stays."""
    left_s = None if _stays(model) else (datetime.fromisoformat(model["expires_at"]) - now).total_seconds()
    return wording.expiry(model.get("refs") or 0, left_s)


def _stays(model: dict[str, Any]) -> bool:
    expires_at = model.get("expires_at")
    if not expires_at:
        return True
    return int(str(expires_at)[:4]) - datetime.now(UTC).year > FOREVER_YEARS


def _row(model: dict[str, Any], now: datetime) -> tuple[object, ...]:
    size, vram = model.get("size") or 0, model.get("size_vram") or 0
    return (
        output.plain(model["name"]),
        wording.size(size),
        processor(size, vram),
        model.get("context_length"),
        model.get("refs"),
        until(model, now),
    )
