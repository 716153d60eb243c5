"""Packages of npm for tests that drive JavaScript clients: installed once, under runtime/cache."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.engines import ROOT

VERSIONS = {"ollama": "0.6.4"}
INSTALL_S = 300


@cache
def npm_package(name: str) -> Path:
    """A folder from which Node.js finds the package. Skips the test where there is no npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("this machine has no Node.js with npm")
    version = VERSIONS[name]
    folder = ROOT / "runtime" / "cache" / f"npm-{name}-{version}"
    if not (folder / "node_modules" / name / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--save-exact", f"{name}@{version}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
    return folder
