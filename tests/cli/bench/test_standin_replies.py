"""The stand-in's bodies and events have llama-server's shapes."""

from __future__ import annotations

from typing import Any

import orjson

from hugind.cli.bench.standin_replies import ChatReply, CompletionReply, LegacyReply, Reply, ResponsesReply, Usage

USAGE = Usage(prompt=10, cached=4, predicted=2, prompt_ms=1.0, predicted_ms=2.0)


def events(reply: Reply) -> list[Any]:
    """All events of a stream of two tokens, decoded; `[DONE]` stays text."""
    parts = [*reply.first(), reply.token("He"), reply.token("llo"), *reply.last("Hello", "length", USAGE)]
    lines = b"".join(parts).decode().split("\n")
    payloads = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [payload if payload == "[DONE]" else orjson.loads(payload) for payload in payloads]


def test_chat_stream() -> None:
    """Role first with a null content, then text, the reason, usage without choices, `[DONE]`."""
    first, he, llo, end, counted, done = events(ChatReply("m", {"stream_options": {"include_usage": True}}))

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert [event["choices"][0]["delta"]["content"] for event in (he, llo)] == ["He", "llo"]
    assert end["choices"][0] == {"finish_reason": "length", "index": 0, "delta": {}}
    assert counted["choices"] == []
    assert counted["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert counted["timings"]["cache_n"] == 4
    assert done == "[DONE]"
    assert {event["object"] for event in (first, he, llo, end, counted)} == {"chat.completion.chunk"}
    assert len({event["id"] for event in (first, he, llo, end, counted)}) == 1


def test_chat_stream_without_usage() -> None:
    """Usage only comes when asked for."""
    assert not any("usage" in event for event in events(ChatReply("m", {}))[:-1])


def test_chat_whole() -> None:
    """The unstreamed chat answer."""
    body = orjson.loads(ChatReply("m", {}).whole("Hello", "stop", USAGE))

    assert body["choices"] == [
        {"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "Hello"}}
    ]
    assert (body["model"], body["object"]) == ("m", "chat.completion")
    assert body["usage"]["total_tokens"] == 12


def test_completion() -> None:
    """`/v1/completions`: text in choices; the last chunk carries the usage."""
    he, llo, end, done = events(CompletionReply("m", {}))

    assert he["choices"][0]["text"] + llo["choices"][0]["text"] == "Hello"
    assert (end["choices"][0]["finish_reason"], end["usage"]["completion_tokens"]) == ("length", 2)
    assert done == "[DONE]"


def test_legacy() -> None:
    """`/completion`: its own frames, no `[DONE]`; only the last names the slot."""
    reply = LegacyReply("m", {"prompt": "p"})
    reply.slot_id = 3
    he, llo, end = events(reply)

    assert he["content"] + llo["content"] == "Hello"
    assert [frame["id_slot"] for frame in (he, llo, end)] == [-1, -1, 3]
    assert (end["stop"], end["stop_type"], end["tokens_evaluated"]) == (True, "limit", 10)


def test_responses() -> None:
    """`/v1/responses`: named events from created to completed, no `[DONE]`."""
    seen = events(ResponsesReply("m", {}))

    assert [event["type"].removeprefix("response.") for event in seen] == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert seen[-1]["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
