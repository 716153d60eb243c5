"""A llama-server command line over the wheel `xllamacpp`: the engine that needs no compiler.

    python -m hugind.supervisor.llama.embedded -m model.gguf --host 127.0.0.1 --port 8080

Flags, environment variables, log lines and exit codes are those of the native llama-server, with its HTTP server in
this process. What differs:

* Without a model it exits 1: the wheel has neither router mode nor downloads (`-hf`, `--model-url`).
* A start that fails ends with one line of our own after the engine's, `error: ...`, naming the file or the address.
* SIGTERM or SIGINT during the load ends the process by that signal: the wheel holds the GIL while it loads. From our
  own line `embedded: ready on ...`, an instant after the engine's `listening on ...`, they stop it in order:
  exit 0 within milliseconds when idle. While a request is in flight the engine waits for it, as the native one does;
  here a second signal (or SIGALRM after `HUGIND_EMBEDDED_STOP_S`, 10 unless set) ends the process by that signal. The
  native one exits 1 at the second signal and waits for ever without it.

A UNIX socket's file is left behind at the end and must not be there at the start, as with the native one.
`HUGIND_EMBEDDED_PARSER=table` reads the flags without llama.cpp's own parser, as where the wheel does not export it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import xllamacpp

from hugind.supervisor.llama import embedded_flags, embedded_library

_DEFAULT_PORT = 8080
_DEFAULT_STOP_S = 10.0
_LOOP_START_S = 0.1
"""Ample: it takes about a millisecond. If it was not enough, the stop takes as long as it may."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CPP_ERRORS = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What a C++ exception can arrive as."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until a signal says to stop. The exit code, after the reason on stderr."""
    for each in _STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # python's own SIGINT handler could not run during the load
    build = build_number(xllamacpp.__version__)
    embedded_library.set_build_number(build)
    if "--version" in argv:
        return _say(_version(build), code=0)
    has_own_parser = environ.get("HUGIND_EMBEDDED_PARSER") != "table" and embedded_library.can_parse()
    if not has_own_parser and {"-h", "--help", "--usage"}.intersection(argv):
        return _tell(embedded_flags.describe())
    params = xllamacpp.CommonParams()
    params.port = _DEFAULT_PORT
    words = embedded_flags.modernise(argv)
    stop_s = float(environ.get("HUGIND_EMBEDDED_STOP_S", _DEFAULT_STOP_S))
    try:
        if not has_own_parser:
            embedded_flags.parse(params, words, environ)
        elif not embedded_library.parse(params, words):
            return 1  # llama.cpp's parser has said why
        by = "llama.cpp's own parser" if has_own_parser else "the table"
        _serve(params, note=f"llama.cpp b{build}, flags read by {by}", stop_s=stop_s)
    except (embedded_flags.FlagError, _StartError) as refusal:
        return _say(str(refusal), code=1)
    return 0


def build_number(version: str) -> int:
    """The build of llama.cpp in a version of the wheel: the last number of `2026.10.11549`, 0 where there is none."""
    found = re.match(r"\d+\.\d+\.(\d+)", version)
    return int(found[1]) if found else 0


class _StartError(Exception):
    """The engine did not start; the message says why."""


def _say(text: str, *, code: int) -> int:
    embedded_library.flush_log()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return code


def _tell(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


def _version(build: int) -> str:
    info = xllamacpp.BUILD_INFO
    return (
        f"version: {xllamacpp.__version__} (build {build}, commit {info['commit']})\n"
        f"built with {info['compiler']} for {info['build_target']}"
    )


def _serve(params: xllamacpp.CommonParams, *, note: str, stop_s: float) -> None:
    """From the start to the end of the engine; raises `_StartError`."""
    server = _start(params)
    reader = _record_stop_signals()
    _wait_for_loop(server, params)
    _say(f"embedded: ready on {server.listening_address} ({note})", code=0)
    os.read(reader, 1)
    _bound_the_stop(stop_s)
    del server  # ends the loop, the HTTP server and the model, and joins the threads, holding the GIL all the while
    signal.setitimer(signal.ITIMER_REAL, 0)


def _start(params: xllamacpp.CommonParams) -> xllamacpp.Server:
    """Blocks, with the GIL, until the model is loaded.

    Raises:
        _StartError: naming the address or the file, where it can be told which of them it was.
    """
    if not params.model.path:
        raise _StartError("error: no model: give a file with -m (router mode and downloads need a native llama-server)")
    doubt = _doubt_about_address(params) or _doubt_about_model(params.model.path)  # a failed start leaves its socket
    try:
        return xllamacpp.Server(params)
    except _CPP_ERRORS as error:
        raise _StartError(
            doubt or f"error: could not start with model '{params.model.path}': the engine's lines above say why"
        ) from error


def _doubt_about_address(params: xllamacpp.CommonParams) -> str | None:
    for host in params.hostnames:
        problem = _socket_problem(host) if host.endswith(".sock") else _port_problem(host, params)
        if problem:
            where = host if host.endswith(".sock") else f"{host} port {params.port}"
            return f"error: cannot listen on {where}: {problem}"
    return None


def _socket_problem(host: str) -> str | None:
    path = Path(host)
    if not path.parent.is_dir():
        return f"no directory {path.parent}"
    if not os.access(path.parent, os.W_OK):
        return f"no permission to write in {path.parent}"
    return "the file exists; remove it if no server uses it" if os.path.lexists(path) else None


def _port_problem(host: str, params: xllamacpp.CommonParams) -> str | None:
    """Binds and lets go again."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, params.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if params.reuse_port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    except OverflowError:
        return "no such port"
    return None


def _doubt_about_model(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        return f"error: cannot open model '{path}': {error.strerror}"
    if not magic:
        return f"error: model '{path}' is an empty file"
    return None if magic == b"GGUF" else f"error: model '{path}' is not a GGUF file"


def _record_stop_signals() -> int:
    """From here on a signal to stop is only recorded: as a byte to read, whichever thread the kernel gives it to."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for each in _STOP_SIGNALS:
        signal.signal(each, lambda _number, _frame: None)
    return reader


def _wait_for_loop(server: xllamacpp.Server, params: xllamacpp.CommonParams) -> None:
    """The engine begins its main loop in a thread of its own, and forgets a request to end that comes before that."""
    if params.endpoint_metrics:
        server.handle_metrics()  # answered from the loop
    else:
        time.sleep(_LOOP_START_S)


def _bound_the_stop(stop_s: float) -> None:
    """From here no Python code can run until the engine has ended: leave further signals to the kernel."""
    for each in (*_STOP_SIGNALS, signal.SIGALRM):
        signal.signal(each, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, stop_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
