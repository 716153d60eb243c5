"""Streams assembled into the answers that the engine gives unstreamed, and OpenAI's error bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.openai import (
    ChatAssembler,
    CompletionAssembler,
    NativeAssembler,
    error_event,
    render_error,
)
from tests.proxy.dialects.recordings import load_answer, load_stream, strip_volatile

Assembler = ChatAssembler | CompletionAssembler | NativeAssembler

RECORDED: list[tuple[str, Callable[[], Assembler]]] = [
    ("chat_reasoning", ChatAssembler),
    ("chat_choices", lambda: ChatAssembler(choices=2)),
    ("completion_prompts", lambda: CompletionAssembler(choices=2)),
    ("native", lambda: NativeAssembler(return_tokens=True)),
]


def assemble(assembler: Assembler, events: list[dict[str, Any] | None]) -> Any:
    for event in events:
        assembler.feed(event)
    return assembler.result()


@pytest.mark.parametrize(("name", "make"), RECORDED)
def test_assembled_equals_unstreamed(name: str, make: Callable[[], Assembler]) -> None:
    """Every answer is the one the engine gives without streaming, ids and times aside."""
    answer = load_answer(name)
    assembled = assemble(make(), load_stream(name))
    if name == "native":
        answer["generation_settings"].pop("stream")
        assembled["generation_settings"].pop("stream")

    assert strip_volatile(answer) == strip_volatile(assembled)
    assert answer.keys() == assembled.keys()


@pytest.mark.parametrize(("name", "make"), RECORDED)
def test_a_stream_cut_anywhere_is_an_error(name: str, make: Callable[[], Assembler]) -> None:
    """A worker that dies mid-answer never looks like a short answer."""
    events = load_stream(name)
    # After the last choice has finished, a chat stream only has usage left to lose.
    complete = len(events) - (1 if name.startswith("chat") else 0)
    for length in range(complete):
        with pytest.raises(EngineStreamError, match="before it was complete"):
            assemble(make(), events[:length])


@pytest.mark.parametrize(("name", "make"), RECORDED)
def test_an_error_inside_a_stream_raises(name: str, make: Callable[[], Assembler]) -> None:
    """The engine's error object comes out whole, wherever it stands."""
    payload = {"code": 500, "message": "boom", "type": "server_error"}
    with pytest.raises(EngineStreamError) as caught:
        assemble(make(), [*load_stream(name)[:3], {"error": payload}])

    assert payload == caught.value.payload
    assert caught.value.status == 500


def test_assembled_chat_validates() -> None:
    """openai-python reads the assembled answers."""
    chat = ChatCompletion.model_validate(assemble(ChatAssembler(), load_stream("chat_choices")))
    completion = Completion.model_validate(assemble(CompletionAssembler(), load_stream("completion_prompts")))

    assert [choice.message.content for choice in chat.choices] == ["abc", "abc"]
    assert [choice.text for choice in completion.choices] == ["éx", "éx"]


def test_chat_keeps_the_stop_sequence_that_matched() -> None:
    """A request that says `verbose` gets the engine's own report, as it does unstreamed."""
    assembled = assemble(ChatAssembler(), load_stream("chat_stop_sequence"))

    assert assembled["__verbose"]["stopping_word"] == "c "
    assert load_answer("chat_stop_sequence").keys() == assembled.keys()


def _tool_chunk(index: int, *, call_id: str = "", name: str = "", arguments: str = "") -> dict[str, Any]:
    """As the engine builds them: id, type and name once, then arguments piece by piece."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
    call = {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})
    return {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [call]}}]}


def _finish_chunk(reason: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": reason, "delta": {}}], "id": "chatcmpl-x"}


def test_tool_calls_merge_by_index() -> None:
    """Fragments join the call they belong to, even interleaved."""
    assembled = assemble(
        ChatAssembler(),
        [
            _tool_chunk(0, call_id="a", name="get_weather"),
            _tool_chunk(0, arguments='{"city":'),
            _tool_chunk(1, call_id="b", name="get_time", arguments="{"),
            _tool_chunk(0, arguments='"Rome"}'),
            _tool_chunk(1, arguments="}"),
            _finish_chunk("tool_calls"),
        ],
    )

    message = assembled["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}, "id": "a"},
            {"type": "function", "function": {"name": "get_time", "arguments": "{}"}, "id": "b"},
        ],
    }
    assert assembled["choices"][0]["finish_reason"] == "tool_calls"


_PIECES = st.tuples(st.integers(0, 2), st.sampled_from(["content", "reasoning_content", "refusal"]), st.text())


@given(st.lists(_PIECES, min_size=1))
def test_texts_concatenate_per_choice(pieces: list[tuple[int, str, str]]) -> None:
    """However choices interleave, each text is its own pieces in order, and null adds nothing."""
    events: list[dict[str, Any] | None] = [
        {"choices": [{"index": index, "delta": {key: text}, "finish_reason": None}]} for index, key, text in pieces
    ]
    indexes = sorted({index for index, _, _ in pieces})
    events += [None, *({"choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]} for at in indexes)]
    choices = assemble(ChatAssembler(), events)["choices"]

    assert indexes == [choice["index"] for choice in choices]
    for choice in choices:
        for key in ("content", "reasoning_content", "refusal"):
            expected = "".join(text for index, kind, text in pieces if (index, kind) == (choice["index"], key))

            assert expected == choice["message"].get(key, "")


def test_first_choice_gives_usage_and_timings() -> None:
    """The engine reports the first choice's numbers, whichever finishes last."""
    events: list[dict[str, Any] | None] = []
    for index in (1, 0, 2):
        numbers = {"usage": {"completion_tokens": index}, "timings": {"predicted_n": index}}
        events += [{"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], **numbers}]
    assembled = assemble(ChatAssembler(), events)

    assert (assembled["usage"], assembled["timings"]) == ({"completion_tokens": 0}, {"predicted_n": 0})


def test_completion_logprobs_of_the_old_form_merge() -> None:
    """OpenAI's legacy lists (tokens, token_logprobs, ...) are concatenated key by key."""
    chunks: list[dict[str, Any] | None] = [
        {"choices": [{"index": 0, "text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1]}}]},
        {"choices": [{"index": 0, "text": "b", "logprobs": {"tokens": ["b"]}, "finish_reason": "stop"}]},
    ]

    choice = assemble(CompletionAssembler(), chunks)["choices"][0]
    assert choice["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1]}


def test_native_leaves_out_tokens_that_were_not_asked_for() -> None:
    """Stream chunks always carry token ids; the whole answer only with `return_tokens`."""
    assert assemble(NativeAssembler(), load_stream("native"))["tokens"] == []


def test_native_progress_is_not_generated() -> None:
    """A progress chunk carries token 0, which the model never wrote."""
    assert 0 not in assemble(NativeAssembler(return_tokens=True), load_stream("native"))["tokens"]


def test_native_with_response_fields_keeps_only_those() -> None:
    """The final chunk is stripped of index and all; the joined text still finds its place."""
    chunks: list[dict[str, Any] | None] = [
        {"index": 0, "content": "a", "tokens": [1], "stop": False},
        {"index": 0, "content": "b", "tokens": [2], "stop": False},
        {"content": "", "stop_type": "limit"},
    ]

    assert assemble(NativeAssembler(return_tokens=True), chunks) == {"content": "ab", "stop_type": "limit"}


def test_native_prompts_give_a_list() -> None:
    """Several prompts, several objects, in the order of the prompts."""
    chunks: list[dict[str, Any] | None] = [
        {"index": 1, "content": "b", "stop": False},
        {"index": 0, "content": "a", "stop": False},
        {"index": 1, "content": "", "stop": True},
        {"index": 0, "content": "", "stop": True},
    ]

    assert [body["content"] for body in assemble(NativeAssembler(prompts=2), chunks)] == ["a", "b"]


@pytest.mark.parametrize(
    ("status", "error_type", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", "invalid_api_key"),
        (403, "permission_error", None),
        (404, "invalid_request_error", None),
        (408, "timeout_error", None),
        (413, "invalid_request_error", None),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (500, "server_error", None),
        (501, "not_supported_error", None),
        (503, "server_error", None),
        (504, "timeout_error", None),
    ],
)
def test_error_defaults_follow_the_status(status: int, error_type: str, code: str | None) -> None:
    """All four fields are always there, as OpenAI's clients expect."""
    error = {"message": "no", "type": error_type, "param": None, "code": code}

    assert {"error": error} == render_error(status, "no")


def test_error_fields_can_be_given() -> None:
    """What the caller knows better wins."""
    error = {"message": "no", "type": "t", "param": "model", "code": "model_not_found"}

    assert {"error": error} == render_error(404, "no", type="t", code="model_not_found", param="model")


def test_error_event_raises_in_the_sdk() -> None:
    """openai-python turns the event into an APIError instead of ending the stream quietly."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=error_event(502, "boom"))

    with (
        openai.OpenAI(
            api_key="k", base_url="http://gateway/v1", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
        ) as client,
        pytest.raises(openai.APIError, match="boom") as caught,
    ):
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True))

    assert caught.value.type == "server_error"
