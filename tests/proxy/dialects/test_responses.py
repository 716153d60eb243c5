from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.responses import ResponseAssembler, ResponseBuilder, ResponseStream, render_event
from hugind.proxy.dialects.responses_items import Ids
from hugind.proxy.dialects.responses_request import describe
from hugind.proxy.sse import EventParser
from tests.proxy.dialects.recordings import load_stream

TOKEN = "0123456789abcdef" * 2
USAGE = {
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
    "choices": [],
}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def builder() -> ResponseBuilder:
    about = {**describe({}, {}), "store": True, "conversation": None}
    return ResponseBuilder(about, Ids(TOKEN), "m", 1)


def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call(index: int, **fragment: Any) -> dict[str, Any]:
    name = fragment.pop("name", None)
    function = {"arguments": fragment.pop("arguments", "")} | ({"name": name} if name else {})
    return chunk(tool_calls=[{"index": index, **fragment, "function": function}])


def events_of(chunks: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    made = builder()
    events = [event for given in chunks for event in made.feed(given)]
    return orjson.loads(orjson.dumps([*events, *made.finish(), made.final(2)]))  # type: ignore[no-any-return]


def test_a_text() -> None:
    """Its events in order, numbered, all of one item; the last one holds the whole."""
    events = events_of([chunk(role="assistant", content=None), chunk(content="a"), None, chunk(content="b"),
                        chunk("stop"), USAGE])  # fmt: skip

    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert list(range(len(events))) == [event["sequence_number"] for event in events]
    response = events[-1]["response"]
    (item,) = response["output"]
    assert {item["id"]} == {event["item_id"] for event in events if "item_id" in event}
    assert ("ab", "completed") == (item["content"][0]["text"], item["status"])
    assert (f"resp_{TOKEN}", "completed", 1, 2) == tuple(
        response[key] for key in ("id", "status", "created_at", "completed_at")
    )
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }


def test_thoughts_text_and_calls() -> None:
    """Each an item of its own, in the order in which they came."""
    events = events_of(
        [
            chunk(reasoning_content="h"), chunk(reasoning_content="m"), chunk(content="a"),
            call(0, id="c1", name="f", arguments=""), call(0, arguments='{"a"'), call(0, arguments=":1}"),
            call(1, id="c2", name="g", arguments="{}"), chunk("tool_calls"), USAGE,
        ]
    )  # fmt: skip
    thought, text, first, second = events[-1]["response"]["output"]

    assert [{"type": "reasoning_text", "text": "hm"}] == thought["content"]
    assert "a" == text["content"][0]["text"]
    assert ("c1", "f", '{"a":1}', "completed") == tuple(
        first[key] for key in ("call_id", "name", "arguments", "status")
    )
    assert ("c2", "g", "{}") == (second["call_id"], second["name"], second["arguments"])
    assert [0, 1, 2, 3] == [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert ['{"a"', ":1}", "{}"] == [
        event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"
    ]
    assert "completed" == events[-1]["response"]["status"]


def test_an_answer_that_was_cut_short() -> None:
    """The engine's own route does not tell; OpenAI's does."""
    events = events_of([chunk(content="a"), chunk("length"), USAGE])
    response = events[-1]["response"]

    assert "response.incomplete" == events[-1]["type"]
    assert ("incomplete", {"reason": "max_output_tokens"}, None) == tuple(
        response[key] for key in ("status", "incomplete_details", "completed_at")
    )
    assert "incomplete" == response["output"][0]["status"]


def test_an_answer_without_a_word() -> None:
    """Is an empty message."""
    (item,) = events_of([chunk("stop")])[-1]["response"]["output"]

    assert "" == item["content"][0]["text"]


def test_logprobs() -> None:
    """Of each piece, and of the whole."""
    one = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    given = chunk(content="a")
    given["choices"][0]["logprobs"] = {"content": [one]}
    events = events_of([given, chunk("stop")])

    assert [one] == events[4]["logprobs"]
    assert [one] == events[-1]["response"]["output"][0]["content"][0]["logprobs"]


@pytest.mark.parametrize("name", ["chat_reasoning", "chat_stop_sequence"])
def test_the_client_library_knows_every_event(name: str) -> None:
    """Of what a real engine sent: nothing is missing that the library's types demand."""
    events = events_of(load_stream(name))

    for event in events:
        read = EVENTS.validate_python(event, strict=False)
        assert event["type"] == read.type
    Response.model_validate(events[-1]["response"], strict=False)


def test_streamed_or_not_it_is_the_same() -> None:
    """All but the last event come from the stream; that is sent when the response is kept."""
    chunks = [chunk(content="a"), chunk("stop"), USAGE]
    streamed, whole = builder(), builder()
    stream, assembler = ResponseStream(streamed), ResponseAssembler(whole)
    sent = b"".join(stream.feed(given) for given in chunks) + stream.finish() + render_event(streamed.final(2))
    for given in chunks:
        assembler.feed(given)
    assembler.result()
    whole.final(2)
    events = EventParser().feed(sent)

    assert [orjson.loads(event.data) for event in events] == events_of(chunks)
    assert [event.event for event in events] == [orjson.loads(event.data)["type"] for event in events]
    assert streamed.response == whole.response


def test_a_stream_that_broke() -> None:
    """An error in it, its missing end, and a call that the engine had left."""
    with pytest.raises(EngineStreamError, match="boom"):
        builder().feed({"error": {"message": "boom"}})
    cut = builder()
    cut.feed(chunk(content="a"))
    with pytest.raises(EngineStreamError):
        cut.finish()
    torn = builder()
    torn.feed(call(0, id="a", name="f"))
    torn.feed(call(1, id="b", name="f"))
    with pytest.raises(EngineStreamError, match="went back"):
        torn.feed(call(0, arguments="x"))
