"""A checkout of hugind as a person has it after the installation: the real scripts, beside this run's own Python."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.hugind_command import is_setting
from tests.engines import ROOT

SCRIPTS = (
    "console.sh",
    "bin/bootstrap_user_cli.sh",
    "bin/user_management_cli.sh",
    "runtime/environment.sh",
    "runtime/install.sh",
    "pyproject.toml",
)


class Checkout:
    """Scripts, a home, a `config.env` and a `.env` of its own, all below one folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"
        self.home = folder / "home"
        self.config = self.root / "runtime" / "config.env"
        self.dotenv = self.root / ".env"
        kept = {name: value for name, value in os.environ.items() if not is_setting(name)}
        for variable in ("HUGIND_CONFIG_ENV", "HUGIND_DOTENV"):
            kept.pop(variable, None)
        self.env = {**kept, "HUGIND_HOME": str(self.home)}
        for name in SCRIPTS:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)

    def pretend_installed(self) -> None:
        """As runtime/install.sh leaves it; the packages are those of this run, and installed already."""
        venv = self.root / "runtime" / ".venv"
        (venv / "bin").mkdir(parents=True)
        for name, words in (("python", [sys.executable]), ("hugind", [sys.executable, "-m", "hugind.cli.main"])):
            program = venv / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o700)
        stamp = subprocess.run(
            ["cksum"], input=(self.root / "pyproject.toml").read_bytes(), capture_output=True, check=True
        )
        (venv / "hugind-installed").write_text(f"{self.root} [dev] {stamp.stdout.decode().strip()}\n")

    def __call__(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script to the end, from another folder, with no terminal and no input."""
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd="/",
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def values(self) -> dict[str, str]:
        """What config.env sets."""
        lines = (line for line in self.config.read_text().splitlines() if line and not line.startswith("#"))
        return dict(line.split("=", 1) for line in lines)

    def edit(self, old: str, new: str) -> None:
        """Change config.env as a person would."""
        assert old in self.config.read_text()
        self.config.write_text(self.config.read_text().replace(old, new))
