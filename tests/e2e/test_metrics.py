"""`/metrics` over the real engine: its own figures, and sessions that move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conversations import (
    HAS_MEMORY,
    Conversation,
    crowd_out,
    make_slow_gguf,
    memory_folder,
    session_config,
    until_saved,
)
from tests.proxy.routes.test_metrics import scrape, scrape_until
from tests.proxy.serving import serving

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not HAS_MEMORY, reason="there is no tmpfs")]


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


async def test_a_session_moves(tmp_path: Path, memory: Path) -> None:
    """From its slot into memory and back, told by tier; the engine's own counters agree with ours."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    alice = Conversation(user="alice", max_tokens=20)
    async with serving(tmp_path, {"chat": config}) as served:
        fresh = await scrape(served)
        first = await alice.say(served.client, "Tell me how it began, from the start. " * 6)
        session = await until_saved(served, first)
        in_slot = await scrape(served)
        await crowd_out(served)
        crowded = await scrape(served)
        second = await alice.say(served.client, "And then what happened? ")
        seen = await scrape_until(
            served, lambda now: now.value("hugind_session_turns_total", model="chat", tier="warm") == 1
        )

    assert 0 == fresh.sum("hugind_sessions", model="chat")
    assert (1, 0) == tuple(in_slot.value("hugind_sessions", model="chat", tier=tier) for tier in ("hot", "warm"))
    assert 1 <= crowded.value("hugind_sessions", model="chat", tier="warm")
    assert 0 < crowded.value("hugind_snapshot_bytes", model="chat", tier="warm")
    assert "warm" == second.label
    assert 1 == seen.value("hugind_restore_seconds_count", model="chat")
    assert 1 <= seen.value("hugind_session_saves_total", model="chat")
    assert 0 == seen.value("hugind_hollow_restores_total", model="chat")
    assert second.cached_tokens <= seen.value("hugind_tokens_total", model="chat", kind="cached")
    before, after = (
        told.value("llamacpp:prompt_tokens_cached_total", model="chat", worker="0") for told in (crowded, seen)
    )
    assert second.cached_tokens <= after - before
    ours = seen.value("hugind_tokens_total", model="chat", kind="completion")
    assert 40 <= ours
    assert {
        "llamacpp:tokens_predicted_total",
        "llamacpp:n_tokens_max_total",
        "llamacpp:requests_processing",
    } <= seen.names()
    assert session.id not in seen.text
    assert "alice" not in seen.text
