"""Run the gateway on a socket: uvicorn, with limits on what one connection may cost."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import re
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import orjson
import psutil
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hugind.proxy.app import App
from hugind.proxy.cork import CorkedTransport
from hugind.proxy.disconnect import EXTENSION
from hugind.proxy.errors import ApiError
from hugind.proxy.failures import error_body
from hugind.supervisor.errors import HugindError

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
GC_THRESHOLD = 20_000
BACKLOG = 1024

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, before anything is started for it.

    Raises:
        HugindError: the port is taken (by whom, where that can be seen) or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise HugindError(
                f"port {port} on {host} is already in use{_owner(port)}",
                hint="stop that, or choose another with --port",
            ) from None
        raise HugindError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def run_server(app: App, listener: socket.socket, *, drain_s: float, on_listening: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. Blocks.

    Running turns get `drain_s` seconds to finish; then they are cancelled and told so, and the lifespan ends the
    engines. `on_listening` is called once requests are accepted.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when it is done, for the handler that was there before: with the default one
        # the process would end on the spot and leave its run folder behind.
        signal.signal(number, _already_handled)
    gc.freeze()  # what is loaded stays; collecting it again and again was measured at 7% of the gateway's time
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    Server(app, drain_s=drain_s, on_listening=on_listening).run(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn as this gateway needs it. Lives from `run` (which brings its own event loop) or `serve` to their end."""

    def __init__(
        self,
        app: App,
        *,
        drain_s: float,
        on_listening: Callable[[], None],
        connection: type[BoundedConnection] | None = None,
    ) -> None:
        """`connection` may be a `BoundedConnection` with other limits."""
        config = uvicorn.Config(
            app,
            http=connection or BoundedConnection,
            ws="none",
            loop="uvloop",
            lifespan="on",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_s)),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._on_listening()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, with bounds that it lacks: on a request's head and body, and on a client that does not read.

    The timers stand here because here they cost nothing per chunk: one for each request, one more when writing stalls.
    """

    head_timeout_s = 20.0
    """A client that has not sent a whole request head after this is cut; one that connected and is silent, too."""
    body_timeout_s = 60.0
    """A body that has not come whole after this is cut; one that was announced as long, when it pauses for so long."""
    write_timeout_s = 30.0
    """A client that does not read keeps a slot busy for so long, no longer."""
    max_head_bytes = 256 * 1024
    """Hard limit on bytes before the head is complete; `app.MAX_HEADER_BYTES` answers politely below it."""
    max_pipelined = 8
    """Requests that a client may send ahead, before the answer to its first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._head_bytes = 0
        self._in_head = True
        self._read_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._is_long = self._has_come = False
        self._running: RequestResponseCycle | None = None
        self._is_lost = False
        self._on_leaving: Callable[[], None] | None = None

    def watch(self, callback: Callable[[], None] | None) -> None:
        """See `disconnect.Connection`."""
        self._on_leaving = callback
        if callback is None:
            return
        self.flow.resume_reading()  # a large body may have paused it, and then it would not tell
        if self._is_lost:
            callback()

    def expect_long_body(self) -> None:
        """See `disconnect.Connection`."""
        self._is_long = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", CorkedTransport(transport, self.loop)))
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        self._has_come = True
        was_in_head = self._in_head
        if was_in_head:
            if self._read_deadline is None:  # the next request on a kept connection
                self._expect_head()
            if b"pgrade" in data:
                data = _without_upgrade(data)
        super().data_received(data)
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(ApiError(431, f"the request's head is larger than {self.max_head_bytes // 1024} KB"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]  # ours is an object, not a dict
        if self._read_deadline is None:  # sent ahead, behind the last request
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head = self._is_long = False
        self._drop_read_deadline()
        super().on_headers_complete()
        self._read_deadline = self.loop.call_later(self.body_timeout_s, self._cut_body)
        if len(self.pipeline) > self.max_pipelined:
            self.transport.abort()
        elif self.pipeline:
            self.flow.resume_reading()  # a paused connection would not tell that its client left

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._drop_read_deadline()
        super().on_message_complete()
        if self.cycle.response_complete:  # a refused body: its arrival has ended uvicorn's own timer
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_read_deadline()
        super().connection_lost(exc)
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        # uvicorn tells only the newest request, which with pipelining is not the one that is being answered.
        if self._running is not None and self._is_answering:
            self._running.disconnected = True
            self._running.message_event.set()
        self._is_lost = True
        if self._on_leaving is not None:
            self._on_leaving()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _expect_head(self) -> None:
        self._read_deadline = self.loop.call_later(self.head_timeout_s, self._cut_head)

    def _drop_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _cut_head(self) -> None:
        self._read_deadline = None
        if self._is_answering:  # a stray byte behind a request must not cost its answer
            self._expect_head()
        else:
            self.transport.close()

    def _cut_body(self) -> None:
        if self._is_long and (self._has_come or self.flow.read_paused):
            self._has_come = False
            self._read_deadline = self.loop.call_later(self.body_timeout_s, self._cut_body)
            return
        self._refuse(
            ApiError(408, f"the request body took longer than {self.body_timeout_s:g} s", code="request_timeout")
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer in place of the app, which sees the client leave; the connection ends."""
        if self.transport.is_closing():
            return
        if not self._is_answering if self._in_head else not self.cycle.response_started:
            body = orjson.dumps(error_body(self.url.decode("latin-1"), error, None))
            head = (
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            )
            phrase = HTTPStatus(error.status).phrase.encode()
            self.transport.write(head % (error.status, phrase, len(body)) + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Java's HTTP client asks for HTTP/2 with each request on a plain connection; the parser would drop its body."""
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + body


def _already_handled(number: int, frame: object) -> None:
    logger.info("stopped by %s", signal.Signals(number).name)


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (port,):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass  # other users' processes are not ours to see
    return ""
