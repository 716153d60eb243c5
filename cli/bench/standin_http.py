"""One connection of the stand-in: HTTP/1.1 read and written as llama-server does it."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

import httptools

from hugind.cli.bench import standin_routes
from hugind.cli.bench.standin_engine import Engine, Job
from hugind.cli.bench.standin_replies import error_body

KEEP_ALIVE_S = 5
MAX_REQUESTS = 100
"""An idle connection lives so long, and serves so many requests."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
_COMMON = "Server: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
_KEEP_ALIVE = f"Keep-Alive: timeout={KEEP_ALIVE_S}, max={MAX_REQUESTS}\r\n"
_JSON = "application/json; charset=utf-8"
_HEAD_OK = f"HTTP/1.1 200 OK\r\n{_COMMON}{_KEEP_ALIVE}Content-Type: {_JSON}\r\nContent-Length: %d\r\n\r\n".encode()
_HEAD_STREAM = (
    f"HTTP/1.1 200 OK\r\n{_COMMON}X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n"
    f"Transfer-Encoding: chunked\r\n{_KEEP_ALIVE}\r\n"
).encode()
"""Promises a connection that lives on. It does not: see `Connection.end_stream`."""


class Server:
    """What the connections of one stand-in share. Lives as long as the process."""

    def __init__(self, engine: Engine, on_idle: Callable[[], None]) -> None:
        self.engine = engine
        self._keys = tuple(key.encode() for key in engine.options.api_keys)
        self._on_idle = on_idle
        self._in_flight = 0
        self._posts_left = engine.options.faults.hang_after

    @property
    def is_idle(self) -> bool:
        """No request waits for its answer."""
        return self._in_flight == 0

    def is_allowed(self, path: str, key: bytes) -> bool:
        if not self._keys or path in ("/health", "/v1/health"):
            return True
        return any(hmac.compare_digest(key.removeprefix(b"Bearer "), known) for known in self._keys)

    def begin(self) -> None:
        self._in_flight += 1

    def answered(self, method: str) -> None:
        if self._posts_left and method == "POST":
            self._posts_left -= 1
            self.engine.is_hung = not self._posts_left

    def finish(self) -> None:
        """A request's answer has left us, or its client has."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._on_idle()


@dataclass(slots=True)
class _Request:
    """One request while it is being read."""

    url: bytes = b""
    key: bytes = b""
    body: bytes = b""
    method: str = ""
    keeps_alive: bool = True


class Connection(asyncio.Protocol):
    """One client. Lives as long as its socket; what it asked for ends with it."""

    def __init__(self, server: Server) -> None:
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._reading = _Request()
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._job: Job | None = None
        self._is_in_flight = False
        self._is_streaming = False
        self._served = 0

    # ---- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._last_used = self._loop.time()
        self._idle_timer = self._loop.call_later(KEEP_ALIVE_S, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        if self._server.engine.is_hung:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()
            return
        self._serve_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle_timer.cancel()
        self.on_resume = None
        if self._job is not None:
            self._job.abandon()
        if self._is_in_flight:
            self._server.finish()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        resume, self.on_resume = self.on_resume, None
        if resume:
            resume()

    # ---- httptools' callbacks

    def on_url(self, url: bytes) -> None:
        self._reading.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"authorization", b"x-api-key"):
            self._reading.key = value

    def on_body(self, body: bytes) -> None:
        self._reading.body += body

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, _Request()
        request.method = self._parser.get_method().decode()
        request.keeps_alive = self._parser.should_keep_alive()
        self._waiting.append(request)

    # ---- the sink of an answer

    def reply(self, status: int, body: bytes, content_type: str = _JSON) -> None:
        """A whole answer. llama-server closes after each that is not 200."""
        assert self._current is not None
        self._served += 1
        keeps_alive = status == 200 and self._current.keeps_alive and self._served < MAX_REQUESTS
        if keeps_alive and content_type is _JSON:
            self._transport.write(_HEAD_OK % len(body) + body)
        else:
            after = _KEEP_ALIVE if keeps_alive else "Connection: close\r\n"
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\n{_COMMON}{after}Content-Type: {content_type}\r\n"
            self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._finish(closes=not keeps_alive)

    def stream(self, *events: bytes) -> None:
        """Events, each in a chunk of its own."""
        data = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events])
        if not self._is_streaming:
            self._is_streaming = True
            data = _HEAD_STREAM + data
        self._transport.write(data)

    def end_stream(self, *events: bytes) -> None:
        """The last events. The connection is closed, whatever the headers said: so does llama-server."""
        self.stream(*events)
        self._transport.write(b"0\r\n\r\n")
        self._finish(closes=True)

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    # ---- one request after the other

    def _serve_next(self) -> None:
        while self._waiting and self._current is None and not self._transport.is_closing():
            request = self._current = self._waiting.popleft()
            self._is_in_flight = True
            self._server.begin()
            job = self._answer(request)
            self._job = job if self._current is request else None

    def _answer(self, request: _Request) -> Job | None:
        url = httptools.parse_url(request.url)
        path = unquote(url.path.decode("latin-1")) if b"%" in url.path else url.path.decode("latin-1")
        if not self._server.is_allowed(path, request.key):
            self.reply(401, error_body(401, "authentication_error", "Invalid API Key"))
            return None
        query = (url.query or b"").decode("latin-1")
        return standin_routes.answer(self._server.engine, self, request.method, path, query, request.body)

    def _finish(self, *, closes: bool) -> None:
        assert self._current is not None
        self._server.answered(self._current.method)
        self._current = self._job = None
        if closes:
            self._transport.close()  # `connection_lost` follows when everything is sent, and ends the request
            return
        self._is_in_flight = False
        self._last_used = self._loop.time()
        self._server.finish()
        if self._waiting:
            self._loop.call_soon(self._serve_next)

    def _close_if_idle(self) -> None:
        left_s = self._last_used + KEEP_ALIVE_S - self._loop.time()
        if self._current is None and left_s <= 0 and not self._server.engine.is_hung:
            self._transport.close()
        else:
            self._idle_timer = self._loop.call_later(max(left_s, 0.1), self._close_if_idle)
