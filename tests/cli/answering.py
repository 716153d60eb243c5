"""A server that says the same to everything, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from hugind.cli.remote import Server


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    """With small letters."""
    body: bytes


class AnsweringServer(Server):
    """How commands reach it, with the key `k`."""

    def __init__(self, url: str, asked: list[Asked]) -> None:
        super().__init__(url, "k")
        self.asked = asked


class _Answers(BaseHTTPRequestHandler):
    asked: list[Asked]
    status, body, cut = 200, b"", 0

    def do_GET(self) -> None:
        """Take what is asked, and answer."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked.append(Asked(self.path, headers, self.rfile.read(int(headers.get("content-length", 0)))))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body) + self.cut))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def answering(body: bytes, *, status: int = 200, cut: int = 0) -> Iterator[AnsweringServer]:
    """Such a server, until the block ends. `cut`: it says so many bytes less than it promises."""
    asked: list[Asked] = []
    handler = type("Handler", (_Answers,), {"asked": asked, "status": status, "body": body, "cut": cut})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield AnsweringServer(f"http://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
            thread.join()
