"""Chat answers as Anthropic messages, streamed and whole, and Anthropic's error bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hugind.proxy.dialects.anthropic import MessageStream, error_event, from_chat, ping_event, render_error, to_chat
from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.openai import ChatAssembler
from hugind.proxy.sse import EventParser
from tests.proxy.dialects.recordings import load_answer, load_stream

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)

PING = {"type": "ping"}
"""Clients skip it, and the SDK's types do not have it."""

Chunks = list[dict[str, Any] | None]


def stream_bytes(chunks: Chunks) -> bytes:
    stream = MessageStream("claude-x")
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


def stream_events(chunks: Chunks) -> list[dict[str, Any]]:
    """The events, each checked against the SDK's types and against its own `event:` name."""
    events = []
    for event in EventParser().feed(stream_bytes(chunks)):
        payload = orjson.loads(event.data)
        assert event.event == payload["type"]
        if payload == PING:
            continue
        EVENT.validate_python(payload)
        events.append(payload)
    return events


def assemble(chunks: Chunks) -> dict[str, Any]:
    assembler = ChatAssembler()
    for chunk in chunks:
        assembler.feed(chunk)
    return from_chat(assembler.result(), "claude-x")


def accumulate(chunks: Chunks) -> dict[str, Any]:
    """The message that a client puts together from the events."""
    start, *events = stream_events(chunks)
    message: dict[str, Any] = start["message"]
    arguments: dict[int, str] = {}
    for event in events:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(message["content"])
                message["content"].append(block)
            case {"type": "content_block_delta", "index": index, "delta": {"partial_json": piece}}:
                arguments[index] = arguments.get(index, "") + piece
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                key = delta["type"].removesuffix("_delta")
                message["content"][index][key] += delta[key]
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                message |= {**delta, "usage": usage}
    for index, text in arguments.items():
        message["content"][index]["input"] = orjson.loads(text)
    return message


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def call(index: int, arguments: str = "", **head: str) -> dict[str, Any]:
    function = {key: value for key, value in (("name", head.pop("name", "")), ("arguments", arguments)) if value}
    return chunk({"tool_calls": [{"index": index, **head, "function": function}]})


USAGE = {"prompt_tokens": 25, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 20}}
TAIL: dict[str, Any] = {"id": "chatcmpl-1", "choices": [], "usage": USAGE}
WITH_TOOLS: Chunks = [
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "hm"}),
    chunk({"reasoning_content": "m"}),
    chunk({"content": "One "}),
    chunk({"content": "moment."}),
    call(0, id="a", type="function", name="get_weather"),
    call(0, '{"city":'),
    call(0, '"Rome"}'),
    call(1, "{}", id="b", type="function", name="get_time"),
    chunk({}, "tool_calls"),
    TAIL,
]


def test_a_turn_with_tools_event_by_event() -> None:
    """The order that Anthropic documents: blocks one after another, each opened and closed."""
    events = stream_events(WITH_TOOLS)

    assert [(event["type"], event.get("index")) for event in events] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_a_turn_with_tools_as_a_message() -> None:
    """Thinking, text and calls, in that order, under the name that the client asked for."""
    message = assemble(WITH_TOOLS)

    Message.model_validate(message)
    assert message == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [
            {"type": "thinking", "thinking": "hmm", "signature": ""},
            {"type": "text", "text": "One moment."},
            {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "b", "name": "get_time", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 20, "output_tokens": 7},
    }


@pytest.mark.parametrize("name", ["chat_reasoning", "chat_stop_sequence"])
def test_recorded_streams_and_answers_agree(name: str) -> None:
    """The real engine's stream and its whole answer make the same message, ids and cache aside."""
    streamed = accumulate(load_stream(name))
    whole = from_chat(load_answer(name), "claude-x")

    assert streamed == assemble(load_stream(name))
    assert [streamed[key] for key in ("content", "stop_reason", "stop_sequence")] == [
        whole[key] for key in ("content", "stop_reason", "stop_sequence")
    ]


def test_the_stop_sequence_that_matched_is_named() -> None:
    """As Anthropic does, from the engine's verbose report."""
    message = accumulate(load_stream("chat_stop_sequence"))

    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "c ")


def test_message_start_knows_the_input_from_progress() -> None:
    """With `return_progress` the first event already tells what was read and what came from the cache."""
    start = stream_events(load_stream("chat_reasoning"))[0]

    assert start["message"]["usage"] == {"input_tokens": 1, "cache_read_input_tokens": 24, "output_tokens": 0}


def test_a_long_prompt_is_not_silent() -> None:
    """A ping comes right behind the first event, and one for every further batch of the prompt that is read."""
    progress = {"total": 9, "cache": 0, "processed": 3, "time_ms": 1}
    stream = MessageStream("claude-x")
    told = [stream.feed({**chunk({}), "prompt_progress": progress}) for _ in "ab"]

    assert b"message_start" in told[0]
    assert told[0].endswith(ping_event())
    assert ping_event() == told[1]
    assert ping_event() not in stream.feed(chunk({"content": "a"}))


def test_usage_falls_back_to_timings() -> None:
    """An engine that was not asked for usage still says what it did."""
    timings = {"prompt_n": 5, "cache_n": 20, "predicted_n": 7}
    message = accumulate([chunk({"content": "a"}), {**chunk({}, "stop"), "timings": timings}])

    assert message["usage"] == {"input_tokens": 5, "cache_read_input_tokens": 20, "output_tokens": 7}


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal")],
)
def test_stop_reasons(finish_reason: str, stop_reason: str) -> None:
    """Every finish reason has its name, and an answer without content is still a message."""
    chunks: Chunks = [chunk({}, finish_reason), TAIL]

    assert accumulate(chunks)["stop_reason"] == stop_reason
    assert accumulate(chunks) == assemble(chunks)


def test_a_call_without_an_id_gets_one() -> None:
    """Streamed and whole agree on it, so that a result finds its call."""
    chunks: Chunks = [call(0, "{}", name="f"), chunk({}, "tool_calls"), TAIL]

    assert accumulate(chunks)["content"][0]["id"] == "toolu_1_0"
    assert accumulate(chunks) == assemble(chunks)


@pytest.mark.parametrize("arguments", ['{"city": "Ro', "[1]", ""])
def test_arguments_that_are_no_object_become_an_empty_one(arguments: str) -> None:
    """max_tokens can cut a call short; a message's input is an object all the same."""
    chunks: Chunks = [call(0, arguments, id="a", name="f"), chunk({}, "length"), TAIL]

    assert assemble(chunks)["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]


def test_the_engine_may_not_return_to_a_closed_call() -> None:
    """A block that was closed cannot take more input; better an error than a wrong argument."""
    stream = MessageStream("claude-x")
    for piece in (call(0, id="a", name="f"), call(1, id="b", name="g")):
        stream.feed(piece)
    with pytest.raises(EngineStreamError, match="went back"):
        stream.feed(call(0, "{}"))


def test_a_stream_cut_anywhere_is_an_error() -> None:
    """A worker that dies mid-answer never looks like a finished message."""
    for length in range(len(WITH_TOOLS) - 2):
        with pytest.raises(EngineStreamError, match="before it was complete"):
            stream_bytes(WITH_TOOLS[:length])


def test_an_error_inside_a_stream_raises() -> None:
    """The engine's error comes out for the caller to render."""
    with pytest.raises(EngineStreamError, match="boom"):
        MessageStream("claude-x").feed({"error": {"code": 500, "message": "boom"}})


_TEXTS = st.lists(st.text(min_size=1), max_size=3)
_CALLS = st.lists(st.dictionaries(st.text(), st.integers(-9, 9), max_size=2), max_size=3)


@st.composite
def _answers(draw: st.DrawFn) -> Chunks:
    """Streams as the engine orders them: thoughts, text, calls; chunks split anywhere, some of them null."""
    chunks: Chunks = [chunk({"reasoning_content": text}) for text in draw(_TEXTS)]
    chunks += [chunk({"content": text}) for text in draw(_TEXTS)]
    for index, arguments in enumerate(draw(_CALLS)):
        text = orjson.dumps(arguments).decode()
        cut = draw(st.integers(0, len(text)))
        chunks += [call(index, text[:cut], id=f"id{index}", name="f"), call(index, text[cut:])]
    for at in draw(st.lists(st.integers(0, len(chunks)), max_size=2)):
        chunks.insert(at, None)
    return [*chunks, chunk({}, draw(st.sampled_from(["stop", "length", "tool_calls"]))), TAIL]


@given(_answers())
def test_the_stream_and_the_whole_answer_make_the_same_message(chunks: Chunks) -> None:
    """A client that accumulates the events gets exactly what an unstreamed request answers."""
    message = assemble(chunks)

    Message.model_validate(message)
    assert accumulate(chunks) == message


_DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.text()),
    st.builds(lambda text: {"reasoning_content": text}, st.text()),
    st.builds(lambda text, more: {"content": text, "reasoning_content": more}, st.text(), st.text()),
    st.just({"role": "assistant", "content": None}),
    st.just({}),
)


@given(st.lists(st.tuples(_DELTAS, st.booleans())))
def test_any_deltas_make_a_valid_stream(steps: list[tuple[dict[str, Any], bool]]) -> None:
    """Start, blocks opened and closed in turn with deltas only inside, the final delta, stop."""
    chunks: Chunks = []
    calls = 0
    for delta, is_call in steps:
        chunks.append(call(calls, "{}", id=f"id{calls}", name="f") if is_call else chunk(delta))
        calls += is_call
    events = stream_events([*chunks, chunk({}, "stop")])
    open_block: int | None = None
    blocks = 0
    for event in events[1:-2]:
        kind = event["type"]
        if kind == "content_block_start":
            assert (open_block, event["index"]) == (None, blocks)
            open_block, blocks = blocks, blocks + 1
        else:
            assert event["index"] == open_block
            open_block = None if kind == "content_block_stop" else open_block

    assert open_block is None
    assert [event["type"] for event in (events[0], *events[-2:])] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_error_types_follow_the_status(status: int, error_type: str) -> None:
    """The body that Anthropic documents, request id included."""
    expected = {"type": "error", "error": {"type": error_type, "message": "no"}, "request_id": "req_1"}

    assert render_error(status, "no", "req_1") == expected


def test_error_type_can_be_given() -> None:
    """What the caller knows better wins."""
    assert render_error(400, "no", type="billing_error")["error"]["type"] == "billing_error"


def _client(answer: Callable[[], bytes]) -> anthropic.Anthropic:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=answer())

    transport = httpx2.MockTransport(respond)
    return anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=httpx2.Client(transport=transport))


def test_the_sdk_reads_the_stream() -> None:
    """anthropic-python accumulates the same message, pings and all."""
    with (
        _client(lambda: ping_event() + stream_bytes(WITH_TOOLS)) as client,
        client.messages.stream(max_tokens=9, model="m", messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        message = stream.get_final_message()

    expected = assemble(WITH_TOOLS)
    assert [block.to_dict() for block in message.content] == expected["content"]
    assert (message.stop_reason, message.usage.to_dict()) == ("tool_use", expected["usage"])


def test_error_event_raises_in_the_sdk() -> None:
    """anthropic-python turns the event into an error instead of ending the stream quietly."""
    broken = MessageStream("claude-x").feed(chunk({"content": "a"})) + error_event(502, "boom", "req_1")
    with (
        _client(lambda: broken) as client,
        client.messages.stream(max_tokens=9, model="m", messages=[{"role": "user", "content": "hi"}]) as stream,
        pytest.raises(anthropic.APIStatusError, match="boom"),
    ):
        stream.get_final_message()


def test_an_answer_can_be_sent_back() -> None:
    """The next turn's request repeats the message, and the engine sees its own words again."""
    assembler = ChatAssembler()
    for piece in WITH_TOOLS:
        assembler.feed(piece)
    completion = assembler.result()
    content = from_chat(completion, "m")["content"]
    chat = to_chat({"max_tokens": 1, "messages": [{"role": "assistant", "content": content}]})

    assert chat["messages"] == [completion["choices"][0]["message"]]
