"""Talking to a server: which one, and what is said when it does not go well."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from hugind.cli.remote import Server, ServerError, find_server, parse_place
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment
from tests.cli.answering import answering
from tests.cli.hugind_command import silent_gateway


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104
        (":9000", "http://127.0.0.1:9000"),
        ("gpu-box", "http://gpu-box:11434"),
        ("10.0.0.5:8080", "http://10.0.0.5:8080"),
        ("http://10.0.0.5", "http://10.0.0.5:80"),
        ("HTTPS://models.example.org/k/hgk_1/", "https://models.example.org:443/k/hgk_1"),
        ("::1", "http://[::1]:11434"),
        ("[::]:99", "http://[::1]:99"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    """As Ollama reads OLLAMA_HOST; "any" means here, and a path stays."""
    assert parse_place(text).url == url


@pytest.mark.parametrize("text", ["ftp://host", "host:port", "http://host:99999", "two words", "http://[::1"])
def test_no_address(text: str) -> None:
    """What is none is told, with how to write it."""
    with pytest.raises(HugindError, match="is no address of a server"):
        parse_place(text)


def test_which_server(tmp_path: Path) -> None:
    """--url; the gateway of this home as its owner; what OLLAMA_HOST says, first where that is another machine."""
    bare = Environment(Home(tmp_path), None, None, None, ollama_key=SecretStr("theirs"))
    elsewhere = replace(bare, ollama_host="http://10.0.0.5:11434")
    here = replace(bare, ollama_host="0.0.0.0", ollama_port=1)  # noqa: S104
    assert (find_server(bare, None, None).url, _key(find_server(bare, None, None))) == (
        *("http://127.0.0.1:11434", "theirs"),
    )
    assert find_server(here, None, None).url == "http://127.0.0.1:1"
    with silent_gateway(tmp_path) as record:
        for environment in (bare, here):
            own = find_server(environment, None, None)
            assert (own.url, own.record, _key(own)) == (record.url, record, record.token)
        assert find_server(elsewhere, None, None).url == "http://10.0.0.5:11434"
        assert find_server(elsewhere, "localhost:1", None).record == record
        assert find_server(bare, "http://127.0.0.1:2", None).record is None
        assert _key(find_server(replace(bare, client_key=SecretStr("mine")), None, None)) == "mine"
        assert _key(find_server(bare, None, "given")) == "given"


def _key(server: Server) -> str:
    return server._headers["Authorization"].removeprefix("Bearer ")


def test_answers() -> None:
    """JSON, nothing, or objects one by one."""
    with answering(b'{"models":[]}') as server:
        assert server.get("/api/ps") == {"models": []}
    with answering(b"") as server:
        assert server.delete("/api/delete", {"model": "m"}) is None
    with answering(b'{"status":"a"}\n{"status":"success"}\n') as server:
        assert list(server.stream("/api/pull", {})) == [{"status": "a"}, {"status": "success"}]


def test_refusals() -> None:
    """In Ollama's words or the admin API's, with what to try."""
    with answering(b'{"error":"model \'m\' not found"}', status=404) as server:
        with pytest.raises(ServerError, match="model 'm' not found") as unknown:
            server.post("/api/show", {})
        with pytest.raises(ServerError, match="model 'm' not found"):
            list(server.stream("/api/pull", {}))
    body = json.dumps({"error": {"message": "no key"}}).encode()
    with answering(body, status=401) as server, pytest.raises(ServerError, match="no key") as keyless:
        server.get("/api/ps")
    assert (unknown.value.status, unknown.value.hint) == (404, "hugind list")
    assert "--key" in str(keyless.value.hint)


def test_strangers() -> None:
    """Something else that listens there is not mistaken for hugind."""
    for body, status in ((b"<html>", 200), (b"404 page not found", 404), (b"[1]", 500)):
        with (
            answering(body, status=status) as server,
            pytest.raises(HugindError, match="does not answer as hugind would"),
        ):
            server.get("/api/ps")
    for body in (b"<html>\n", b"[1]\n"):
        with answering(body) as server, pytest.raises(HugindError, match="does not answer as hugind would"):
            list(server.stream("/api/pull", {}))


def test_what_breaks_on_the_way() -> None:
    """A stream that ends in an error, or is cut."""
    with (
        answering(b'{"status":"a"}\n{"error":"the disk is full"}\n') as server,
        pytest.raises(ServerError, match="the disk is full"),
    ):
        list(server.stream("/api/pull", {}))
    with answering(b'{"status":"a"}\n', cut=10) as server, pytest.raises(HugindError, match="does not answer"):
        list(server.stream("/api/pull", {}))


def test_nobody_there(tmp_path: Path) -> None:
    """Nothing listens: how to start one; a gateway of this home that is silent: its log."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(HugindError, match="nothing answers at") as nobody:
            Server(url, None).get("/api/ps")
        with silent_gateway(tmp_path) as record, pytest.raises(HugindError, match="does not answer") as silent:
            list(Server(url, None, record).stream("/api/pull", {}))
    assert "hugind serve" in str(nobody.value.hint)
    assert record.log in str(silent.value.hint)
