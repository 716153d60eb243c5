"""Several answers, joined as if they had been made side by side."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from hugind.proxy.dialects.choices import Choices
from hugind.proxy.dialects.errors import EngineStreamError


def _body(text: str, prompt: int, completion: int) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": f"chatcmpl-{text}", "choices": [choice], "usage": usage}


def _chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"id": f"chatcmpl-{text}", "choices": [{"index": 0, "delta": {"content": text}}], **more}


def _parse(data: bytes) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(data.removeprefix(b"data: "))
    return event


def test_whole_answers() -> None:
    """Each has its index; the prompt is counted once, what was generated all together."""
    choices = Choices(2)
    for body in (_body("a", 10, 3), _body("b", 10, 4)):
        choices.begin()
        choices.add(body)
    whole = choices.result()

    assert [(0, "a"), (1, "b")] == [(c["index"], c["message"]["content"]) for c in whole["choices"]]
    assert {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17} == whole["usage"]
    assert "chatcmpl-a" == whole["id"]


def test_streams() -> None:
    """One stream: one id, an index for each answer, one usage at the end."""
    choices = Choices(2)
    sent = b""
    for text, last in (("a", False), ("b", True)):
        choices.begin()
        assert last is choices.is_last
        sent += choices.feed(_chunk(text)) + choices.feed(None)
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        sent += choices.feed({"id": text, "choices": [], "usage": usage})
    events = [_parse(line) for line in sent.split(b"\n\n") if line]

    assert {"chatcmpl-a"} == {event["id"] for event in events}
    assert [0, 1] == [choice["index"] for event in events for choice in event["choices"]]
    assert [{"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}] == [
        event["usage"] for event in events if "usage" in event
    ]


def test_a_shape() -> None:
    """What a client asked for in another form comes so."""
    choices = Choices(1, lambda event: {"shaped": event["choices"][0]["index"]})
    choices.begin()

    assert {"shaped": 0} == _parse(choices.feed(_chunk("a")))


def test_an_error_in_the_stream() -> None:
    """It is raised, not sent as an answer."""
    choices = Choices(2)
    choices.begin()

    with pytest.raises(EngineStreamError):
        choices.feed({"error": {"message": "no", "type": "server_error", "code": 500}})
