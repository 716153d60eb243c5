"""Run the gateway on a socket: uvicorn, with limits on what one connection may cost."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import psutil
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hugind.proxy.app import App
from hugind.supervisor.errors import HugindError

logger = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 20
"""A client that has not sent a whole request head after this is cut; an idle connection, too."""
WRITE_TIMEOUT_S = 30
"""A client that does not read keeps a slot busy for so long, no longer."""
MAX_HEAD_BYTES = 256 * 1024
"""Hard limit on bytes before the head is complete; `app.MAX_HEADER_BYTES` answers politely below it."""
KEEP_ALIVE_S = 75
GC_THRESHOLD = 20_000
BACKLOG = 1024


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
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
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
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when it is done, for the handler that was there before: with the default one
        # the process would end on the spot and leave its run folder behind.
        signal.signal(number, _already_handled)
    gc.freeze()  # what is loaded stays; collecting it again and again was measured at 7% of the gateway's time
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    _Server(config, on_listening).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._on_listening()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, with three bounds that it lacks.

    A request's head may take only so long and be only so large; a client that does not read is cut. Timers here cost
    nothing per chunk: they are set only when something stalls.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._deadline is None:
            self._expect_head()  # the next request on a kept connection
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._drop_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_deadline()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._cut)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


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
