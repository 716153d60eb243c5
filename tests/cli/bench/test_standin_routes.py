"""The stand-in's routes: what it tells and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.standin import StartStandin

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a question of some length"}], "max_tokens": 4}


def test_props(start_standin: StartStandin, standin_model: Path) -> None:
    """`/props` names what was started."""
    props = start_standin("--parallel", "3", "--alias", "tiny").client.get("/props").json()

    assert props["total_slots"] == 3
    assert props["model_path"] == str(standin_model)
    assert props["model_alias"] == "tiny"
    assert props["build_info"]


def test_models_and_slots(start_standin: StartStandin) -> None:
    """`/v1/models` lists the alias; a fresh slot is idle and knows its size."""
    standin = start_standin("-np", "2", "-c", "8192", "--no-kv-unified", "-a", "tiny")

    assert [model["id"] for model in standin.client.get("/v1/models").json()["data"]] == ["tiny"]
    assert standin.slots() == [{"id": i, "n_ctx": 4096, "speculative": False, "is_processing": False} for i in range(2)]


def test_embeddings_and_rerank(start_standin: StartStandin) -> None:
    """Engines of the other tasks answer in their shapes; equal texts have equal vectors."""
    vectors = start_standin("--embedding").client.post("/v1/embeddings", json={"input": ["a", "b", "a"]}).json()
    body = {"query": "red fox", "documents": ["a dog", "the red fox", "a fox"], "top_n": 2}
    ranks = start_standin("--rerank").client.post("/v1/rerank", json=body).json()

    assert vectors["data"][0]["embedding"] == vectors["data"][2]["embedding"] != vectors["data"][1]["embedding"]
    assert [rank["index"] for rank in ranks["results"]] == [1, 2]


def test_counting(start_standin: StartStandin) -> None:
    """Tokens turn into text and back; a count agrees with what a turn reports."""
    client = start_standin().client
    tokens = client.post("/tokenize", json={"content": "some text"}).json()["tokens"]
    counted = client.post("/v1/messages/count_tokens", json=CHAT).json()["input_tokens"]

    assert client.post("/detokenize", json={"tokens": tokens}).json()["content"].strip() == "some text"
    assert counted == client.post("/v1/chat/completions", json=CHAT).json()["usage"]["prompt_tokens"]


def test_templates(start_standin: StartStandin) -> None:
    """What the template makes of a chat can be asked for, with the start of an answer behind it or without."""
    client = start_standin().client
    asked = client.post("/apply-template", json=CHAT).json()["prompt"]
    held = client.post("/apply-template", json={**CHAT, "add_generation_prompt": False}).json()["prompt"]

    assert asked == "<|user|>a question of some length\n<|assistant|>"
    assert asked == f"{held}<|assistant|>"
    assert client.post("/apply-template", json={}).status_code == 400
