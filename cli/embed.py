"""`hugind embed`: vectors of texts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hugind.cli import output
from hugind.cli.completion import complete_model
from hugind.cli.where import Key, Url, connect


def embed(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="One made for embeddings: hugind list", autocompletion=complete_model),
    ],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to embed; a vector for each.")],
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="Cut the vectors to so many numbers.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Print the vectors of texts, in JSON.

    For example:  hugind embed nomic-embed "first text" "second text" --dimensions 256
    """
    body: dict[str, Any] = {"model": model, "input": texts}
    if dimensions is not None:
        body["dimensions"] = dimensions
    output.print_text(json.dumps(connect(url, key).post("/api/embed", body, waits=True)))
