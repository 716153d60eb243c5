"""`hugind pull`: fetch a model from the hub, by the server that runs or else here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output
from hugind.cli.where import Key, Url, connect_if_there

if TYPE_CHECKING:
    from hugind.cli.remote import Server


def pull(
    repository: Annotated[
        str,
        typer.Argument(metavar="REPO", help="user/repo, user/repo:Q4_K_M or user/repo/file.gguf, with hf.co/ or not."),
    ],
    revision: Annotated[str | None, typer.Option("--revision", help="A branch, a tag or a commit.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Without effect: GGUF files hold no code.")
    ] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch a model from the Hugging Face Hub. A server that runs has it at once; without one it is put into the home.

    Ctrl-C stops it; the same command goes on from there. HF_TOKEN (or hugind config defaults --hf-token) opens gated
    repositories, HF_ENDPOINT names another hub; both count where the server runs.

    For example:  hugind pull bartowski/Qwen3-8B-GGUF:Q4_K_M
    """
    server = connect_if_there(url, key)
    with _told_when_stopped():
        if server is None:
            _pull_here(repository, revision)
        else:
            body = {"model": repository, "revision": revision, "trust_remote_code": trust_remote_code}
            _pull_there(server, {name: value for name, value in body.items() if value is not None})


def _pull_there(server: Server, body: dict[str, Any]) -> None:
    from hugind.supervisor.errors import HugindError

    status = ""
    with output.bars(are_bytes=True) as show:
        for told in server.stream("/api/pull", body):
            last, status = status, output.plain(str(told.get("status") or ""))
            if isinstance(told.get("total"), int):
                name = output.plain(str(told.get("file") or status.removeprefix("pulling ")))
                show(name, int(told.get("completed") or 0), told["total"])
            elif status != last:
                output.say(status)
    if status != "success":
        raise HugindError(f"{server.url} stopped in the middle: {status or 'it said nothing'}", hint="try again")


def _pull_here(text: str, revision: str | None) -> None:
    from dataclasses import replace

    from hugind.supervisor.models.download import download
    from hugind.supervisor.models.hub import Hub
    from hugind.supervisor.models.library import Library
    from hugind.supervisor.models.repository import parse_reference
    from hugind.supervisor.settings import load_settings, read_environment

    environment = read_environment()
    home = environment.home
    reference = parse_reference(text)
    if revision is not None:
        reference = replace(reference, revision=revision)
    token = environment.hf_token or load_settings(home).hf_token
    hub = Hub(token=None if token is None else token.get_secret_value())
    home.create()
    with output.progress(f"looking for {reference}"):
        wanted = hub.plan(reference)
    with output.bars(are_bytes=True) as show:
        paths = download(wanted, home, hub, lambda name, _, done, total: show(name, done, total))
    names = [model.name for model in Library(home).models() if model.path == paths[-1] or model.path in paths]
    output.say(f"{', '.join(names) or wanted.model} is in {paths[0].parent}; hugind serve offers it")


@contextmanager
def _told_when_stopped() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        output.say("stopped; what has come is kept: the same command goes on from there")
        raise
