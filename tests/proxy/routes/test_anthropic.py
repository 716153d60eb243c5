"""Anthropic's routes: messages in, chat to the engine, messages out."""

from __future__ import annotations

from pathlib import Path

import orjson

from hugind.proxy.sse import EventParser
from tests.proxy.serving import chat, serving, standin_config

PATH = "/v1/messages"
ASKED = chat(max_tokens=4, standin={"reply": "abcdefgh"})


async def test_a_whole_message(tmp_path: Path) -> None:
    """The chat's answer, as a message."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        message = (await served.client.post(PATH, json=ASKED)).json()

        assert [{"type": "text", "text": "abcdefgh"}] == message["content"]
        assert ("message", "chat") == (message["type"], message["model"])


async def test_a_streamed_message(tmp_path: Path) -> None:
    """From `message_start` to `message_stop`, with the input's size known at the start."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post(PATH, json={**ASKED, "stream": True})
        events = EventParser().feed(answer.content)

        assert ("message_start", "message_stop") == (events[0].event, events[-1].event)
        assert orjson.loads(events[0].data)["message"]["usage"]


async def test_what_cannot_be_translated_is_named(tmp_path: Path) -> None:
    """400 with the field, before a slot is taken."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post(PATH, json={"model": "chat", "max_tokens": 4, "messages": "hello"})

        assert (400, "invalid_request_error") == (answer.status_code, answer.json()["error"]["type"])
        assert "messages" in answer.json()["error"]["message"]


async def test_a_death_in_mid_stream_is_anthropics_error(tmp_path: Path) -> None:
    """An `error` event, and no `message_stop`."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        body = {**chat(max_tokens=9), "stream": True, "standin": {"token_ms": 1, "die_after_tokens": 3}}
        answer = await served.client.post(PATH, json=body)
        events = EventParser().feed(answer.content)

        assert "error" == events[-1].event
        assert "message_stop" not in [event.event for event in events]
        assert orjson.loads(events[-1].data)["request_id"] == answer.headers["x-request-id"]


async def test_tokens_are_counted(tmp_path: Path) -> None:
    """Without a slot."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        held = [await served.leases().acquire() for _ in range(2)]
        without_limit = {key: value for key, value in ASKED.items() if key != "max_tokens"}
        answer = await served.client.post(f"{PATH}/count_tokens", json=without_limit)
        with_system = await served.client.post(f"{PATH}/count_tokens", json={**without_limit, "system": "be brief"})
        for lease in held:
            served.leases().release(lease)

        assert 0 < answer.json()["input_tokens"] < with_system.json()["input_tokens"]
