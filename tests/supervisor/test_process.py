"""Children are drained, ended and reaped on every path, on both event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from hugind.supervisor import tasks
from hugind.supervisor.process import ChildProcess
from tests.eventually import eventually


class Children:
    """Spawns children and keeps their output; closes what a test left open."""

    def __init__(self) -> None:
        self.output = b""
        self._open: list[ChildProcess] = []

    async def spawn(self, *argv: str, watch: bool = False) -> ChildProcess:
        """Start `argv`."""
        child = await ChildProcess.spawn(argv, env=dict(os.environ), on_output=self._take, watch=watch)
        self._open.append(child)
        return child

    async def python(self, code: str, watch: bool = False) -> ChildProcess:
        """Start Python code, and wait until it has said something."""
        child = await self.spawn(sys.executable, "-u", "-c", textwrap.dedent(code), watch=watch)
        await eventually(lambda: self.output.endswith(b"\n"))
        return child

    async def close(self) -> None:
        """End all."""
        for child in self._open:
            await child.close(0)

    def _take(self, data: bytes) -> None:
        self.output += data


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    """Spawns children for one test."""
    children = Children()
    yield children
    await children.close()


_IGNORES_SIGTERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("here")
    time.sleep(3600)
"""
_HAS_A_CHILD = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    print(child.pid)
    time.sleep(3600)
"""


@pytest.mark.parametrize("watch", [False, True])
async def test_output_and_code(children: Children, watch: bool) -> None:
    """All output, of both streams, has come when `wait` returns the exit code."""
    child = await children.spawn("/bin/sh", "-c", "printf 'x%.0s' $(seq 100000); echo y >&2; exit 7", watch=watch)
    code = await child.wait()

    assert code == 7
    assert child.returncode == 7
    assert children.output == b"x" * 100_000 + b"y\n"


@pytest.mark.parametrize("watch", [False, True])
async def test_exit_is_seen(children: Children, watch: bool) -> None:
    """An exit is seen at once, though a watcher or a grandchild holds the pipes."""
    child = await children.spawn("/bin/sh", "-c", "sleep 3600 & exit 3", watch=watch)
    async with asyncio.timeout(20):
        code = await child.wait()

    assert code == 3


async def test_close_is_polite_first(children: Children) -> None:
    """SIGTERM comes first; a child that complies in time is not killed."""
    child = await children.python(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        print("here")
        time.sleep(3600)
        """
    )
    code = await child.close(30)

    assert code == 5


@pytest.mark.parametrize("watch", [False, True])
async def test_close_kills_in_the_end(children: Children, watch: bool) -> None:
    """A child that ignores SIGTERM is killed."""
    child = await children.python(_IGNORES_SIGTERM, watch=watch)
    code = await child.close(0.1)

    assert code == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


async def test_close_kills_the_group(children: Children) -> None:
    """What a child started ends with it."""
    child = await children.python(_HAS_A_CHILD)
    grandchild = int(children.output)
    await child.close(0.1)

    await eventually(lambda: not _runs(grandchild))


async def test_close_of_a_dead_child_ends_the_rest_of_its_group(children: Children) -> None:
    """What a child left behind ends when the child is closed."""
    child = await children.spawn("/bin/sh", "-c", "sleep 3600 & echo $!")
    await child.wait()
    grandchild = int(children.output)
    await child.close(0)

    await eventually(lambda: not _runs(grandchild))


async def test_close_twice(children: Children) -> None:
    """Closing again changes nothing and gives the same code."""
    child = await children.spawn("/bin/sh", "-c", "exit 4")
    await child.wait()
    codes = [await child.close(1), await child.close(1)]

    assert codes == [4, 4]


async def test_cancelled_close_reaps(children: Children) -> None:
    """Cancelling a close, twice even, still kills and reaps the child, and is not lost."""
    child = await children.python(_IGNORES_SIGTERM)
    closing = tasks.start(child.close(3600), "close")
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    assert child.returncode == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


async def test_cancelled_spawn_leaves_nothing() -> None:
    """A spawn that is cancelled at any step leaves no process."""
    for steps in range(6):
        spawning = tasks.start(
            ChildProcess.spawn(["sleep", "3600"], env=dict(os.environ), on_output=lambda _: None), "spawn"
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        spawning.cancel()
        await asyncio.wait([spawning])
        if not spawning.cancelled():
            await spawning.result().close(0)

    await eventually(lambda: psutil.Process().children(recursive=True) == [])


async def test_unknown_command(children: Children) -> None:
    """A command that cannot be run ends with 127 and says so."""
    child = await children.spawn("/no/such/command")
    code = await child.wait()

    assert code == 127
    assert children.output == b"error: cannot run /no/such/command: No such file or directory\n"


async def test_signal_after_the_end(children: Children) -> None:
    """A signal to a child that is gone is no error."""
    child = await children.spawn("/bin/sh", "-c", "exit 0")
    await child.wait()
    child.signal_group(signal.SIGTERM)


async def test_own_session(children: Children) -> None:
    """A child leads a session of its own: Ctrl-C in the terminal reaches only us."""
    child = await children.python("import os, time; print('here'); time.sleep(3600)")

    assert os.getsid(child.pid) == child.pid
    assert os.getpgid(child.pid) == child.pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("watch", [False, True])
async def test_nothing_is_inherited(children: Children, watch: bool) -> None:
    """A child has the three standard streams and no other file of ours; its watcher has the first only."""
    ours = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(ours, True)
    child = await children.python("import time; print('here'); time.sleep(3600)", watch=watch)
    os.close(ours)
    watchers = [process.pid for process in psutil.Process(child.pid).children()]
    fds = [sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) for pid in (child.pid, *watchers)]

    assert fds == [["0", "1", "2"], *[["0"]] * watch]


async def test_fifty_children_leave_nothing() -> None:
    """Neither processes nor file descriptors pile up."""
    myself = psutil.Process()
    counts = []
    for _ in range(50):
        child = await ChildProcess.spawn(["/bin/true"], env=dict(os.environ), on_output=lambda _: None)
        await child.wait()
        await child.close(1)
        counts.append(myself.num_fds())

    assert counts[-1] == counts[1]
    assert myself.children(recursive=True) == []


@pytest.mark.parametrize("watch", [False, True])
async def test_we_are_killed(tmp_path: Path, watch: bool) -> None:
    """When the parent is killed its child ends, even one that ignores SIGTERM, either way of tying them."""
    pids = tmp_path / "pids"
    parent = f"""
import asyncio, os, sys
from hugind.supervisor.process import ChildProcess

async def main():
    got = asyncio.Event()
    child = await ChildProcess.spawn(
        ["/bin/sh", "-c", "trap '' TERM; echo here; exec sleep 3600"],
        env=dict(os.environ), on_output=lambda _: got.set(), watch={watch})
    await got.wait()
    open({str(pids)!r} + ".new", "w").write(str(child.pid))
    os.rename({str(pids)!r} + ".new", {str(pids)!r})
    await child.wait()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent)
    try:
        await eventually(pids.exists)
        child = int(pids.read_text())
        runs_before = _runs(child)
    finally:
        process.kill()
        await process.wait()

    assert runs_before
    await eventually(lambda: not _runs(child))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_watcher_outlives_sigterm(children: Children) -> None:
    """A SIGTERM meant for the child does not end the watch over it."""
    child = await children.python(_IGNORES_SIGTERM, watch=True)
    child.signal_group(signal.SIGTERM)
    watchers = psutil.Process(child.pid).children()
    os.kill(watchers[0].pid, signal.SIGTERM)
    await eventually(lambda: not _is_pending(watchers[0].pid, signal.SIGTERM))

    assert len(watchers) == 1
    assert _runs(watchers[0].pid)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)
