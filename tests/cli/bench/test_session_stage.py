"""The stage of the session bench: the parts that need no engine. The rest is played in `test_sessions.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.bench.session_stage import SaveWatch, own_ways, private_memory
from hugind.supervisor.config import load_config
from hugind.supervisor.llama.command import TcpEndpoint, build_flags
from hugind.supervisor.paths import Home
from tests.engines import ROOT


def test_engine_alone_is_left_to_itself(tmp_path: Path) -> None:
    """The same model, slots, context and attention as a worker; nothing that keeps it from caching on its own."""
    config = load_config(ROOT / "configs" / "example.yml")
    flags = build_flags("it", config, Home(tmp_path), endpoint=TcpEndpoint(1), slot_folder=tmp_path, known=())
    kept = own_ways(flags)

    assert {"--model", "--parallel", "--ctx-size", "--no-kv-unified", "--flash-attn"} <= set(kept)
    assert {"--cache-ram", "0", "--slot-save-path", str(tmp_path), "--slot-prompt-similarity"} == set(flags) - set(
        kept
    ) - {"--no-cache-idle-slots"}
    assert "--no-cache-idle-slots" in set(flags) - set(kept)


async def test_save_is_seen_when_it_is_whole(tmp_path: Path) -> None:
    """A snapshot counts under its last name, however often the one before is replaced."""
    (tmp_path / "old.kv").write_bytes(bytes(7))
    watch = SaveWatch(tmp_path)
    (tmp_path / "new.kv").write_bytes(bytes(11))
    first = await watch.until_saved()
    watch.mark()
    (tmp_path / "old.kv").unlink()
    (tmp_path / "newer.kv").write_bytes(bytes(13))
    second = await watch.until_saved()

    assert (11, 13, 0) == (first, second, watch.missed)


async def test_save_that_does_not_come_is_missed(tmp_path: Path) -> None:
    """What is still being written is no snapshot."""
    watch = SaveWatch(tmp_path, patience_s=0.05)
    (tmp_path / "new.kv.part").write_bytes(bytes(11))

    assert await watch.until_saved() is None
    assert 1 == watch.missed


def test_memory_is_given_back() -> None:
    """The folder in memory goes with all that is in it."""
    with private_memory() as folder:
        if folder is None:
            pytest.skip("this machine has no tmpfs that we may write to")
        (folder / "some").mkdir()
        (folder / "some" / "file").touch()

    assert not folder.exists()
