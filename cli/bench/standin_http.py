"""The stand-in's HTTP surface: one connection, the routes behind it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any

import httptools

from hugind.cli.bench.standin_engine import Engine, Generation

KEEP_ALIVE_S = 5
MAX_REQUESTS = 100
"""Per connection, and per idle time: llama-server's own."""

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 500: "Internal Server Error",
            501: "Not Implemented", 503: "Service Unavailable"}  # fmt: skip
_COMMON = "Server: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
_HEAD_OK = (
    f"HTTP/1.1 200 OK\r\n{_COMMON}Content-Type: application/json; charset=utf-8\r\n"
    f"Keep-Alive: timeout={KEEP_ALIVE_S}, max={MAX_REQUESTS}\r\nContent-Length: "
).encode()
_HEAD_STREAM = (
    f"HTTP/1.1 200 OK\r\n{_COMMON}X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n"
    f"Transfer-Encoding: chunked\r\nKeep-Alive: timeout={KEEP_ALIVE_S}, max={MAX_REQUESTS}\r\n\r\n"
).encode()
"""Promises a connection that lives on. It does not."""


class Server:
    """What the connections of one stand-in share. Lives as long as the process."""

    def __init__(self, engine: Engine, on_idle: Callable[[], None]) -> None:
        self.engine = engine
        self.connections: set[Connection] = set()
        self._keys = tuple(f"{prefix}{key}".encode() for key in engine.options.api_keys for prefix in ("Bearer ", ""))
        self._on_idle = on_idle
        self._in_flight = 0
        self._posts_left = engine.options.faults.hang_after

    @property
    def is_idle(self) -> bool:
        """No request waits for its answer."""
        return self._in_flight == 0

    def is_allowed(self, path: str, key: bytes) -> bool:
        public = not self._keys or path in ("/health", "/v1/health")
        return public or any(hmac.compare_digest(key, known) for known in self._keys)

    def begin(self) -> None:
        self._in_flight += 1

    def finish(self, method: str) -> None:
        """A request was answered, or its client left."""
        self._in_flight -= 1
        if self._posts_left and method == "POST":
            self._posts_left -= 1
            self.engine.is_hung = not self._posts_left
        if self._in_flight == 0:
            self._on_idle()


class Connection(asyncio.Protocol):
    """One client. Lives as long as its socket; a request in progress ends with it."""

    def __init__(self, server: Server) -> None:
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._served = 0
        self._is_busy = False
        self._is_streaming = False
        self._job: Generation | Any = None

    # ---- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
