"""One llama-server: the single writer of its state machine.

    stopped -> starting -> ready -> draining -> stopped
                  |  ^        |
                  |  +-backoff<+   a death: exit or hang
                  v        |
                failed <---+       a start that was refused, or a crash loop

`Worker.run` is the one task that moves it. Everybody else reads `state`, asks with `stop`, `restart`, `unload`, `load`
or `retire`, and hears of every move through `on_change`. One that is not wanted waits in `stopped` until it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from hugind.supervisor import tasks
from hugind.supervisor.config import Config
from hugind.supervisor.errors import EngineStartError, WorkerUnreachable
from hugind.supervisor.hang import HangWatch, Look
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint, build_flags
from hugind.supervisor.models.family import Family, family_of
from hugind.supervisor.models.gguf import GgufError
from hugind.supervisor.models.library import described
from hugind.supervisor.paths import DIRECTORY_MODE, Home
from hugind.supervisor.restart import GiveUp, RestartPolicy, decide
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.spawn import Spawn, describe_endpoint, free_port
from hugind.supervisor.worker_log import WorkerLog, describe_exit

logger = logging.getLogger(__name__)

READY_POLL_S = 0.05
READY_TIMEOUT_S = 5
"""How long one question to a loading worker may take; it is asked again."""
EXIT_NOTICE_S = 1
"""How long after its connections end the exit of a process may be noticed."""

Answer = TypeVar("Answer")


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
        slot_folder: Path | None = None,
        before_end: Callable[[Worker, Spawn], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """`slot_folder`: where it writes slot files; none: a folder of the home's.

        `before_end`: awaited with each life that was drained, up to `engine.save_s`.
        """
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
        self._slot_folder = slot_folder or home.slots / name
        self._on_change = on_change
        self._before_end = before_end
        self._log = WorkerLog(home.worker_log(name, index))
        self._since = time.monotonic()
        self._deaths: list[float] = []
        self._generation = 0
        self._in_flight = 0
        self._is_wanted = True
        self._is_retired = False
        self._stop_asked = False
        self._restart_asked = False
        self._nudge = asyncio.Event()
        """Set whenever something happened that the writer may be waiting for."""

    # ---- what everybody may ask

    def status(self) -> WorkerStatus:
        """A value for programs and people."""
        spawn = self.spawn
        return WorkerStatus(
            index=self.index,
            state=self.state.value,
            pid=spawn.process.pid if spawn else None,
            reason=self.reason,
            since_s=round(time.monotonic() - self._since, 3),
            restarts=self.restarts,
            in_flight=self._in_flight,
            slots=self._config.server.max_slots,
            endpoint=describe_endpoint(spawn.endpoint) if spawn else None,
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

    def unload(self) -> None:
        """Ask it to be gone until `load`: running turns are waited for, however long. Safe to call twice."""
        self._is_wanted = False
        self._nudge.set()

    def retire(self) -> None:
        """Ask for the end as `stop`, but wait for running turns as `unload`. Safe to call twice."""
        self._is_retired = True
        self.unload()

    def load(self) -> None:
        """Ask it to be there: one that is leaving returns after that, one that failed tries again."""
        if self.state is WorkerState.FAILED:
            self._restart_asked = True
        self._is_wanted = True
        self._nudge.set()

    @property
    def has_given_up(self) -> bool:
        """It failed, and nobody has asked for anything since."""
        return self.state is WorkerState.FAILED and not self._is_asked()

    # ---- the single writer

    async def run(self) -> None:
        """Keep one llama-server alive until `stop` or `retire`. Whatever way it is left, its process is gone."""
        try:
            while not self._must_end():
                self._restart_asked = False
                if not self._is_wanted:
                    self._move(WorkerState.STOPPED, None)
                    self._deaths.clear()
                    await self._until(lambda: self._must_end() or self._is_wanted, None)
                    continue
                try:
                    await self._live_once()
                except Exception as error:
                    # A bug in one worker's supervision must not take other users' engines down with it.
                    logger.exception("%s/%d: supervision broke", self.name, self.index)
                    await self._fail(f"supervision broke: {type(error).__name__}: {error}")
        finally:
            self._move(WorkerState.STOPPED, self.reason)
            self._log.close()

    async def _live_once(self) -> None:
        """One life, from starting to whatever state follows it."""
        self._move(WorkerState.STARTING, self.reason)
        try:
            self.spawn = spawn = await self._start()
        except OSError as error:
            return await self._fail(f"the engine cannot be started: {error}")
        ended = None
        try:
            ended = await self._serve(spawn)
        finally:
            await self._end(spawn, ended)
        if self._stop_asked or not self._is_wanted:
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
            ended = await self._watch(spawn, lambda: self._is_over(spawn))
        if ended is None:
            self._move(WorkerState.DRAINING, None)
            await self._drain(spawn)
            if self._before_end is not None and not spawn.has_exited:
                await self._say_goodbye(self._before_end(self, spawn))
        return ended

    async def _drain(self, spawn: Spawn) -> None:
        """Let running turns finish: for `drain_s` when it is stopped or restarted, else however long they take."""

        def is_drained() -> bool:
            return self._in_flight == 0 or spawn.has_exited

        def must_hurry() -> bool:
            return self._stop_asked or self._restart_asked

        if not must_hurry():
            await self._watch(spawn, lambda: is_drained() or must_hurry())
        await self._until(is_drained, self._config.engine.drain_s)

    async def _say_goodbye(self, last_words: Coroutine[Any, Any, None]) -> None:
        goodbye = tasks.start(last_words, f"last saves of {self.name}")
        try:
            async with asyncio.timeout(self._config.engine.save_s):
                await asyncio.shield(goodbye)
        except TimeoutError:
            logger.warning("%s/%d: still saving after %g s, ended", self.name, self.index, self._config.engine.save_s)
        except Exception:
            logger.exception("%s/%d: the last saves broke", self.name, self.index)
        finally:
            if not goodbye.done():
                await tasks.cancel(goodbye)

    async def _start(self) -> Spawn:
        self._generation += 1
        endpoint = self._endpoint()
        key = secrets.token_urlsafe(24)
        self._slot_folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        flags = build_flags(
            self.name,
            self._config,
            self._home,
            endpoint=endpoint,
            slot_folder=self._slot_folder,
            known=self._binary.flags,
            family=await asyncio.to_thread(self._family),
        )
        argv = [*self._binary.argv, *flags]
        self._log.begin()
        self._log.note(f"start {self._generation}: {' '.join(argv)}")
        return await Spawn.start(
            argv,
            env=worker_environment(self._config.engine.env, key),
            client=WorkerClient(endpoint, key),
            endpoint=endpoint,
            log=self._log,
            folder=self._folder,
            on_exit=self._nudge.set,
        )

    def _family(self) -> Family:
        try:
            header = described(self._config.path_of(self._config.model.model_path, self._home)).header
        except (GgufError, OSError):
            return Family.ATTENTION  # the engine will say what is wrong with the file
        return family_of(header.values, header.architecture)

    async def _ready(self, spawn: Spawn) -> EngineStartError | str | None:
        """Wait until it answers as the model that was started; bounded by stall, not by time."""
        stall_s = self._config.engine.load_stall_s
        signs, sign_at = spawn.load_signs(), time.monotonic()
        while not await self._until(lambda: self._is_over(spawn), READY_POLL_S):
            if await self._ask(spawn, spawn.client.is_healthy(READY_TIMEOUT_S)):
                problem = await self._identity_problem(spawn)
                if not self._is_over(spawn):
                    return problem
            elif (now_signs := spawn.load_signs()) != signs:
                signs, sign_at = now_signs, time.monotonic()
            elif time.monotonic() - sign_at > stall_s:
                spawn.process.signal_group(signal.SIGKILL)
                return f"loading stalled: no sign of life for {stall_s:g} s"
        if not spawn.has_exited:
            return None
        how = f"llama-server {describe_exit(spawn.exit_code, self._log.tail())}"
        return f"{how} while loading" if spawn.exit_code < 0 else EngineStartError(f"{how} instead of starting")

    async def _identity_problem(self, spawn: Spawn) -> EngineStartError | None:
        """Health alone proves nothing: another server may sit on the port."""
        wanted = str(self._config.path_of(self._config.model.model_path, self._home))
        try:
            props = await self._ask(spawn, spawn.client.props(READY_TIMEOUT_S))
        except WorkerUnreachable as error:
            await self._until(lambda: self._is_over(spawn), EXIT_NOTICE_S)  # it may have died between the questions
            return EngineStartError(f"something answers at the worker's address, but not as ours: {error}")
        if props is None:
            return None
        spawn.template_takes = props.template_takes
        if props.model_path != wanted or props.model_alias != self.name:
            return EngineStartError(f"another server answers at the worker's address: it serves {props.model_path}")
        if props.total_slots != self._config.server.max_slots:
            return EngineStartError(
                f"llama-server made {props.total_slots} slots instead of {self._config.server.max_slots}"
            )
        return None

    async def _watch(self, spawn: Spawn, is_over: Callable[[], bool]) -> str | None:
        """Look after a worker until `is_over`. Returns its death in words, or None if it lives."""
        engine = self._config.engine
        watch = HangWatch(_see(spawn, has_answered=True), engine.probe_failures, engine.compute_stall_s)
        while not await self._until(is_over, engine.probe_interval_s):
            has_answered = True
            try:
                await self._ask(spawn, spawn.client.slots(engine.probe_timeout_s), is_over)
            except WorkerUnreachable as error:
                has_answered = False
                logger.warning("%s/%d gave no answer to a look: %s", self.name, self.index, error.message)
            hang = watch.judge(_see(spawn, has_answered=has_answered))
            if hang and not spawn.has_exited:
                spawn.process.signal_group(signal.SIGKILL)  # it would not hear a polite word
                return f"llama-server hung: {hang}"
        if not spawn.has_exited:
            return None
        return f"llama-server {describe_exit(spawn.exit_code, self._log.tail())}"

    async def _end(self, spawn: Spawn, ended: EngineStartError | str | None) -> None:
        self.spawn = None
        if self.state is WorkerState.READY:
            # It is being cleared away: nobody may be sent here meanwhile.
            self._move(WorkerState.BACKOFF, ended if isinstance(ended, str) else self.reason)
        code = await spawn.close(self._config.engine.stop_s)
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
                times = "1 death" if deaths == 1 else f"{deaths} deaths"
                await self._fail(f"given up after {times} in {window_s:g} s; the last: {death}")
            case again:
                logger.warning("%s/%d: %s; again in %.1f s", self.name, self.index, death, again.delay_s)
                self.restarts += 1
                self._move(WorkerState.BACKOFF, death)
                if await self._until(self._is_asked, again.delay_s):
                    self._deaths.clear()

    def _must_end(self) -> bool:
        return self._stop_asked or self._is_retired

    def _is_asked(self) -> bool:
        return self._stop_asked or self._restart_asked or not self._is_wanted

    def _is_over(self, spawn: Spawn) -> bool:
        return spawn.has_exited or self._is_asked()

    async def _ask(
        self, spawn: Spawn, question: Coroutine[Any, Any, Answer], is_over: Callable[[], bool] | None = None
    ) -> Answer | None:
        """The answer; or None as soon as it does not matter any more, so that a worker that hangs holds nobody up."""
        is_over = is_over or (lambda: self._is_over(spawn))
        answer = tasks.start(question, f"question to {spawn.process.pid}")
        answer.add_done_callback(lambda _: self._nudge.set())
        try:
            await self._until(lambda: answer.done() or is_over(), None)
            return answer.result() if answer.done() else None
        finally:
            if not answer.done():
                await tasks.cancel(answer)

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
        if engine.listen == "unix":
            return UnixEndpoint(self._folder.new_socket(self.name, self.index))
        return TcpEndpoint(engine.port + self.index if engine.port else free_port())


def _see(spawn: Spawn, *, has_answered: bool) -> Look:
    return Look(time.monotonic(), has_answered, spawn.bytes_relayed, spawn.cpu_s())
