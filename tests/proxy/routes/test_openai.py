"""OpenAI's routes: what goes to the engine, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.routes.openai import count_prompts
from hugind.supervisor.config import Config
from tests.eventually import eventually
from tests.proxy.serving import Served, chat, serving, standin_config


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", 1),
        (None, 1),
        ([1, 2, 3], 1),
        ([1, "mixed", 2], 1),
        (["one"], 1),
        (["one", "two"], 2),
        ([[1, 2], [3]], 2),
        (["one", [1, 2], "three"], 3),
    ],
)
def test_prompts_are_counted_as_the_engine_does(prompt: object, expected: int) -> None:
    """A list that holds a token is one prompt, however it goes on."""
    assert expected == count_prompts({"prompt": prompt})


def test_a_missing_prompt_is_one() -> None:
    """The engine refuses it; counting does not."""
    assert 1 == count_prompts({})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(n=1)),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ],
)
async def test_streamed_or_not(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """`stream` decides only how the answer comes; both say the same."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        asked = {"model": "chat", "max_tokens": 8, "standin": {"reply": "abcdefgh"}, **body}
        whole = await served.client.post(path, json=asked)
        streamed = await served.client.post(path, json={**asked, "stream": True})

        assert "application/json" == whole.headers["content-type"]
        assert "abcdefgh" in whole.text
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert "no" == streamed.headers["x-accel-buffering"]
        assert '"abcd"' in streamed.text
        assert whole.headers["x-request-id"] != streamed.headers["x-request-id"]


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("embedding", "/v1/embeddings", {"input": "a"}),
        ("rerank", "/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
async def test_pooled_requests_share_the_workers(tmp_path: Path, task: str, path: str, body: dict[str, Any]) -> None:
    """They take a slot, so that they are spread over the workers, bounded, and waited for by a drain."""
    config = standin_config(
        tmp_path,
        model={"task": task},
        server={"concurrency": 2, "max_slots": 1},
        limits={"max_queue": 0},
    )
    async with serving(tmp_path, {task: config}) as served:
        leases = served.leases(task)
        await eventually(lambda: leases.free == 2)
        held = await leases.acquire()
        answer = await served.client.post(path, json={"model": task, **body})
        await eventually(lambda: leases.free == 1)
        other = await leases.acquire()
        refused = await served.client.post(path, json={"model": task, **body})
        leases.release(held)
        leases.release(other)

        assert 200 == answer.status_code
        assert held.worker is not other.worker
        assert (503, "queue_full") == (refused.status_code, refused.json()["error"]["code"])


async def test_a_body_may_be_as_large_as_the_config_says(tmp_path: Path) -> None:
    """More is 413, and the next request is served."""
    configs: dict[str, Config] = {"chat": standin_config(tmp_path, limits={"max_body_mb": 0.001})}
    async with serving(tmp_path, configs) as served:
        answer = await served.client.post("/v1/chat/completions", json=chat("x" * 2000))

        assert 413 == answer.status_code
        await _is_serving(served)


async def _is_serving(served: Served) -> None:
    await eventually(lambda: served.leases().free == 2)

    assert 200 == (await served.client.post("/v1/chat/completions", json=chat("x"))).status_code
