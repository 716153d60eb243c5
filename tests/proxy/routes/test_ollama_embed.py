"""Ollama's routes that embed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.proxy.serving import Served, serving, standin_config


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """An engine that embeds up to 64 tokens."""
    embed = standin_config(tmp_path, model={"task": "embedding"}, context={"ctx_size": 64})
    async with serving(tmp_path, {"embed": embed}) as gateway:
        yield gateway


async def test_vectors(served: Served) -> None:
    """One for each text, of length 1; cut where the client wants fewer numbers."""
    answer = await served.client.post("/api/embed", json={"model": "embed:latest", "input": ["a", "bb"]})
    cut = await served.client.post("/api/embed", json={"model": "embed", "input": "a", "dimensions": 3})
    body = answer.json()

    assert "application/json; charset=utf-8" == answer.headers["content-type"]
    assert ("embed:latest", 2) == (body["model"], len(body["embeddings"]))
    assert [pytest.approx(1.0)] * 2 == [math.hypot(*vector) for vector in body["embeddings"]]
    assert 3 == len(cut.json()["embeddings"][0])
    assert all(type(body[key]) is int for key in ("total_duration", "load_duration", "prompt_eval_count"))


async def test_the_older_route(served: Served) -> None:
    """One text, one vector; none for no text."""
    one = (await served.client.post("/api/embeddings", json={"model": "embed", "prompt": "a"})).json()
    none = (await served.client.post("/api/embeddings", json={"model": "embed"})).json()

    assert [8] == [len(vector) for vector in one.values()]
    assert {"embedding": []} == none


async def test_nothing_to_embed(served: Served) -> None:
    """Loads the model, and no more."""
    body = (await served.client.post("/api/embed", json={"model": "embed", "input": []})).json()

    assert ([], 0) == (body["embeddings"], body["prompt_eval_count"])


async def test_texts_that_are_too_long(served: Served) -> None:
    """Cut, unless the client wants to know."""
    text = "abcd" * 100
    fits = await served.client.post("/api/embed", json={"model": "embed", "input": "abcd" * 60, "truncate": False})
    cut = await served.client.post("/api/embed", json={"model": "embed", "input": [text, "a"]})
    refused = await served.client.post("/api/embed", json={"model": "embed", "input": text, "truncate": False})

    assert (200, 2) == (fits.status_code, len(cut.json()["embeddings"]))
    assert (400, "the input length exceeds the context length") == (refused.status_code, refused.json()["error"])


async def test_what_cannot_be_embedded(served: Served) -> None:
    """Named; and a model for embeddings does not chat, though chats can load and unload it."""
    wrong = await served.client.post("/api/embed", json={"model": "embed", "input": [7]})
    chat = await served.client.post("/api/chat", json={"model": "embed", "messages": [{"role": "user"}]})
    prompt = await served.client.post("/api/generate", json={"model": "embed", "prompt": "a"})

    assert (400, "invalid input type") == (wrong.status_code, wrong.json()["error"])
    assert '"embed" does not support chat' == chat.json()["error"]
    assert '"embed" does not support generate' == prompt.json()["error"]
    assert "load" == (await served.client.post("/api/generate", json={"model": "embed"})).json()["done_reason"]
