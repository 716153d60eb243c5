"""OpenAI's routes: what goes to the engine, and what comes back."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_several_choices(tmp_path: Path, path: str, is_stream: bool) -> None:
    """`n` answers to one request, made one after another on one slot: nobody else's is touched."""
    asked = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"prompt": "hello"}
    body = {"model": "chat", "n": 3, "max_tokens": 4, "seed": 1, **asked}
    options = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 2})}) as served:
        answer = await served.client.post(path, json={**body, **options})
        events = [answer.json()] if not is_stream else _events(answer.text)

        assert 200 == answer.status_code
        assert {0, 1, 2} == {choice["index"] for event in events for choice in event["choices"]}
        assert [12] == [event["usage"]["completion_tokens"] for event in events if event.get("usage")]
        assert 1 == len({event["id"] for event in events})
        assert [0] == [slot.id for slot in await served.spawn().client.slots(5) if slot.tokens]
        assert "new" == answer.headers["x-hugind-session"]


@pytest.mark.parametrize("wanted", [0, 17, -1, True, "2", 1.5])
async def test_choices_that_are_no_number(tmp_path: Path, wanted: object) -> None:
    """400 that says so."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post("/v1/chat/completions", json={**chat(), "n": wanted})

        assert (400, "n") == (answer.status_code, answer.json()["error"]["param"])


async def test_functions_of_old(tmp_path: Path) -> None:
    """A stream that is put into other words ends as any other does, also where nothing was called."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        body = chat(functions=[{"name": "f"}], stream=True, max_tokens=4, standin={"reply": "abcd"})
        events = _events((await served.client.post("/v1/chat/completions", json=body)).text)
        cut = await served.client.post(
            "/v1/chat/completions", json={**body, "standin": {"token_ms": 1, "die_after_tokens": 2}}
        )

        assert "abcd" == "".join(choice["delta"].get("content") or "" for e in events for choice in e["choices"])
        assert "stop" == events[-1]["choices"][0]["finish_reason"]
        assert "engine_died" in cut.text
        assert "[DONE]" not in cut.text


async def test_json_that_is_none(tmp_path: Path) -> None:
    """An answer that ended by itself and is no JSON is the engine's fault, and worth another try; a cut one is not."""
    asked: dict[str, Any] = {"response_format": {"type": "json_object"}, "standin": {"reply": '{"a'}}
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        ended = await served.client.post("/v1/chat/completions", json=chat(**asked, max_tokens=100))
        cut = await served.client.post("/v1/chat/completions", json=chat(**asked, max_tokens=1))
        stopped = await served.client.post("/v1/chat/completions", json=chat(**asked, max_tokens=100, stop=["b"]))
        await served.until_free(2)

        assert (502, "invalid_json") == (ended.status_code, ended.json()["error"]["code"])
        assert (200, 200) == (cut.status_code, stopped.status_code)


async def test_few_dimensions(tmp_path: Path) -> None:
    """The rest of every vector is cut off; more than there are is the client's mistake."""
    async with serving(tmp_path, {"embed": standin_config(tmp_path, model={"task": "embedding"})}) as served:
        asked = {"model": "embed", "input": ["a", "b"]}
        few = await served.client.post("/v1/embeddings", json={**asked, "dimensions": 3})
        many = await served.client.post("/v1/embeddings", json={**asked, "dimensions": 3000})
        await served.until_free(2, "embed")

        assert [3, 3] == [len(entry["embedding"]) for entry in few.json()["data"]]
        assert (400, "dimensions") == (many.status_code, many.json()["error"]["param"])


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert "[DONE]" == lines.pop()
    return [json.loads(line) for line in lines]
