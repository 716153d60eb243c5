"""What the session bench runs: a gateway that can be killed, stopped and started again, and the engine without one."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hugind.cli.bench.child import POLL_S, bench_environment, start_child
from hugind.cli.bench.conversation import Chat
from hugind.cli.bench.target import Target, is_answering
from hugind.cli.client import GatewayClient
from hugind.supervisor.config import load_config
from hugind.supervisor.errors import HugindError
from hugind.supervisor.llama.binary import EMBEDDED, EngineBinary
from hugind.supervisor.llama.command import TcpEndpoint, build_flags
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, live_gateways
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.slot_folder import SHARED_MEMORY, choose_slot_folder
from hugind.supervisor.spawn import free_port

NAME = "bench"
READY_TIMEOUT_S = 600
STOP_S = 120
"""What is in memory is copied to the disk meanwhile."""
SAVE_TIMEOUT_S = 20
IMPATIENT_S = 1
"""Once a save did not come, later ones are not waited for so long."""
SAVE_POLL_S = 0.005
CACHE_RAM_MB = 65536
"""A limit; what is not needed is not taken."""
_NOT_ITS_OWN = ("--cache-ram", "--slot-prompt-similarity", "--slot-save-path")
"""Flags with a value that the engine does not get where it is to do as it does without hugind."""


@dataclass(frozen=True)
class Play:
    """What is played, everywhere the same."""

    model: Path
    binary: EngineBinary
    slots: int
    ctx_size: int
    """Of one slot."""


@contextmanager
def private_memory() -> Iterator[Path | None]:
    """A folder in memory of this run's own, removed with all that is in it. None: this machine has none."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=f"hugind-bench-{os.getpid()}-", dir=SHARED_MEMORY) as name:
        yield Path(name)


class BenchGateway:
    """A gateway of one engine. Lives inside `async with`, which starts and stops it; may be restarted meanwhile."""

    def __init__(self, folder: Path, play: Play, *, memory_folder: Path | None, has_sessions: bool = True) -> None:
        self.home = Home(folder)
        self.home.create()
        self._key = secrets.token_urlsafe(24)
        binary = EMBEDDED if play.binary.kind == "embedded" else play.binary.argv[0]
        config = {
            "model": {"model_path": str(play.model)},
            "context": {"ctx_size": play.ctx_size},
            "server": {"max_slots": play.slots},
            "engine": {"binary": binary},
            "sessions": {"enabled": has_sessions, "memory_folder": str(memory_folder) if memory_folder else None},
        }
        self.home.config(NAME).write_text(yaml.safe_dump(config))
        self._memory_folder = str(memory_folder) if memory_folder else None
        self._life = AsyncExitStack()
        self._record: GatewayRecord | None = None
        self._chat: Chat | None = None

    async def __aenter__(self) -> BenchGateway:
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._life.aclose()

    @property
    def chat(self) -> Chat:
        """Where to talk to it; another after a restart."""
        assert self._chat is not None
        return self._chat

    async def kill_worker(self) -> None:
        """End its llama-server as a crash would, and wait until there is another."""
        pid = (await self._worker())["pid"]
        os.kill(pid, signal.SIGKILL)

        async def is_new() -> bool:
            worker = await self._worker()
            return bool(worker["state"] == "ready" and worker["pid"] != pid)

        await _until(is_new, READY_TIMEOUT_S, "another worker")

    async def restart(self) -> None:
        """Stop the gateway, lose what is only in memory, start it again."""
        await self._life.aclose()
        await asyncio.to_thread(self._lose_memory)
        await self._start()

    async def reboot(self) -> None:
        """As `restart`, and the disk must be read: the system remembers no file either, where it can be told so."""
        await self._life.aclose()
        await asyncio.to_thread(self._lose_memory)
        await asyncio.to_thread(self._lose_page_cache)
        await self._start()

    async def until_idle(self) -> None:
        """Wait until every slot is free."""

        async def is_idle() -> bool:
            return bool((await self._engine())["free_slots"] == (await self._worker())["slots"])

        await _until(is_idle, READY_TIMEOUT_S, "idle slots")

    def watch_saves(self) -> SaveWatch:
        """Where this gateway's saves show."""
        slots = choose_slot_folder(self.home, NAME, self._memory_folder)
        return SaveWatch(slots.path if slots.is_memory else self.home.sessions / NAME)

    async def _start(self) -> None:
        argv = [sys.executable, "-m", "hugind.cli.main", *f"server start {NAME} --host 127.0.0.1 --port 0".split()]
        try:
            await start_child(
                self._life, argv,
                name="gateway", folder=self.home.logs, env=bench_environment(self.home, LLAMA_API_KEY=self._key),
                is_ready=self._is_ready, timeout_s=READY_TIMEOUT_S, stop_s=STOP_S,
            )  # fmt: skip
            assert self._record is not None
            chat = Chat("hugind", self._record.url, model=NAME, key=self._key)
            self._chat = await self._life.enter_async_context(chat)
        except BaseException:
            await self._life.aclose()
            raise

    async def _is_ready(self) -> bool:
        records = await asyncio.to_thread(live_gateways, self.home)
        if not records:
            return False
        self._record = records[0]
        try:
            engine = await self._engine()
        except HugindError:  # it does not answer yet, or never will
            return False
        if engine["state"] == "failed":
            raise HugindError(f"the engine cannot serve: {engine['reason']}")
        return bool(engine["state"] == "ready")

    async def _engine(self) -> dict[str, Any]:
        assert self._record is not None
        return (await asyncio.to_thread(GatewayClient(self._record).engines))[0]

    async def _worker(self) -> dict[str, Any]:
        worker: dict[str, Any] = (await self._engine())["workers"][0]
        return worker

    def _lose_memory(self) -> None:
        slots = choose_slot_folder(self.home, NAME, self._memory_folder)
        if slots.is_memory:
            shutil.rmtree(slots.path)

    def _lose_page_cache(self) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        for path in self.home.sessions.rglob("*.kv*"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not on the disk yet would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


class SaveWatch:
    """Tells when a slot was saved, by the files that appear."""

    def __init__(self, folder: Path, patience_s: float = SAVE_TIMEOUT_S) -> None:
        self.missed = 0
        """Saves that did not come in time."""
        self._folder = folder
        self._patience_s = patience_s
        self._seen = set(self._files())

    def mark(self) -> None:
        """What is there now is old."""
        self._seen = set(self._files())

    async def until_saved(self) -> int | None:
        """Wait for a file that is new since `mark`, and for files that are being written. Its size in bytes.

        None: none came within a few seconds; the engine, or the gateway, saw no use in it.
        """
        deadline = time.monotonic() + (IMPATIENT_S if self.missed else self._patience_s)
        while time.monotonic() < deadline:
            files = self._files()
            new = [size for path, size in files.items() if path not in self._seen and path.suffix in (".kv", ".kvp")]
            if new and not any(path.suffix == ".part" for path in files):
                return sum(new)
            await asyncio.sleep(SAVE_POLL_S)
        self.missed += 1
        return None

    def _files(self) -> dict[Path, int]:
        found = {}
        for path in self._folder.rglob("*"):
            try:
                found[path] = path.lstat().st_size
            except FileNotFoundError:  # replaced meanwhile
                continue
        return found


@asynccontextmanager
async def engine_alone(folder: Path, play: Play) -> AsyncIterator[Chat]:
    """The same llama-server with the same slots and its own RAM cache, no hugind before it.

    Raises:
        HugindError: it did not start.
    """
    home, port, key = Home(folder), free_port(), secrets.token_urlsafe(24)
    config = load_config(home.config(NAME))
    flags = build_flags(NAME, config, home, endpoint=TcpEndpoint(port), slot_folder=folder, known=play.binary.flags)
    argv = [*play.binary.argv, *own_ways(flags), "--cache-ram", str(CACHE_RAM_MB)]
    target = Target("engine", ("127.0.0.1", port))
    async with AsyncExitStack() as stack:
        await start_child(
            stack, argv,
            name="engine", folder=home.logs, env=worker_environment({}, key),
            is_ready=lambda: is_answering(target, "/health"), timeout_s=READY_TIMEOUT_S, stop_s=5,
        )  # fmt: skip
        chat = Chat("the engine alone", f"http://127.0.0.1:{port}", model=NAME, key=key)
        yield await stack.enter_async_context(chat)


def own_ways(flags: list[str]) -> list[str]:
    """A worker's flags without those that keep the engine from choosing slots and caching prompts itself."""
    kept, rest = [], iter(flags)
    for flag in rest:
        if flag in _NOT_ITS_OWN:
            next(rest)
        elif flag != "--no-cache-idle-slots":
            kept.append(flag)
    return kept


async def _until(is_so: Callable[[], Awaitable[bool]], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not await is_so():
        if time.monotonic() > deadline:
            raise HugindError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)
