"""Talking to a running gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hugind.cli.client import GatewayClient
from hugind.supervisor.errors import HugindError
from hugind.supervisor.run_folder import GatewayRecord, ProcessId

TOKEN = "control-token"


class FakeAdmin(BaseHTTPRequestHandler):
    """Two admin routes, and the dialect's errors."""

    def do_GET(self) -> None:
        """The engines; and an export that breaks off."""
        if self.path == "/admin/v1/sessions/ses_cut/export":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"the beginning")
        elif self.headers["Authorization"] == f"Bearer {TOKEN}":
            self._answer(200, [{"name": "demo"}])
        else:
            self._answer(403, {"error": {"message": "this needs the admin's key"}})

    def do_POST(self) -> None:
        """A restart; only of demo."""
        known = self.path == "/admin/v1/engines/demo/restart"
        self._answer(202 if known else 404, {} if known else {"error": {"message": "there is no model 'x' here"}})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a fake gateway."""
    with HTTPServer(("127.0.0.1", 0), FakeAdmin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def record(port: int, token: str = TOKEN) -> GatewayRecord:
    """A gateway that says to be at `port`."""
    return GatewayRecord(ProcessId.of_this(), "127.0.0.1", port, ("demo",), token, (), str(Path("gateway.log")))


def test_engines(port: int) -> None:
    """The token of the run folder opens the admin routes."""
    assert GatewayClient(record(port)).engines() == [{"name": "demo"}]


def test_restart(port: int) -> None:
    """A restart is asked for by name; what the gateway refuses is passed on in its words."""
    client = GatewayClient(record(port))
    client.restart_engine("demo")
    with pytest.raises(HugindError, match="the gateway refused: there is no model 'x' here"):
        client.restart_engine("x")


def test_refused(port: int) -> None:
    """A token that does not open is an error, not an empty list."""
    with pytest.raises(HugindError, match="this needs the admin's key"):
        GatewayClient(record(port, "wrong")).engines()


def test_nobody_there(port: int) -> None:
    """A gateway that does not answer: where, and its log as a hint."""
    client = GatewayClient(record(1))
    with pytest.raises(HugindError, match="does not answer") as caught:
        client.engines()

    assert caught.value.hint == "see its log: gateway.log"


def test_an_export_is_whole_or_not_there(port: int, tmp_path: Path) -> None:
    """One that breaks off, or is refused, leaves neither a file nor a part of one, and what was there stays."""
    target = tmp_path / "session.tar"
    target.write_text("what was there")
    with pytest.raises(HugindError, match="does not answer"):
        GatewayClient(record(port)).export_session("ses_cut", target)
    with pytest.raises(HugindError, match="refused: this needs"):
        GatewayClient(record(port, "another token")).export_session("ses_other", target)

    assert [path.name for path in tmp_path.iterdir()] == ["session.tar"]
    assert target.read_text() == "what was there"
