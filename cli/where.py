"""Which server a command asks, and as whom: the options, and the way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hugind.cli.remote import Server

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Ask this server; else the one of this home, else OLLAMA_HOST."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="Ask with this key; out of sight: HUGIND_API_KEY in the environment."),
]


def connect(url: str | None, key: str | None) -> Server:
    """The server that is meant.

    Raises:
        HugindError: an address cannot be read.
    """
    from hugind.cli.remote import find_server
    from hugind.supervisor.settings import read_environment

    return find_server(read_environment(), url, key)


def connect_if_there(url: str | None, key: str | None) -> Server | None:
    """The server that is meant, or None: none was named, and no gateway of this home runs.

    Raises:
        HugindError: an address cannot be read.
    """
    from hugind.cli.remote import named_server
    from hugind.supervisor.settings import read_environment

    return named_server(read_environment(), url, key)
