"""One llama-server: the single writer of its state machine.

    stopped -> starting -> ready -> draining -> stopped
                  |  ^        |
                  |  +-backoff<+   a death: exit or hang
                  v        |
                failed <---+       a start that was refused, or a crash loop

`Worker.run` is the one task that moves it. Everybody else reads `state`, asks with `stop` or `restart`, and hears of
every move through `on_change`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import psutil

from hugind.supervisor import tasks
from hugind.supervisor.config import Config
from hugind.supervisor.errors import EngineStartError, WorkerUnreachable
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint, build_flags
from hugind.supervisor.paths import DIRECTORY_MODE, Home
from hugind.supervisor.process import ChildProcess
from hugind.supervisor.restart import GiveUp, RestartPolicy, decide
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.worker_log import WorkerLog, telling_lines

logger = logging.getLogger(__name__)

READY_POLL_S = 0.05
READY_TIMEOUT_S = 5
"""How long one question to a loading worker may take; it is asked again."""


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    BACKOFF = "backoff"
    FAILED = "failed"


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as programs see it."""

    index: int
    state: str
    pid: int | None
    reason: str | None
    """Why it is not ready, with the engine's own words; or how it last ended."""
    since_s: float
    """Seconds in this state."""
    restarts: int
    in_flight: int
    slots: int
    endpoint: str | None
    log: str


class Spawn:
    """One life of a worker: its process, its client, its socket. Made and closed by `Worker.run`."""

    def __init__(
        self, process: ChildProcess, client: WorkerClient, endpoint: Endpoint, nudge: Callable[[], None]
    ) -> None:
        self.process = process
        self.client = client
        self.endpoint = endpoint
        self.bytes_relayed = 0
        """Ever, by turns; a number that moves is a sign of life."""
        self.has_exited = False
        """The process is gone and its last words are in the log."""
        self._watch = tasks.start(self._await_exit(nudge), f"exit of {process.pid}")

    @property
    def exit_code(self) -> int:
        """As `subprocess`; only after `has_exited`."""
        assert self.process.returncode is not None
        return self.process.returncode

    async def close(self, grace_s: float) -> int:
        """Close the connections, then end the process: it ignores SIGTERM while a request is in flight."""
        try:
            self.client.close()
        finally:
            code = await self.process.close(grace_s)
            await tasks.cancel(self._watch)
            if isinstance(self.endpoint, UnixEndpoint):
                self.endpoint.path.unlink(missing_ok=True)
        return code

    async def _await_exit(self, nudge: Callable[[], None]) -> None:
        await self.process.wait()
        self.has_exited = True
        nudge()


class Worker:
    """Supervises one llama-server of an engine. Lives as long as its engine; `run` is awaited by the engine."""

    def __init__(
        self,
        name: str,
        index: int,
        config: Config,
        binary: EngineBinary,
        home: Home,
        folder: RunFolder,
        on_change: Callable[[Worker], None],
    ) -> None:
        self.name = name
        self.index = index
        self.state = WorkerState.STOPPED
        self.reason: str | None = None
        self.spawn: Spawn | None = None
        self.restarts = 0
        self._config = config
        self._binary = binary
        self._home = home
        self._folder = folder
        self._on_change = on_change
        self._log = WorkerLog(home.worker_log(name, index))
        self._since = time.monotonic()
        self._deaths: list[float] = []
        self._generation = 0
        self._in_flight = 0
        self._stop_asked = False
        self._restart_asked = False
        self._nudge = asyncio.Event()
        """Set whenever something happened that the writer may be waiting for."""

    # ---- what everybody may ask

    def status(self) -> WorkerStatus:
        """A value for programs and people."""
        spawn = self.spawn
        match spawn.endpoint if spawn else None:
            case UnixEndpoint(path):
                endpoint: str | None = str(path)
            case TcpEndpoint(port):
                endpoint = f"127.0.0.1:{port}"
            case None:
                endpoint = None
        return WorkerStatus(
            index=self.index,
            state=self.state.value,
            pid=spawn.process.pid if spawn else None,
            reason=self.reason,
            since_s=round(time.monotonic() - self._since, 3),
            restarts=self.restarts,
            in_flight=self._in_flight,
            slots=self._config.server.max_slots,
            endpoint=endpoint,
            log=str(self._log.path),
        )

    def enter(self) -> None:
        """A turn begins on this worker. Each `enter` is paired with one `leave`."""
        self._in_flight += 1

    def leave(self) -> None:
        """A turn ended, however."""
        self._in_flight -= 1
        self._nudge.set()

    def stop(self) -> None:
        """Ask for the end: drain, then stop. `run` returns when it is done. Safe to call twice."""
        self._stop_asked = True
        self._nudge.set()

    def restart(self) -> None:
        """Ask for a fresh process: after a drain if it runs, at once if it failed or backs off."""
        self._restart_asked = True
        self._nudge.set()

    # ---- the single writer

    async def run(self) -> None:
        """Keep one llama-server alive until `stop`. Whatever way it is left, its process is gone."""
        try:
            while not self._stop_asked:
                self._restart_asked = False
                await self._live_once()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A bug in one worker's supervision must not take other users' engines down with it.
            logger.exception("%s/%d: supervision broke", self.name, self.index)
            self._move(WorkerState.FAILED, f"supervision broke: {type(error).__name__}: {error}")
            await self._until(lambda: self._stop_asked, None)
        finally:
            self._move(WorkerState.STOPPED, self.reason)
            self._log.close()

    async def _live_once(self) -> None:
        """One life, from starting to whatever state follows it."""
        self._move(WorkerState.STARTING, self.reason)
        try:
            spawn = await self._start()
        except OSError as error:
            return await self._fail(f"the engine cannot be started: {error}")
        self.spawn = spawn
        try:
            ended = await self._serve(spawn)
        finally:
            await self._end(spawn)
        if self._stop_asked:
            return None
        match ended:
            case EngineStartError():
                await self._fail(ended.message)
            case str():
                await self._back_off(ended)
            case None:  # a restart was asked for
                self._deaths.clear()
        return None

    async def _serve(self, spawn: Spawn) -> EngineStartError | str | None:
        """Ready it and watch it. Returns a refused start, a death in words, or None when asked to stop or restart."""
        ended = await self._ready(spawn)
        if ended is None and not self._is_asked():
            self._move(WorkerState.READY, None)
            logger.info("%s/%d is ready, pid %d", self.name, self.index, spawn.process.pid)
            ended = await self._watch(spawn)
        if ended is None:
            self._move(WorkerState.DRAINING, None)
            await self._until(lambda: self._in_flight == 0 or spawn.has_exited, self._config.engine.drain_s)
        return ended

    async def _start(self) -> Spawn:
        self._generation += 1
        endpoint = self._endpoint()
        key = secrets.token_urlsafe(24)
        slots = self._home.slots / self.name / str(self.index)
        slots.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        flags = build_flags(
            self.name, self._config, self._home, endpoint=endpoint, slot_folder=slots, known=self._binary.flags
        )
        argv = [*self._binary.argv, *flags]
        self._log.begin()
        self._log.note(f"start {self._generation}: {' '.join(argv)}")
        process = await ChildProcess.spawn(
            argv, env=worker_environment(self._config.engine.env, key), on_output=self._log.write
        )
        self._folder.record_worker(process.pid)
        return Spawn(process, WorkerClient(endpoint, key), endpoint, self._nudge.set)

    async def _ready(self, spawn: Spawn) -> EngineStartError | str | None:
        """Wait until it answers as the model that was started; bounded by stall, not by time."""
        stall_s = self._config.engine.load_stall_s
        sign, sign_at = self._signs_of_life(spawn), time.monotonic()
        while not await self._until(lambda: spawn.has_exited or self._is_asked(), READY_POLL_S):
            if await spawn.client.is_healthy(READY_TIMEOUT_S):
                return await self._identity_problem(spawn)
            now_sign = self._signs_of_life(spawn)
            if now_sign != sign:
                sign, sign_at = now_sign, time.monotonic()
            elif time.monotonic() - sign_at > stall_s:
                spawn.process.signal_group(signal.SIGKILL)
                return f"loading stalled: no sign of life for {stall_s:g} s"
        if not spawn.has_exited:
            return None
        if spawn.exit_code < 0:
            return f"llama-server {_describe_exit(spawn.exit_code, self._log)} while loading"
        return EngineStartError(f"llama-server {_describe_exit(spawn.exit_code, self._log)} instead of starting")

    async def _identity_problem(self, spawn: Spawn) -> EngineStartError | None:
        """Health alone proves nothing: another server may sit on the port."""
        wanted = str(self._config.path_of(self._config.model.model_path, self._home))
        try:
            props = await spawn.client.props(READY_TIMEOUT_S)
        except WorkerUnreachable as error:
            return EngineStartError(f"something answers at the worker's address, but not as ours: {error}")
        if props.model_path != wanted or props.model_alias != self.name:
            return EngineStartError(f"another server answers at the worker's address: it serves {props.model_path}")
        if props.total_slots != self._config.server.max_slots:
            return EngineStartError(
                f"llama-server made {props.total_slots} slots instead of {self._config.server.max_slots}"
            )
        return None

    async def _watch(self, spawn: Spawn) -> str | None:
        """Look after a ready worker. Returns its death in words, or None when asked to stop or restart."""
        engine = self._config.engine
        failures, relayed = 0, -1
        while not await self._until(lambda: spawn.has_exited or self._is_asked(), engine.probe_interval_s):
            try:
                await spawn.client.slots(engine.probe_timeout_s)
                failures = 0
            except WorkerUnreachable as error:
                failures = failures + 1 if spawn.bytes_relayed == relayed else 1
                logger.warning("%s/%d: look %d failed: %s", self.name, self.index, failures, error.message)
            relayed = spawn.bytes_relayed
            if failures >= engine.probe_failures and not spawn.has_exited:
                spawn.process.signal_group(signal.SIGKILL)  # it would not hear a polite word
                return f"llama-server hung: no answer to {failures} looks in a row and no progress"
        if not spawn.has_exited:
            return None
        return f"llama-server {_describe_exit(spawn.exit_code, self._log)}"

    async def _end(self, spawn: Spawn) -> None:
        self.spawn = None
        if self.state is WorkerState.READY:
            # It is being cleared away: nobody may be sent here meanwhile.
            self._move(WorkerState.BACKOFF, self.reason)
        try:
            code = await spawn.close(self._config.engine.stop_s)
        finally:
            self._folder.forget_worker(spawn.process.pid)
        self._log.note(f"ended with {code}")

    async def _fail(self, reason: str) -> None:
        """Nothing to gain from another try: wait for somebody."""
        self._log.note(reason)
        logger.error("%s/%d failed: %s", self.name, self.index, reason)
        self._move(WorkerState.FAILED, reason)
        await self._until(self._is_asked, None)
        self._deaths.clear()

    async def _back_off(self, death: str) -> None:
        engine = self._config.engine
        now = time.monotonic()
        self._deaths.append(now)
        self._log.note(death)
        policy = RestartPolicy(engine.backoff_s, engine.backoff_max_s, engine.max_deaths, engine.death_window_s)
        match decide(self._deaths, now, policy, jitter=random.random()):  # noqa: S311 - spreads restarts, no secret
            case GiveUp(deaths, window_s):
                await self._fail(f"given up after {deaths} deaths in {window_s:g} s; the last: {death}")
            case again:
                logger.warning("%s/%d: %s; again in %.1f s", self.name, self.index, death, again.delay_s)
                self.restarts += 1
                self._move(WorkerState.BACKOFF, death)
                if await self._until(self._is_asked, again.delay_s):
                    self._deaths.clear()

    def _is_asked(self) -> bool:
        return self._stop_asked or self._restart_asked

    async def _until(self, holds: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `holds()`, looking again at each nudge; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self._nudge.clear()
                    await self._nudge.wait()
        except TimeoutError:
            return False
        return True

    def _move(self, state: WorkerState, reason: str | None) -> None:
        self.reason = reason
        if state is not self.state:
            self.state = state
            self._since = time.monotonic()
        self._on_change(self)

    def _endpoint(self) -> Endpoint:
        engine = self._config.engine
        if engine.listen == "unix" and hasattr(socket, "AF_UNIX"):
            return UnixEndpoint(self._folder.sockets / f"{self.name[:24]}-{self.index}.{self._generation}.sock")
        return TcpEndpoint(engine.port + self.index if engine.port else _free_port())

    def _signs_of_life(self, spawn: Spawn) -> tuple[int, ...]:
        """Numbers that move while a model loads: its output, its memory, what it read."""
        try:
            process = psutil.Process(spawn.process.pid)
            read = process.io_counters().read_bytes if hasattr(process, "io_counters") else 0
            return (self._log.bytes_written, process.memory_info().rss, read)
        except psutil.Error:
            return (self._log.bytes_written,)


def _describe_exit(code: int, log: WorkerLog) -> str:
    """How it ended, and its own words: those about an error, else for a plain exit the last."""
    tail = log.tail()
    words = telling_lines(tail) or (tail[-1:] if code >= 0 else [])
    said = f" ({'; '.join(words)})" if words else ""
    if code >= 0:
        return f"ended with exit code {code}{said}"
    try:
        return f"died by {signal.Signals(-code).name}{said}"
    except ValueError:
        return f"died by signal {-code}{said}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
