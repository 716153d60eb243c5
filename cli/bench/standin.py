"""An executable stand-in llama-server: the same HTTP surface without a model.

    python -m hugind.cli.bench.standin --model FILE --host PATH.sock [llama-server's flags] [faults, see --help]

The upstream of `hugind bench gateway`, and the engine of the process tests. A request may carry
`"standin": {"reply": text, "prefill_ms": n, "token_ms": n, "die_after_tokens": n, "error_after_tokens": n}`.

Left out: sampling, templates, tools, images, `/v1/messages`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hugind.cli.bench.standin_flags import FlagError, Options, help_text, parse_flags

BACKLOG = 1024
DOT_S = 0.1

_STARTED = time.monotonic()


def write_launcher(path: Path, *flags: str) -> Path:
    """Write an executable that runs the stand-in with `flags` before its own: a value for `engine.binary`."""
    words = shlex.join([sys.executable, "-m", "hugind.cli.bench.standin", *flags])
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o700)
    return path


def main(argv: Sequence[str]) -> int:
    """Run one stand-in until it is ended. Returns its exit code."""
    if "--version" in argv:
        sys.stderr.write("version: 0 (standin)\nbuilt with nothing for anything\n")
        return 0
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text())
        return 0
    try:
        options = parse_flags(argv, os.environ)
    except FlagError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # dying by SIGABRT is a feature here
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.faults.ignore_sigterm else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Process(options).run())


class _Process:
    """One run: bind, load, serve, end. Lives as long as `main`."""

    def __init__(self, options: Options) -> None:
        # Imported late: `--version` and `--help` are asked of every binary, and need none of it.
        from hugind.cli.bench.standin_engine import Engine
        from hugind.cli.bench.standin_http import Connection, Server

        self._options = options
        self._engine = Engine(options)
        self._server = Server(self._engine, self._end_if_stopping)
        self._connect: Callable[[], asyncio.Protocol] = lambda: Connection(self._server)
        self._is_stopping = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        faults = self._options.faults
        _log("I", "standin: loading model")
        if (problem := self._missing_file()) is not None:
            _log("E", problem)
            _log("I", "standin: exiting due to model loading error")
            return 1
        try:
            listener, address = await self._listen()
        except OSError as error:
            host, port = self._options.host, self._options.port
            _log("E", f"start: couldn't bind HTTP server socket, hostname: {host}, port: {port}: {error.strerror}")
            return 1
        async with listener:
            await _load(faults.slow_load_s, faults.silent_load_s)
            if faults.fail_start is not None:
                sys.stderr.write(f"{faults.fail_start}\n")
                return faults.exit_code
            self._engine.is_loading = False
            _log("I", "standin: model loaded")
            _log("I", f"standin: listening on {address}")
            if faults.crash_at_start:
                self._engine.crash("GGML_ASSERT(!crash_at_start) failed")
            if faults.exit_after_s is not None:
                loop.call_later(faults.exit_after_s, self._end, faults.exit_code)
            for number in (signal.SIGINT,) if faults.ignore_sigterm else (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop, listener)
            return await self._ended

    def _missing_file(self) -> str | None:
        for path in (self._options.model, *self._options.files):
            if not os.path.exists(path):  # noqa: PTH110 - as given, and said as given
                return f"gguf_init_from_file: failed to open GGUF file '{path}' (No such file or directory)"
        return None

    async def _listen(self) -> tuple[asyncio.Server, str]:
        """Bind as llama-server does: a path that ends in `.sock` is a UNIX socket, and one left over is in the way."""
        loop = asyncio.get_running_loop()
        host, port = self._options.host, self._options.port
        if host.endswith(".sock"):
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.bind(host)
            except OSError:
                sock.close()
                raise
            return await loop.create_unix_server(self._connect, sock=sock, backlog=BACKLOG), f"unix://{host}"
        server = await loop.create_server(self._connect, host, port, backlog=BACKLOG)
        return server, f"http://{host}:{server.sockets[0].getsockname()[1]}"

    def _stop(self, listener: asyncio.Server) -> None:
        """SIGTERM: the requests in flight go on, and hold the process until their clients are gone. Twice: end."""
        if self._is_stopping:
            self._end(1)
        self._is_stopping = True
        listener.close()
        self._end_if_stopping()

    def _end_if_stopping(self) -> None:
        if self._is_stopping and self._server.is_idle:
            self._end(0)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


async def _load(slow_s: float, silent_s: float) -> None:
    for _ in range(round(slow_s / DOT_S)):
        sys.stderr.write("." * 20 + "\n")
        await asyncio.sleep(DOT_S)
    await asyncio.sleep(silent_s)


def _log(level: str, text: str) -> None:
    """A line as llama-server stamps it."""
    passed = time.monotonic() - _STARTED
    minutes, micros = int(passed // 60), int(passed % 60 * 1e6)
    stamp = f"{minutes}.{micros // 1_000_000:02}.{micros // 1000 % 1000:03}.{micros % 1000:03}"
    sys.stderr.write(f"{stamp} {level} {text}\n")
    sys.stderr.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
