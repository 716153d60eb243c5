"""One worker's life, with the stand-in llama-server and its faults."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.cli.bench.standin import write_launcher
from hugind.supervisor.llama.binary import EngineBinary, resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.worker import Worker, WorkerState
from tests.eventually import eventually
from tests.supervisor.watched import Watched, quick_config


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file for `model.model_path`: the stand-in wants it to exist, and never reads it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


class Bench:
    """What a worker needs besides its config."""

    def __init__(self, model: Path, binary: EngineBinary, home: Home, folder: RunFolder) -> None:
        self.model = model
        self.binary = binary
        self.home = home
        self.folder = folder

    def worker(self, *flags: str, name: str = "tiny", slots: int = 2, **engine: Any) -> Watched:
        """A worker on the stand-in with these faults, not yet running."""
        config = quick_config(self.model, *flags, slots=slots, **engine)
        return Watched(config, self.binary, self.home, self.folder, name)


@pytest.fixture
def bench(model: Path, standin: EngineBinary, home: Home, folder: RunFolder) -> Bench:
    """Makes workers on the stand-in."""
    return Bench(model, standin, home, folder)


# ---- getting ready


async def test_ready(bench: Bench) -> None:
    """A worker that answers as the model that was started is ready, and says where and as which process it runs."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        status = watched.worker.status()
        slots = await watched.spawn.client.slots(5)

    assert status.state == "ready"
    assert status.pid == pid
    assert status.reason is None
    assert status.endpoint is not None
    assert status.endpoint.endswith(".sock")
    assert [slot.id for slot in slots] == [0, 1]
    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_ready_over_tcp(bench: Bench) -> None:
    """With `listen: tcp` a worker takes a free loopback port."""
    async with bench.worker(listen="tcp") as watched:
        await watched.gets_ready()
        endpoint = watched.worker.status().endpoint

    assert re.fullmatch(r"127\.0\.0\.1:\d+", endpoint or "")


async def test_private(bench: Bench) -> None:
    """Only this user can reach a worker's socket, its folder of slot files, and its log."""
    async with bench.worker() as watched:
        await watched.gets_ready()
        status = watched.worker.status()
        folders = [Path(status.endpoint or "").parent, bench.home.slots / "tiny"]
        modes = [stat.S_IMODE(path.stat().st_mode) for path in folders]
        log_mode = stat.S_IMODE(Path(status.log).stat().st_mode)

    assert modes == [0o700, 0o700]
    assert log_mode == 0o600


async def test_key_of_its_own(bench: Bench) -> None:
    """Each spawn has a key of its own, which is neither in its arguments nor in its log."""
    keys = []
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        for _ in range(2):
            keys.append(psutil.Process(pid).environ()["LLAMA_API_KEY"])
            arguments = psutil.Process(pid).cmdline()
            watched.worker.restart()
            pid = await watched.is_replaced(pid)
        log = watched.log()

    assert len(set(keys)) == 2
    assert all(key not in arguments and key not in log for key in keys)


async def test_slow_load_with_output_never_stalls(bench: Bench) -> None:
    """A load that shows signs of life may take many times the stall limit."""
    async with bench.worker("--slow-load", "2.5", load_stall_s=0.5) as watched:
        await watched.gets_ready()

    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_silent_load_is_ended(bench: Bench) -> None:
    """A load without any sign of life is ended and counts as a death."""
    async with bench.worker("--silent-load", "3600", load_stall_s=0.5, max_deaths=1) as watched:
        await watched.reaches(WorkerState.FAILED)

    assert "given up after 1 death in 300 s" in str(watched.worker.reason)
    assert "loading stalled: no sign of life for 0.5 s" in str(watched.worker.reason)
    assert watched.states == ["starting", "failed", "stopped"]


async def test_start_failure_fails_at_once(bench: Bench) -> None:
    """A worker that refuses to start is not tried again; the reason is its own words."""
    async with bench.worker("--fail-start", "error: no memory for the cache", "--exit-code", "3") as watched:
        await watched.reaches(WorkerState.FAILED)
        reason = watched.worker.reason
        log = watched.log()

    assert reason == "llama-server ended with exit code 3 (error: no memory for the cache) instead of starting"
    assert reason in log
    assert watched.states == ["starting", "failed", "stopped"]
    assert watched.worker.restarts == 0


async def test_missing_model(bench: Bench) -> None:
    """A model that is not there is named in the reason."""
    bench.model.unlink()
    async with bench.worker() as watched:
        await watched.reaches(WorkerState.FAILED)
        reason = str(watched.worker.reason)

    assert str(bench.model) in reason
    assert "No such file or directory" in reason


async def test_vanished_binary(bench: Bench, tmp_path: Path) -> None:
    """A binary that is gone by now is named in the reason."""
    path = write_launcher(tmp_path / "llama-server")
    bench.binary = resolve_binary(str(path))
    path.unlink()
    async with bench.worker() as watched:
        await watched.reaches(WorkerState.FAILED)

    assert f"cannot run {path}: No such file or directory" in str(watched.worker.reason)


async def test_record_that_cannot_be_written(bench: Bench) -> None:
    """A process that cannot be recorded is not left running."""
    bench.folder.path = bench.folder.path / "gone"
    async with bench.worker() as watched:
        await watched.reaches(WorkerState.FAILED)
        children = psutil.Process().children(recursive=True)

    assert "the engine cannot be started" in str(watched.worker.reason)
    assert children == []


# ---- deaths


async def test_killed_worker_returns(bench: Bench) -> None:
    """A worker that is killed backs off and is ready again as another process."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGKILL)
        await watched.is_replaced(pid)
        restarts = watched.worker.restarts

    assert watched.states[:5] == ["starting", "ready", "backoff", "backoff", "starting"]
    assert watched.moves[2].reason == "llama-server died by SIGKILL"
    assert restarts == 1


async def test_worker_that_ends_by_itself_returns(bench: Bench) -> None:
    """After it was ready an exit is a death, whatever its code."""
    async with bench.worker("--exit-after", "0.3", "--exit-code", "0") as watched:
        pid = await watched.gets_ready()
        await watched.is_replaced(pid)

    assert str(watched.moves[2].reason).startswith("llama-server ended with exit code 0")


async def test_crash_loop_gives_up(bench: Bench) -> None:
    """A crash loop ends in `failed` after `max_deaths`, with the count and the engine's own words."""
    async with bench.worker("--crash-at-start", max_deaths=3) as watched:
        await watched.reaches(WorkerState.FAILED)
        reason = str(watched.worker.reason)
        restarts = watched.worker.restarts

    assert reason.startswith("given up after 3 deaths in 300 s; the last: llama-server died by SIGABRT")
    assert "GGML_ASSERT(!crash_at_start) failed" in reason
    assert restarts == 2
    assert watched.states.count("starting") == 3


async def test_stopped_process_is_a_hang(bench: Bench) -> None:
    """A worker that no longer runs, though its process lives, is replaced."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGSTOP)
        await watched.is_replaced(pid)

    assert watched.moves[2].reason == "llama-server hung: no answer to 3 looks in a row and no progress"
    assert not psutil.pid_exists(pid)


async def test_stream_that_moves_is_no_hang(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """While bytes of a turn arrive, unanswered looks do not end a worker; when they cease, they do."""

    def looks() -> int:
        return sum("gave no answer to a look" in record.message for record in caplog.records)

    async with bench.worker(probe_timeout_s=0.1) as watched:
        pid = await watched.gets_ready()
        spawn = watched.spawn
        os.kill(pid, signal.SIGSTOP)

        def relay() -> bool:
            spawn.bytes_relayed += 1
            return looks() >= 6

        await eventually(relay)
        still_there = watched.worker.state is WorkerState.READY and watched.pid == pid
        await watched.is_replaced(pid)

    assert still_there


# ---- being asked


async def test_restart(bench: Bench) -> None:
    """A restart drains a ready worker and starts another process; it counts as no death."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.worker.restart()
        await watched.is_replaced(pid)
        restarts = watched.worker.restarts

    assert watched.states == ["starting", "ready", "draining", "starting", "ready", "draining", "stopped"]
    assert restarts == 0


async def test_restart_gets_out_of_failed(bench: Bench) -> None:
    """A failed worker starts again when it is asked to, and may succeed then."""
    bench.model.unlink()
    async with bench.worker() as watched:
        await watched.reaches(WorkerState.FAILED)
        bench.model.write_bytes(b"GGUF")
        watched.worker.restart()
        await watched.gets_ready()
        reason = watched.worker.reason

    assert reason is None
    assert watched.states == ["starting", "failed", "starting", "ready", "draining", "stopped"]


async def test_restart_gets_out_of_backoff(bench: Bench) -> None:
    """A restart does not wait for the backoff to end."""
    async with bench.worker(backoff_s=3600, backoff_max_s=3600) as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: watched.worker.restarts)
        watched.worker.restart()
        await watched.is_replaced(pid)


async def test_restart_while_starting(bench: Bench) -> None:
    """A restart in the middle of a load begins the load anew."""
    async with bench.worker("--slow-load", "1") as watched:
        await eventually(lambda: watched.worker.spawn)
        pid = watched.pid
        watched.worker.restart()
        await watched.is_replaced(pid)

    assert watched.states == ["starting", "draining", "starting", "ready", "draining", "stopped"]


async def test_restart_forgets_deaths(bench: Bench) -> None:
    """After a restart a crash loop has all its tries again."""
    async with bench.worker("--crash-at-start", max_deaths=2) as watched:
        await watched.reaches(WorkerState.FAILED)
        watched.worker.restart()
        await eventually(lambda: watched.states.count("failed") == 2)

    assert watched.states.count("starting") == 4


@pytest.mark.parametrize("flags", [("--slow-load", "3600"), ("--silent-load", "3600"), ("--hang-after", "0")])
async def test_stop_while_starting(bench: Bench, flags: tuple[str, str]) -> None:
    """A worker that loads, or never answers, can be stopped."""
    async with bench.worker(*flags) as watched:
        await eventually(lambda: "standin" in watched.log() if watched.worker.spawn else False)
        pid = watched.pid

    assert watched.worker.state is WorkerState.STOPPED
    assert not psutil.pid_exists(pid)


async def test_stop_while_backing_off(bench: Bench) -> None:
    """A stop does not wait for the backoff to end."""
    async with bench.worker(backoff_s=3600, backoff_max_s=3600) as watched:
        os.kill(await watched.gets_ready(), signal.SIGKILL)
        await eventually(lambda: watched.worker.restarts)

    assert watched.states[-2:] == ["backoff", "stopped"]


async def test_stop_while_failed(bench: Bench) -> None:
    """A failed worker can be stopped; it still says why it failed."""
    async with bench.worker("--fail-start", "error: no") as watched:
        await watched.reaches(WorkerState.FAILED)

    assert watched.worker.state is WorkerState.STOPPED
    assert "error: no" in str(watched.worker.reason)


async def test_stop_before_run(bench: Bench) -> None:
    """A worker that is stopped before it runs starts nothing."""
    watched = bench.worker()
    watched.worker.stop()
    async with watched:
        await watched.task

    assert watched.states == ["stopped"]


async def test_stop_of_a_hung_worker_does_not_wait_for_its_answer(bench: Bench) -> None:
    """A look that gets no answer holds up no stop."""
    async with bench.worker(probe_timeout_s=3600, stop_s=0.1) as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: any("question" in task.get_name() for task in asyncio.all_tasks()))

    assert not psutil.pid_exists(pid)


async def test_drain_waits_for_turns(bench: Bench) -> None:
    """A stop lets running turns finish, and ends the process only then."""
    async with bench.worker(drain_s=3600) as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        watched.worker.stop()
        await watched.reaches(WorkerState.DRAINING)
        in_flight = watched.worker.status().in_flight
        answer = await watched.spawn.client.slots(5)
        watched.worker.leave()

    assert in_flight == 1
    assert len(answer) == 2
    assert not psutil.pid_exists(pid)


async def test_drain_is_bounded(bench: Bench) -> None:
    """A turn that never ends holds up a stop for `drain_s`, no longer."""
    async with bench.worker(drain_s=0.2) as watched:
        await watched.gets_ready()
        watched.worker.enter()

    assert watched.worker.state is WorkerState.STOPPED
    watched.worker.leave()


async def test_death_while_draining(bench: Bench) -> None:
    """A worker that dies while it drains is not waited for, and not started again after a stop."""
    async with bench.worker(drain_s=3600) as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        watched.worker.stop()
        await watched.reaches(WorkerState.DRAINING)
        os.kill(pid, signal.SIGKILL)

    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_stop_while_draining_for_a_restart(bench: Bench) -> None:
    """A stop that comes while a restart drains wins."""
    async with bench.worker(drain_s=3600) as watched:
        await watched.gets_ready()
        watched.worker.enter()
        watched.worker.restart()
        await watched.reaches(WorkerState.DRAINING)
        watched.worker.stop()
        watched.worker.leave()

    assert watched.states == ["starting", "ready", "draining", "stopped"]


# ---- leaving for a while


async def test_unload_and_load(bench: Bench) -> None:
    """A worker that is not wanted has no process; when it is again, it gets one."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.worker.unload()
        await watched.reaches(WorkerState.STOPPED)
        status = watched.worker.status()
        watched.worker.load()
        new = await watched.gets_ready()
        watched.worker.unload()
        await watched.reaches(WorkerState.STOPPED)
        assert not watched.task.done()

    assert (status.pid, status.reason, status.restarts) == (None, None, 0)
    assert not psutil.pid_exists(pid)
    assert new != pid
    assert watched.states == [*["starting", "ready", "draining", "stopped"] * 2, "stopped"]


async def test_not_wanted_from_the_start(bench: Bench) -> None:
    """It waits, and a restart has nothing to do."""
    watched = bench.worker()
    watched.worker.unload()
    async with watched:
        await eventually(lambda: watched.states == ["stopped"])
        watched.worker.restart()
        watched.worker.load()
        await watched.gets_ready()

    assert watched.states == ["stopped", "starting", "ready", "draining", "stopped"]


async def test_unload_lets_turns_finish_however_long(bench: Bench) -> None:
    """`drain_s` is for a stop, which may come meanwhile."""
    async with bench.worker(drain_s=0) as watched:
        await watched.gets_ready()
        watched.worker.enter()
        watched.worker.unload()
        await watched.reaches(WorkerState.DRAINING)
        answer = await watched.spawn.client.slots(5)
        watched.worker.leave()
        await watched.reaches(WorkerState.STOPPED)
        watched.worker.load()
        await watched.gets_ready()
        watched.worker.enter()
        watched.worker.unload()
        await watched.reaches(WorkerState.DRAINING)

    assert len(answer) == 2
    assert watched.worker.state is WorkerState.STOPPED


async def test_wanted_again_before_it_began_to_leave(bench: Bench) -> None:
    """Nothing happens."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.worker.unload()
        watched.worker.load()
        await watched.spawn.client.slots(5)

        assert pid == watched.pid
        assert watched.states == ["starting", "ready"]


async def test_wanted_again_while_it_leaves(bench: Bench) -> None:
    """It comes back after that, as another process."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        watched.worker.unload()
        await watched.reaches(WorkerState.DRAINING)
        watched.worker.load()
        watched.worker.leave()
        await watched.is_replaced(pid)

    assert watched.states == [*["starting", "ready", "draining"] * 2, "stopped"]


async def test_unload_while_starting(bench: Bench) -> None:
    """What is not needed any more is not loaded to the end."""
    async with bench.worker("--slow-load", "3600") as watched:
        await watched.reaches(WorkerState.STARTING)
        watched.worker.unload()
        await watched.reaches(WorkerState.STOPPED)


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_fault_while_leaving(bench: Bench, fault: signal.Signals) -> None:
    """A worker that hangs or dies while its turns are waited for is not waited for, and not replaced."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        watched.worker.unload()
        await watched.reaches(WorkerState.DRAINING)
        os.kill(pid, fault)
        await watched.reaches(WorkerState.STOPPED)
        watched.worker.leave()

    assert watched.states[:4] == ["starting", "ready", "draining", "stopped"]


async def test_retire(bench: Bench) -> None:
    """It ends for good, after the turns that run; one that is away ends at once."""
    async with bench.worker(drain_s=0) as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        watched.worker.retire()
        await watched.reaches(WorkerState.DRAINING)
        answer = await watched.spawn.client.slots(5)
        watched.worker.leave()
        await watched.task
    async with bench.worker() as idle:
        idle.worker.unload()
        await eventually(lambda: idle.states == ["stopped"])
        idle.worker.retire()
        await idle.task

    assert len(answer) == 2
    assert not psutil.pid_exists(pid)
    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_load_gets_out_of_failed(bench: Bench) -> None:
    """Also in the same moment as an unload."""
    async with bench.worker("--fail-start", "error: no memory") as watched:
        await watched.reaches(WorkerState.FAILED)
        gave_up = watched.worker.has_given_up
        watched.worker.unload()
        watched.worker.load()
        asked = watched.worker.has_given_up
        await eventually(lambda: watched.states.count("starting") == 2)
        await watched.reaches(WorkerState.FAILED)
        watched.worker.unload()
        await watched.reaches(WorkerState.STOPPED)

        assert watched.worker.reason is None
    assert (gave_up, asked) == (True, False)


async def test_worker_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    """SIGKILL follows SIGTERM after `stop_s`."""
    async with bench.worker("--ignore-sigterm", stop_s=0.3) as watched:
        pid = await watched.gets_ready()

    assert not psutil.pid_exists(pid)
    assert "ended with -9" in watched.log()


async def test_nothing_is_left(bench: Bench) -> None:
    """After a stop there is no process, no socket file, and no record of one."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        sock = Path(watched.worker.status().endpoint or "")
        was_there = sock.exists()
        recorded = (bench.folder.path / f"worker-{pid}.json").exists()

    assert was_there
    assert recorded
    assert not sock.exists()
    assert not (bench.folder.path / f"worker-{pid}.json").exists()
    assert not psutil.pid_exists(pid)
    assert watched.worker.status().pid is None


async def test_cancelled_worker_leaves_nothing(bench: Bench) -> None:
    """Cancelling a worker ends its process as a stop would."""
    async with bench.worker() as watched:
        pid = await watched.gets_ready()
        watched.task.cancel()

    assert watched.task.cancelled()
    assert not psutil.pid_exists(pid)
    assert watched.worker.state is WorkerState.STOPPED


# ---- whose answer it is


async def test_worker_of_another_is_not_taken_for_ours(bench: Bench, tmp_path: Path) -> None:
    """A healthy server on the worker's TCP port that serves something else is refused by what it says it serves."""
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    config = quick_config(other, listen="tcp")
    async with Watched(config, bench.binary, bench.home, bench.folder, "other") as foreign:
        await foreign.gets_ready()
        port = int(str(foreign.worker.status().endpoint).rsplit(":", 1)[1])
        async with bench.worker("--silent-load", "3600", listen="tcp", port=port) as watched:
            await watched.reaches(WorkerState.FAILED)
            reason = str(watched.worker.reason)

    assert "ready" not in watched.states
    # The newcomer may see that the port is taken before we see who answers there.
    assert re.search(r"but not as ours: /props answered 401|couldn't bind HTTP server socket", reason)


async def test_open_server_of_another_model(bench: Bench) -> None:
    """A server without a key is told from ours by its model."""
    port, server = await _http_server(
        {"/health": "{}", "/props": '{"model_path": "/other.gguf", "model_alias": "other", "total_slots": 2}'}
    )
    async with server:
        bench.binary = _never_starts(bench.binary)
        async with bench.worker(listen="tcp", port=port) as watched:
            await watched.reaches(WorkerState.FAILED)

    assert watched.worker.reason == "another server answers at the worker's address: it serves /other.gguf"


@pytest.mark.parametrize("props", ["nonsense", "[]", '{"model_path": 1, "total_slots": null}'])
async def test_server_that_is_no_llama_server(bench: Bench, props: str) -> None:
    """Whatever answers on the port, the reason says that it is not ours."""
    port, server = await _http_server({"/health": "{}", "/props": props})
    async with server:
        bench.binary = _never_starts(bench.binary)
        async with bench.worker(listen="tcp", port=port) as watched:
            await watched.reaches(WorkerState.FAILED)

    assert "something answers at the worker's address, but not as ours" in str(watched.worker.reason)


async def test_busy_port(bench: Bench) -> None:
    """A TCP port that somebody holds gives the engine's message about the port."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        async with bench.worker(listen="tcp", port=port) as watched:
            await watched.reaches(WorkerState.FAILED)

    assert "couldn't bind HTTP server socket" in str(watched.worker.reason)
    assert str(port) in str(watched.worker.reason)


async def test_wrong_number_of_slots(bench: Bench, tmp_path: Path) -> None:
    """An engine with other slots than asked for is not used: ids would name somebody else's."""
    script = tmp_path / "llama-server"
    target = bench.binary.argv[0]
    script.write_text(f'#!/bin/sh\nexec {target} "$@" --parallel 3\n')
    script.chmod(0o700)
    bench.binary = resolve_binary(str(script))
    async with bench.worker(slots=2) as watched:
        await watched.reaches(WorkerState.FAILED)

    assert watched.worker.reason == "llama-server made 3 slots instead of 2"


async def test_names_that_begin_alike(bench: Bench) -> None:
    """Two engines whose long names begin alike do not get each other's socket."""
    names = ["a-name-of-forty-characters-that-ends-in-x", "a-name-of-forty-characters-that-ends-in-y"]
    async with bench.worker(name=names[0]) as one, bench.worker(name=names[1]) as other:
        await one.gets_ready()
        await other.gets_ready()
        endpoints = {one.worker.status().endpoint, other.worker.status().endpoint}

    assert len(endpoints) == 2


# ---- one writer


async def test_every_move_is_the_writers(bench: Bench) -> None:
    """Whoever asks, the worker's own task makes the moves, and listeners hear of each."""
    async with bench.worker("--exit-after", "0.3", max_deaths=2) as watched:
        await watched.reaches(WorkerState.FAILED)
        watched.worker.restart()
        await watched.gets_ready()

    assert {move.task for move in watched.moves} == {watched.task}
    assert watched.states[0] == "starting"
    assert watched.states[-1] == "stopped"
    assert {"ready", "backoff", "failed", "draining"} < set(watched.states)


async def test_listener_that_breaks(bench: Bench) -> None:
    """A bug in supervision fails this worker with its name, ends its process, and can be got out of."""
    heard: list[str] = []

    def listen(worker: Worker) -> None:
        heard.append(worker.state)
        if heard.count("ready") == 1 and worker.state == "ready":
            raise LookupError("a bug")

    watched = bench.worker()
    watched.worker = Worker(
        "tiny", 0, quick_config(bench.model), bench.binary, bench.home, bench.folder, on_change=listen
    )
    async with watched:
        await watched.reaches(WorkerState.FAILED)
        reason = watched.worker.reason
        has_spawn = watched.worker.spawn is not None
        watched.worker.restart()
        await watched.gets_ready()

    assert reason == "supervision broke: LookupError: a bug"
    assert not has_spawn


def _never_starts(binary: EngineBinary) -> EngineBinary:
    """A binary that does nothing, whatever its flags."""
    return EngineBinary(("/bin/sh", "-c", "exec sleep 3600"), binary.kind, binary.reason, binary.build, binary.flags)


async def _http_server(answers: dict[str, str]) -> tuple[int, asyncio.Server]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = answers.get(request.split()[1].decode(), "{}")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1]), server
