"""A hub of models on this machine, for tests: real HTTP, with the routes that `huggingface_hub` asks.

    with serving_hub() as hub:
        hub.add("someone/tiny-GGUF", {"tiny-Q4_K_M.gguf": data})
        ...HF_ENDPOINT=hub.url

It can also do what networks and hubs do: cut a connection, refuse, hold an answer back, promise another checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0de"
"""Of every repository, unless it is given another."""

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)(?P<under>/.*)?)?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d+)-")
_PIECE = 64 << 10
_HELD_S = 30


@dataclass
class Repo:
    """A repository of the hub."""

    files: Mapping[str, bytes]
    commit: str = COMMIT
    sha256: dict[str, str] = field(default_factory=dict)
    """Promised instead of the true ones."""
    refusal: tuple[int, str | None] | None = None
    is_refused_whole: bool = False


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    start: int
    """First byte that was asked for."""
    token: str | None


class LocalHub:
    """What a test says to the hub, and what it learns from it."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        """All requests, in order."""
        self.cuts: list[int] = []
        """The next answers with a file end after so many bytes of it; one number for each."""
        self.ignores_ranges = False
        self.answers: list[int] = []
        """The next answers with a file are these statuses instead."""
        self.stored_at: str | None = None
        """Files are elsewhere: the URL of another hub, where requests for them are sent."""
        self.held_after: int | None = None
        """Answers with a file stop after so many bytes, until `release`."""
        self.is_holding = threading.Event()
        """An answer has stopped there."""
        self._released = threading.Event()

    def add(self, repo: str, files: Mapping[str, bytes], *, commit: str = COMMIT) -> Repo:
        """Put a repository there, or another in its place."""
        self.repos[repo] = Repo(files, commit)
        return self.repos[repo]

    def refuse(self, repo: str, status: int, *, code: str | None = None, whole: bool = False) -> None:
        """Answer for its files (`whole`: for anything of it) with `status` and the hub's `X-Error-Code`.

        `code="GatedRepo"` is what the hub says of one whose licence must be accepted.
        """
        self.repos.setdefault(repo, Repo({}))
        self.repos[repo].refusal = (status, code)
        self.repos[repo].is_refused_whole = whole

    def release(self) -> None:
        """Let go of what is held back, now and from now on."""
        self.held_after = None
        self._released.set()

    def fetched(self) -> list[Asked]:
        """The requests for files."""
        return [one for one in self.asked if "/resolve/" in one.path and one.method == "GET"]

    def wait(self) -> None:
        """Hold an answer back."""
        self.is_holding.set()
        self._released.wait(_HELD_S)


@contextmanager
def serving_hub() -> Iterator[LocalHub]:
    """A hub on a free port, without a repository."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, *, has_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        found = _RANGE.match(self.headers.get("Range", ""))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        start = int(found[1]) if found else 0
        self.hub.asked.append(Asked(self.command, path, start, token))
        if (call := _API.fullmatch(path)) is not None:
            self._answer_about(call, has_body=has_body)
        elif (call := _FILE.fullmatch(path)) is not None:
            self._answer_file(call["repo"], call["revision"], call["path"], start, has_body=has_body)
        else:
            self._refuse(404, None)

    def _answer_about(self, call: re.Match[str], *, has_body: bool) -> None:
        repo = self.hub.repos.get(call["repo"])
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        if repo.refusal and repo.is_refused_whole:
            return self._refuse(*repo.refusal)
        if call["revision"] not in (None, "main", repo.commit):
            return self._refuse(404, "RevisionNotFound")
        if call["what"] == "tree":
            return self._send_json([_entry(repo, path) for path in sorted(repo.files)], has_body=has_body)
        answer = {
            "_id": "1",
            "id": call["repo"],
            "modelId": call["repo"],
            "sha": repo.commit,
            "private": False,
            "gated": "auto" if repo.refusal and repo.refusal[1] == "GatedRepo" else False,
            "disabled": False,
            "tags": ["gguf"],
            "downloads": 1,
            "likes": 0,
            "siblings": [_sibling(repo, path) for path in sorted(repo.files)],
        }
        return self._send_json(answer, has_body=has_body)

    def _answer_file(self, name: str, revision: str, path: str, start: int, *, has_body: bool) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        if repo.refusal:
            return self._refuse(*repo.refusal)
        if revision not in ("main", repo.commit):
            return self._refuse(404, "RevisionNotFound")
        data = repo.files.get(path)
        if data is None:
            return self._refuse(404, "EntryNotFound")
        if self.hub.answers and has_body:
            return self._refuse(self.hub.answers.pop(0), None)
        if self.hub.stored_at is not None:
            self.send_response(302)
            self.send_header("Location", self.hub.stored_at + self.path)
            return self._finish_headers(0, "text/plain")
        start = 0 if self.hub.ignores_ranges else start
        if start >= len(data) > 0:
            return self._refuse(416, None)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        digest = _digest(repo, path)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-ETag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Accept-Ranges", "bytes")
        self._finish_headers(len(data) - start, "application/octet-stream")
        if has_body:
            self._send_pieces(data[start:])
        return None

    def _send_pieces(self, data: bytes) -> None:
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        end = len(data) if cut is None else min(cut, len(data))
        sent = 0
        try:
            while sent < end:
                held_after = self.hub.held_after
                if held_after is not None and sent >= held_after:
                    self.hub.wait()
                until = min(end, sent + _PIECE)
                if held_after is not None and sent < held_after:
                    until = min(until, held_after)
                self.wfile.write(data[sent:until])
                sent = until
            if end < len(data):
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client left

    def _send_json(self, answer: Any, *, has_body: bool) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self._finish_headers(len(body), "application/json")
        if has_body:
            self.wfile.write(body)

    def _refuse(self, status: int, code: str | None) -> None:
        body = json.dumps({"error": code or f"status {status}"}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self._finish_headers(len(body), "application/json")
        if self.command != "HEAD":
            self.wfile.write(body)

    def _finish_headers(self, length: int, kind: str) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()


def _digest(repo: Repo, path: str) -> str:
    return repo.sha256.get(path) or hashlib.sha256(repo.files[path]).hexdigest()


def _sibling(repo: Repo, path: str) -> dict[str, Any]:
    size = len(repo.files[path])
    entry: dict[str, Any] = {"rfilename": path, "size": size, "blobId": "0" * 40}
    if path.endswith(".gguf"):
        entry["lfs"] = {"sha256": _digest(repo, path), "size": size, "pointerSize": 134}
    return entry


def _entry(repo: Repo, path: str) -> dict[str, Any]:
    size = len(repo.files[path])
    entry: dict[str, Any] = {"type": "file", "oid": "0" * 40, "size": size, "path": path}
    if path.endswith(".gguf"):
        entry["lfs"] = {"oid": _digest(repo, path), "size": size, "pointerSize": 134}
    return entry
