"""The command as a whole: help, version, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.cli.hugind_command import HugindCommand


def test_version(hugind: HugindCommand) -> None:
    """`--version` names the release on stdout."""
    done = hugind("--version")

    assert done.stdout == f"hugind {version('hugind')}\n"


def test_help_teaches(hugind: HugindCommand) -> None:
    """`--help` lists the commands and says where to start."""
    done = hugind("--help")

    assert done.returncode == 0
    for word in ("server", "config", "user", "key", "usage", "audit", "db", "doctor", "bench", "Start here"):
        assert word in done.stdout


def test_help_imports_no_server() -> None:
    """`hugind --help` loads neither the server stack nor anything that is slow to import."""
    code = (
        "import sys; sys.argv = ['hugind', '--help']\n"
        "from hugind.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stderr.split())

    assert "typer" in loaded
    slow = ("fastapi", "uvicorn", "pydantic", "httpx", "psutil", "yaml", "xllamacpp", "sqlalchemy", "hugind.proxy")
    assert not [name for name in slow if name in loaded]


def test_usage_error_is_2(hugind: HugindCommand) -> None:
    """A command that does not exist is a usage error on stderr."""
    done = hugind("frobnicate")

    assert done.returncode == 2
    assert "frobnicate" in done.stderr
    assert not done.stdout


def test_failure_is_1_with_a_hint(hugind: HugindCommand) -> None:
    """A failure says what happened and what to try, without a traceback."""
    done = hugind("server", "start")

    assert done.returncode == 1
    assert done.stderr.startswith("error: no config was named\nhint:  ")


def test_completion() -> None:
    """Shell completion can be printed by the installed command."""
    command = Path(sys.executable).with_name("hugind")
    ask = {**os.environ, "_HUGIND_COMPLETE": "source_bash"}  # what `--show-completion` does once it knows the shell
    done = subprocess.run([command], env=ask, capture_output=True, text=True, timeout=60, check=True)

    assert "_hugind_completion" in done.stdout
