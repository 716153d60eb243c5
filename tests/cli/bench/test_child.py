"""Children of a bench: ready when started, gone when left, their last words told."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from hugind.cli.bench.child import bench_environment, start_child
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import read_environment


async def start(stack: AsyncExitStack, folder: Path, code: str, *, timeout_s: float = 20) -> int:
    async def is_ready() -> bool:
        return (folder / "ready").exists()

    argv = [sys.executable, "-u", "-c", code]
    child = await start_child(
        stack, argv,
        name="it", folder=folder, env=os.environ, is_ready=is_ready, timeout_s=timeout_s, stop_s=5,
    )  # fmt: skip
    return child.pid


async def test_ends_with_its_stack(tmp_path: Path) -> None:
    """It runs until the stack is left; what it said is in its log."""
    code = f"import time; print('hello'); open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(60)"
    async with AsyncExitStack() as stack:
        pid = await start(stack, tmp_path, code)
        was_alive = psutil.pid_exists(pid)

    assert was_alive
    assert not psutil.pid_exists(pid)
    assert "hello" in (tmp_path / "it.log").read_text()


async def test_last_words_are_told(tmp_path: Path) -> None:
    """One that ends instead of starting is an error that says why."""
    with pytest.raises(HugindError, match=r"it ended with 3 instead of starting: no such luck"):
        async with AsyncExitStack() as stack:
            await start(stack, tmp_path, "print('no such luck'); exit(3)")


async def test_never_ready_is_an_error(tmp_path: Path) -> None:
    """Waiting has an end, and so has the child."""
    with pytest.raises(HugindError, match=r"it was not ready within 0.2 s"):
        async with AsyncExitStack() as stack:
            await start(stack, tmp_path, "import time; time.sleep(60)", timeout_s=0.2)

    assert not psutil.Process().children()


def test_nothing_of_the_user_reaches_a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a key nor a limit nor a database that is meant for the user's own gateway."""
    given = {
        "LLAMA_API_KEY": "theirs",
        "LLAMA_PROXY_ENABLED": "1",
        "LLAMA_PROXY_RATE_LIMIT": "1",
        "DATABASE_URL": "postgresql://theirs@db/theirs",
        "POSTGRES_AUTH_HOST": "db",
        "HUGIND_HOME": "/theirs",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    variables = bench_environment(Home(tmp_path), LLAMA_API_KEY="ours")
    seen = read_environment(variables)

    assert "PATH" in variables
    assert (tmp_path, "ours") == (seen.home.root, seen.api_key and seen.api_key.get_secret_value())
    assert (None, None, False) == (seen.database_url, seen.rate_limit, seen.needs_key)
