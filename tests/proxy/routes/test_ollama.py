"""Ollama's routes: its chats and prompts in, chat to the engine, lines of JSON out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from hugind.supervisor.aliases import Alias
from tests.eventually import eventually
from tests.proxy.people import rows
from tests.proxy.serving import Served, connect, http_request, serving, standin_config
from tools.random_gguf import make_llama_gguf

CHAT, GENERATE = "/api/chat", "/api/generate"
HELLO = [{"role": "user", "content": "hello"}]
REPLY = {"standin": {"reply": "abcdefgh"}, "options": {"num_predict": 4}}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A model of which no more is known than that it is there."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, limits={"max_body_mb": 1})}) as gateway:
        yield gateway


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": HELLO, **REPLY, **fields}


def prompted(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "prompt": "hello", **REPLY, **fields}


def lines_of(content: bytes) -> list[Any]:
    """A stream, which must be one object to a line."""
    assert content.endswith(b"\n")
    assert b"\n\n" not in content
    return [orjson.loads(line) for line in content.splitlines()]


async def test_a_chat(served: Served) -> None:
    """In lines unless told otherwise, under the name that the client uses, whatever the body is said to be."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = orjson.dumps(asked(model="Chat:latest"))
    streamed = await served.client.post(CHAT, content=body, headers=form)
    whole = await served.client.post(CHAT, json=asked(stream=False))
    *parts, last = lines_of(streamed.content)
    answer = whole.json()

    assert "application/x-ndjson" == streamed.headers["content-type"]
    assert streamed.headers["x-request-id"]
    assert "abcdefgh" == "".join(line["message"]["content"] for line in parts) == answer["message"]["content"]
    assert {"Chat:latest"} == {line["model"] for line in (*parts, last)}
    assert (True, "stop", 2) == (last["done"], last["done_reason"], last["eval_count"])
    assert "application/json; charset=utf-8" == whole.headers["content-type"]
    assert all(type(answer[key]) is int for key in answer if key.endswith(("_duration", "_count")))
    assert {"ollama"} == {row["dialect"] for row in await rows(served)}


async def test_prompts(served: Served) -> None:
    """With a template, raw, and with something to fill in. Only where it was a conversation it can be gone on from."""
    first = (await served.client.post(GENERATE, json=prompted(stream=False))).json()
    asked_again = prompted(prompt="and?", context=first["context"], stream=False)
    again = await served.client.post(GENERATE, json=asked_again)
    raw = (await served.client.post(GENERATE, json=prompted(raw=True, stream=False))).json()
    filled = lines_of((await served.client.post(GENERATE, json=prompted(suffix="."))).content)

    assert ["abcdefgh"] * 2 == [first["response"], again.json()["response"]]
    assert "hot" == again.headers["x-hugind-session"]
    assert again.json()["prompt_eval_cached_count"] > 0
    assert ("abcdefgh", False) == (raw["response"], "context" in raw)
    assert ("stop", False) == (filled[-1]["done_reason"], "context" in filled[-1])


async def test_a_conversation_is_known_again(served: Served) -> None:
    """Its next turn finds the KV of the last."""
    said = [*HELLO, {"role": "assistant", "content": "abcdefgh"}, {"role": "user", "content": "more"}]
    first = await served.client.post(CHAT, json=asked(stream=False))
    second = await served.client.post(CHAT, json=asked(messages=said, stream=False))

    assert ("new", "hot") == (first.headers["x-hugind-session"], second.headers["x-hugind-session"])
    assert (0, True) == (
        first.json()["prompt_eval_cached_count"],
        second.json()["prompt_eval_cached_count"] > 0,
    )


async def test_an_alias(served: Served) -> None:
    """Says what the request does not; the answer has its name."""
    served.gateway.aliases.put("nick", Alias(model="chat", system="be brief", parameters={"num_predict": 3}))
    unsaid = {**asked(model="nick", stream=False), "options": {}}
    by_alias = (await served.client.post(CHAT, json={**unsaid, "standin": {}})).json()
    by_request = (await served.client.post(CHAT, json={**unsaid, "standin": {}, "options": {"num_predict": 2}})).json()

    assert ("nick", 3, 2) == (by_alias["model"], by_alias["eval_count"], by_request["eval_count"])
    assert by_alias["prompt_eval_count"] > len(HELLO[0]["content"])


async def test_what_is_wrong_is_ollamas_error(served: Served) -> None:
    """One sentence, with the status that clients act upon; no slot is taken."""
    bodies: list[tuple[str, Any, int, str]] = [
        (CHAT, b"", 400, "missing request body"),
        (CHAT, b"{", 400, "not valid JSON"),
        (CHAT, b" " * (2 << 20), 413, "larger than 1 MB"),
        (CHAT, asked(model="nope"), 404, "model 'nope' not found"),
        (CHAT, asked(options={"num_ctx": "8k"}), 400, 'option "num_ctx" must be of type integer'),
        (CHAT, asked(keep_alive="60"), 400, 'time: missing unit in duration "60"'),
        (CHAT, asked(messages=[], keep_alive="x"), 400, "time: invalid duration"),
        (CHAT, asked(messages=[{"role": "king"}]), 400, "invalid role"),
        (GENERATE, prompted(raw=True, system="s"), 400, "raw mode does not support template, system, or context"),
        (GENERATE, prompted(top_logprobs=21), 400, "top_logprobs must be between 0 and 20"),
        ("/api/embed", {"model": "chat", "input": "a"}, 400, '"chat" does not support embeddings'),
    ]
    for path, body, status, said in bodies:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = await served.client.post(path, content=content)

        assert (status, ["error"]) == (answer.status_code, list(answer.json()))
        assert said in answer.json()["error"]
    got = await served.client.get(CHAT)
    keyless = await served.client.post(CHAT, json=asked(), headers={"Authorization": "Bearer wrong"})
    assert [405, 401] == [got.status_code, keyless.status_code]
    assert [str, str] == [type(answer.json()["error"]) for answer in (got, keyless)]
    assert 2 == served.leases().free


async def test_a_death_in_mid_stream_is_the_last_line(served: Served) -> None:
    """An error, and nothing is done; whole answers get it as such, and so does what the engine itself reports."""
    fault = {"token_ms": 1, "die_after_tokens": 3}
    streamed = await served.client.post(CHAT, json=asked(options={"num_predict": 9}, standin=fault))
    *parts, last = lines_of(streamed.content)
    assert ["error"] == list(last)
    assert not any(line["done"] for line in parts)

    await served.until_free(2)
    failing = asked(stream=False, options={"num_predict": 9}, standin={"error_after_tokens": 3})
    failed = await served.client.post(CHAT, json=failing)
    assert (500, ["error"]) == (failed.status_code, list(failed.json()))


async def test_a_client_that_leaves_frees_its_slot(served: Served) -> None:
    """As everywhere."""
    endless = asked(options={"num_predict": 4000}, standin={"token_ms": 1000})
    async with connect(served.port) as connection:
        await connection.send(http_request(endless, CHAT))
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.leave()
    await served.until_free(2)


async def test_only_to_load_or_to_unload(served: Served) -> None:
    """Without a prompt: one object in any case. Who asks afterwards has it loaded, and is told how long it took."""
    unloaded = await served.client.post(GENERATE, json={"model": "chat", "keep_alive": 0})
    await eventually(lambda: served.engine().state == "unloaded")
    again = await served.client.post(CHAT, json={"model": "chat", "messages": [], "keep_alive": 0})
    assert ("unload", "") == (unloaded.json()["done_reason"], unloaded.json()["response"])
    assert "unload" == again.json()["done_reason"]
    assert "unloaded" == served.engine().state

    chatted = await served.client.post(CHAT, json=asked(stream=False))
    loaded = await served.client.post(CHAT, json={"model": "chat", "messages": []})
    assert 0 < chatted.json()["load_duration"] <= chatted.json()["total_duration"]
    assert ("load", {"role": "assistant", "content": ""}) == (loaded.json()["done_reason"], loaded.json()["message"])
    assert "total_duration" not in loaded.json()


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """503 with the engine's own words, for who wants to load it as for who asks it."""
    config = standin_config(tmp_path, engine={"extra_args": ["--fail-start", "no room for the weights"]})
    async with serving(tmp_path, {"chat": config}, is_ready=False) as served:
        await eventually(lambda: served.engine().state == "failed")
        for body in ({"model": "chat", "messages": []}, asked()):
            answer = await served.client.post(CHAT, json=body)

            assert 503 == answer.status_code
            assert "no room for the weights" in answer.json()["error"]


async def test_a_conversation_that_became_too_long(tmp_path: Path) -> None:
    """Its oldest turns are left out, unless the client wants to know."""
    config = standin_config(tmp_path, context={"ctx_size": 256})
    said = [{"role": role, "content": f"{at} " * 100} for at in range(6) for role in ("user", "assistant")]
    async with serving(tmp_path, {"chat": config}) as served:
        shortened = await served.client.post(CHAT, json=asked(messages=[*said, *HELLO], stream=False))
        refused = await served.client.post(CHAT, json=asked(messages=[*said, *HELLO], truncate=False))
        alone = await served.client.post(CHAT, json=asked(messages=[{"role": "user", "content": "word " * 1000}]))

        assert 0 < shortened.json()["prompt_eval_count"] < 256
        for answer in (refused, alone):
            assert (400, True) == (answer.status_code, "context size" in answer.json()["error"])


async def test_what_a_model_cannot_do(tmp_path: Path) -> None:
    """By its own header: refused in the words that clients look for. Not to think is for all."""
    plain = standin_config(tmp_path, model={"model_path": str(make_llama_gguf(tmp_path / "plain.gguf"))})
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    image = {"role": "user", "content": "", "images": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"]}
    async with serving(tmp_path, {"chat": plain}) as served:
        asks: list[tuple[str, Any, str]] = [
            (CHAT, asked(think=True), '"chat" does not support thinking'),
            (CHAT, asked(tools=tools), "chat does not support tools"),
            (CHAT, asked(messages=[image]), "chat does not support vision"),
            (GENERATE, prompted(suffix="x"), '"chat" does not support insert'),
        ]
        for path, body, said in asks:
            answer = await served.client.post(path, json=body)

            assert (400, True) == (answer.status_code, answer.json()["error"].startswith(said))
        assert 200 == (await served.client.post(CHAT, json=asked(think=False))).status_code
