"""Tie a child's life to ours, then become the child: `python launch.py PARENT_PID ARGV...`.

Run as a plain script (`python -I -S`), so that it costs 15 ms and imports nothing of hugind. On Linux the kernel sends
SIGKILL when the parent ends (PR_SET_PDEATHSIG survives exec; the parent is checked again because it may have ended
before the call). Elsewhere a forked watcher waits for the end of a pipe, our standard input, whose other end only the
parent holds, and then ends the process group.

The kernel's signal reaches the command alone, not what it starts: a wrapper script has to `exec` the llama-server.

This is a program of its own rather than a `preexec_fn`, which is unsafe beside threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Never returns: becomes `argv[2:]`, or exits with 127 and the reason on stderr."""
    watch = argv[1] == "--watch"
    parent, command = (int(argv[2]), argv[3:]) if watch else (int(argv[1]), argv[2:])
    _close_inherited()
    os.umask(0o077)  # sockets and slot files are its own affair
    if sys.platform == "linux" and not watch:
        _die_with_parent()
    else:
        _fork_watcher()
    if os.getppid() != parent:
        os._exit(0)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the argv is built by the supervisor
    except OSError as error:
        sys.stderr.write(f"error: cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def _close_inherited() -> None:
    """uvloop lets a child have whatever may be inherited, further copies of its own pipes included."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - pathlib would double the time to start
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:  # the one that listed them
                pass


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"error: prctl: {os.strerror(ctypes.get_errno())}\n")
        os._exit(127)


def _fork_watcher() -> None:
    if os.fork() != 0:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the command, which may ignore it: watch on
    for stream in (1, 2):  # an open copy would keep the parent from seeing the end of our output
        os.close(stream)
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv)
