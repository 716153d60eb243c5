"""Slots on the real engine: a request stays on the one that it was lent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from hugind.supervisor.config import Config
from tests.e2e.conftest import chat_config
from tests.eventually import eventually
from tests.proxy.serving import Served, chat, connect, http_request, serving

pytestmark = pytest.mark.e2e

SECRET = "somebody else's long and private prompt " * 10
MINE = ["first of many prompts " * 5, "second of many prompts " * 5, "third of many prompts " * 5]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_many_prompts_stay_on_the_leased_slot(tmp_path: Path, is_stream: bool) -> None:
    """A list of prompts runs on one slot, and the neighbour's cache is as it was."""
    config = Config.model_validate(chat_config(tmp_path))
    async with serving(tmp_path, {"chat": config}) as served:
        held = await served.leases().acquire()  # slot 0 first, then the neighbour's is the only one
        lease = await served.leases().acquire()
        served.leases().release(held)
        neighbour, mine = lease.slot, held.slot
        filled = await _complete(served, neighbour, SECRET)
        answer = await served.client.post(
            "/v1/completions", json={"model": "chat", "prompt": MINE, "max_tokens": 3, "stream": is_stream}
        )
        again = await _complete(served, neighbour, SECRET)
        own = await _complete(served, mine, MINE[-1])
        served.leases().release(lease)

        assert 200 == answer.status_code
        assert filled["tokens_evaluated"] - 1 <= again["timings"]["cache_n"]
        assert own["timings"]["cache_n"] > 20
        if not is_stream:
            assert [0, 1, 2] == [choice["index"] for choice in answer.json()["choices"]]


async def test_both_dialects_are_pinned(tmp_path: Path) -> None:
    """Neither a client's own `id_slot` nor Anthropic's route, which the engine itself does not pin, moves a request."""
    config = Config.model_validate(chat_config(tmp_path))
    async with serving(tmp_path, {"chat": config}) as served:
        held = await served.leases().acquire()
        lease = await served.leases().acquire()
        served.leases().release(held)
        filled = await _complete(served, lease.slot, SECRET)
        for path in ("/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1/completions"):
            body = chat("hello there", max_tokens=2, prompt="hello", input="hello", id_slot=lease.slot)
            answer = await served.client.post(path, json=body)

            assert 200 == answer.status_code
        again = await _complete(served, lease.slot, SECRET)
        served.leases().release(lease)

        assert filled["tokens_evaluated"] - 1 <= again["timings"]["cache_n"]


async def test_two_workers_of_two_slots_serve_four(tmp_path: Path) -> None:
    """`concurrency` times `max_slots` at once, then a queue, then 503 with a time to come back."""
    config = Config.model_validate(
        chat_config(tmp_path, server={"concurrency": 2, "max_slots": 2}, limits={"max_queue": 1})
    )
    async with serving(tmp_path, {"chat": config}) as served:
        leases = served.leases()
        held = [await leases.acquire() for _ in range(4)]

        assert {0, 1} == {lease.worker.index for lease in held}
        assert 0 == leases.free
        async with connect(served.port) as client:
            await client.send(http_request(chat(max_tokens=1)))
            await eventually(lambda: leases.waiting == 1)
            refused = await served.client.post("/v1/chat/completions", json=chat(max_tokens=1))
            for lease in held:
                leases.release(lease)
            waited, headers, _ = await client.response()

        assert (503, "queue_full") == (refused.status_code, refused.json()["error"]["code"])
        assert int(refused.headers["retry-after"]) > 0
        assert 200 == waited
        assert float(headers["x-hugind-queue-ms"]) > 0
        await served.until_free(4)


async def _complete(served: Served, slot: int, prompt: str) -> dict[str, Any]:
    """Ask the worker itself, past the gateway."""
    body = orjson.dumps({"prompt": prompt, "n_predict": 1, "id_slot": slot, "cache_prompt": True})
    async with served.spawn().client.post("/completion", body) as response:
        answer: dict[str, Any] = orjson.loads(await response.read())
        assert 200 == response.status
        return answer
