"""The engine's stream, as Ollama's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from ollama import ChatResponse, GenerateResponse

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.ollama import (
    ChatReader,
    Lines,
    NativeReader,
    Reader,
    Spent,
    Told,
    Whole,
    as_message,
    as_response,
    error_line,
    nanoseconds,
    render_error,
    timestamp,
)

TIMINGS = {"cache_n": 5, "prompt_n": 17, "prompt_ms": 0.805, "predicted_n": 3, "predicted_ms": 0.439}
FIGURES = {
    "total_duration": 1_500_000_000,
    "load_duration": 250_000_000,
    "prompt_eval_count": 22,
    "prompt_eval_cached_count": 5,
    "prompt_eval_duration": 805_000,
    "eval_count": 3,
    "eval_duration": 439_000,
}
CREATED = "2026-11-21T17:00:00.500000Z"
TOKEN = {
    "id": 342,
    "token": "q",
    "bytes": [113],
    "logprob": -1.5,
    "top_logprobs": [
        {"id": 346, "token": "u", "bytes": [117], "logprob": -0.5},
        {"id": 342, "token": "q", "bytes": [113], "logprob": -1.5},
    ],
}


def told(form: Any = as_message, context: Callable[[str], list[int]] | None = None) -> Told:
    return Told("Demo:latest", form, lambda: 1795280400.5, lambda: Spent(1.5, 0.25), context)


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": reason, **more}]}


def ended(reason: str = "stop") -> list[dict[str, Any]]:
    return [chunk(reason=reason), {"choices": [], "usage": {}, "timings": TIMINGS}]


def streamed(events: list[Any], reader: Reader | None = None, how: Told | None = None) -> list[dict[str, Any]]:
    lines = Lines(how or told(), reader or ChatReader())
    sent = b"".join(map(lines.feed, events)) + lines.finish()
    assert sent.endswith(b"\n")
    assert b"\n\n" not in sent
    return [orjson.loads(line) for line in sent.splitlines()]


def whole(events: list[Any], reader: Reader | None = None, how: Told | None = None) -> dict[str, Any]:
    answer = Whole(how or told(), reader or ChatReader())
    for event in events:
        answer.feed(event)
    return answer.result()


def test_a_streamed_chat() -> None:
    """A line for each token, and a last one with all the figures; the engine's null events cause none."""
    events = [chunk({"role": "assistant", "content": None}), chunk({"content": "he"}), None, chunk({"content": "y"})]
    first, second, last = streamed([*events, *ended()])

    assert {
        "model": "Demo:latest",
        "created_at": CREATED,
        "message": {"role": "assistant", "content": "he"},
        "done": False,
    } == first
    assert "y" == second["message"]["content"]
    assert {
        "model": "Demo:latest",
        "created_at": CREATED,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        **FIGURES,
    } == last
    assert all(ChatResponse.model_validate(line) for line in (first, second, last))


def test_a_whole_chat() -> None:
    """The same in one object."""
    answer = whole(
        [chunk({"reasoning_content": "hm"}), chunk({"content": "he"}), chunk({"content": "y"}), *ended("length")]
    )

    assert {"role": "assistant", "content": "hey", "thinking": "hm"} == answer["message"]
    assert (True, "length") == (answer["done"], answer["done_reason"])
    assert FIGURES.items() <= answer.items()
    assert ChatResponse.model_validate(answer)


def test_figures_that_are_nothing_are_sent() -> None:
    """Clients read them without looking."""
    lines = streamed([chunk(reason="stop")])

    assert {name: 0 for name in FIGURES if name not in ("total_duration", "load_duration")}.items() <= lines[-1].items()


def test_thinking_comes_apart() -> None:
    """And the content beside it is a string, if an empty one."""
    first, *_ = streamed([chunk({"reasoning_content": "hm"}), *ended()])

    assert {"role": "assistant", "content": "", "thinking": "hm"} == first["message"]


def test_calls_of_tools() -> None:
    """Whole, as objects, with an id, in a line that is not the last; the reason stays `stop`."""
    fragments = [
        {"index": 0, "id": "abc", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
        {"index": 1, "function": {"name": "g", "arguments": ""}},
    ]
    events = [*(chunk({"tool_calls": [fragment]}) for fragment in fragments), *ended("tool_calls")]
    calls = [
        {"id": "abc", "function": {"index": 0, "name": "f", "arguments": {"city": "Paris"}}},
        {"id": "call_00000001", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]
    first, last = streamed(events)
    at_once = whole(events)

    assert ({"role": "assistant", "content": "", "tool_calls": calls}, False) == (first["message"], first["done"])
    assert ("stop", {"role": "assistant", "content": ""}) == (last["done_reason"], last["message"])
    assert ("stop", calls) == (at_once["done_reason"], at_once["message"]["tool_calls"])
    assert ChatResponse.model_validate(first).message.tool_calls


@pytest.mark.parametrize("arguments", ['{"city": "Pa', "[1]"])
def test_a_call_that_a_limit_cut_is_left_out(arguments: str) -> None:
    """Nobody could make it."""
    fragment = {"index": 0, "function": {"name": "f", "arguments": arguments}}
    lines = streamed([chunk({"tool_calls": [fragment]}), *ended("length")])

    assert [(True, "length")] == [(line["done"], line["done_reason"]) for line in lines]


def test_logprobs() -> None:
    """By token, with as many alternatives as were wanted; no ids."""
    events = [chunk({"content": "q"}, logprobs={"content": [TOKEN]}), *ended()]
    plain = {"token": "q", "bytes": [113], "logprob": -1.5}
    first, last = streamed(events)

    assert [plain] == first["logprobs"]
    assert "logprobs" not in last
    one = whole(events, ChatReader(top_logprobs=1))["logprobs"]
    assert [{**plain, "top_logprobs": [{"token": "u", "bytes": [117], "logprob": -0.5}]}] == one


def test_a_raw_prompt() -> None:
    """The engine's own form: no context, as there is no conversation."""
    events = [
        {"content": "x", "stop": False, "completion_probabilities": [TOKEN]},
        {"content": "", "stop": True, "stop_type": "limit", "timings": TIMINGS},
    ]
    first, last = streamed(events, NativeReader(), told(as_response))
    answer = whole(events, NativeReader(), told(as_response))

    assert ("x", 1) == (first["response"], len(first["logprobs"]))
    assert ("", "length") == (last["response"], last["done_reason"])
    assert ("x", "context" in answer) == (answer["response"], False)
    assert GenerateResponse.model_validate(answer)
    assert "stop" == whole([{**events[1], "stop_type": "eos"}], NativeReader(), told(as_response))["done_reason"]


def test_a_prompt_can_be_gone_on_from() -> None:
    """The last line has a context, made of the whole answer."""
    how = told(as_response, lambda text: list(text.encode()))
    events = [chunk({"reasoning_content": "hm"}), chunk({"content": "a"}), chunk({"content": "b"}), *ended()]
    thought, *_, last = streamed(events, how=how)

    assert ("", "hm") == (thought["response"], thought["thinking"])
    assert [97, 98] == last["context"] == whole(events, how=how)["context"]


def test_without_an_end_it_is_cut() -> None:
    """No `done` for an answer that is not whole; and the engine's own error is one."""
    lines = Lines(told(), ChatReader())
    assert lines.feed(chunk({"content": "he"}))
    with pytest.raises(EngineStreamError):
        lines.finish()
    with pytest.raises(EngineStreamError):
        whole([chunk({"content": "he"})])
    with pytest.raises(EngineStreamError, match="no memory"):
        lines.feed({"error": {"code": 500, "message": "no memory"}})


def test_only_loaded() -> None:
    """No figures."""
    bare = told(as_response).bare("load")

    assert {
        "model": "Demo:latest",
        "created_at": CREATED,
        "response": "",
        "done": True,
        "done_reason": "load",
    } == bare
    assert {"role": "assistant", "content": ""} == told().bare("unload")["message"]


def test_errors() -> None:
    """A body, or the last line."""
    assert {"error": "no"} == render_error("no")
    assert b'{"error":"no"}\n' == error_line("no")


def test_times() -> None:
    """What strict parsers take."""
    assert "1970-01-01T00:00:00.000000Z" == timestamp(0)
    assert 1_500_000_000 == nanoseconds(1.5)
