"""The `openai` package's Responses and Conversations against a real gateway on the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage
from pydantic import BaseModel

from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import KEY, GatewayProcess, hugind, running
from tests.engines import engine_binary
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

LONG = "Tell me everything about the sea. " * 8
"""Long enough to be worth a snapshot, and to see what of it came out of the cache."""
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a city.",
    "parameters": {
        "type": "object",
        "properties": {"days": {"type": "integer"}},
        "required": ["days"],
        "additionalProperties": False,
    },
    "strict": True,
}
SESSIONS = {"min_tokens": 16}


class Verdict(BaseModel):
    """What the model is made to answer."""

    stars: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves `chat`, and `calls` for tools and schemas."""
    folder = tmp_path_factory.mktemp("responses")
    model = make_llama_gguf(folder / "calls.gguf", ctx=4096, calls=True)
    calls = {
        "model": {"model_path": str(model)},
        "context": {"ctx_size": 2048},
        "engine": {"binary": engine_binary()},
    }
    with running(folder, {"chat": chat_config(folder, sessions=SESSIONS), "calls": calls}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def oai(served: GatewayProcess) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


@pytest.fixture(scope="module")
def alice(served: GatewayProcess) -> Iterator[openai.OpenAI]:
    """Somebody else."""
    secret = hugind(served.home, "user", "create", "alice").stdout.strip()
    with client_of(served, secret) as client:
        yield client


def client_of(gateway: GatewayProcess, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0)


def ask(client: openai.OpenAI, given: Any, **more: Any) -> Response:
    response: Response = client.responses.create(
        **{"model": "chat", "input": given, "max_output_tokens": 8, "temperature": 0, **more}
    )
    return response


def cached(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


def texts(page: Any) -> list[str]:
    return [item.content[0].text for item in page]


def test_a_response_is_kept(oai: openai.OpenAI) -> None:
    """What was answered can be looked at again, with what it was made from; until it is deleted."""
    made = ask(oai, "hello", instructions="Be brief.", metadata={"topic": "sea"}, store=True)

    assert made.id.startswith("resp_")
    assert made.output_text
    assert ("incomplete", "max_output_tokens") == (
        made.status,
        made.incomplete_details and made.incomplete_details.reason,
    )
    assert ("Be brief.", {"topic": "sea"}, "chat") == (made.instructions, made.metadata, made.model)
    assert made.usage
    assert 8 == made.usage.output_tokens
    assert made == oai.responses.retrieve(made.id)
    assert ["hello"] == texts(oai.responses.input_items.list(made.id))

    oai.responses.delete(made.id)

    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        oai.responses.delete(made.id)
    with pytest.raises(openai.BadRequestError) as gone:
        ask(oai, "go on", previous_response_id=made.id)
    assert ("previous_response_not_found", "previous_response_id") == (gone.value.code, gone.value.param)


def test_not_stored(oai: openai.OpenAI) -> None:
    """With `store: false` an id leads nowhere."""
    made = ask(oai, "hello", store=False)

    assert made.output_text
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(made.id)


def test_a_conversation_goes_on_and_forks(oai: openai.OpenAI) -> None:
    """Each response is a point to go on from, whatever came of it meanwhile; the past is not computed again."""
    first = ask(oai, LONG)
    second = ask(oai, "And the wind?", previous_response_id=first.id)
    fork = ask(oai, "And the sand?", previous_response_id=first.id)
    third = ask(oai, "Why?", previous_response_id=second.id)

    assert first.usage
    past = first.usage.input_tokens
    assert 0 == cached(first)
    assert min(cached(second), cached(fork)) > past
    assert cached(third) > cached(second)
    said = texts(oai.responses.input_items.list(third.id, order="asc"))
    assert [LONG, first.output_text, "And the wind?", second.output_text, "Why?"] == said
    assert [LONG, first.output_text, "And the sand?"] == texts(oai.responses.input_items.list(fork.id, order="asc"))
    assert ["Why?", second.output_text] == texts(oai.responses.input_items.list(third.id, limit=2).data)
    assert said[::-1] == texts(oai.responses.input_items.list(third.id, limit=2))  # page by page


def test_what_others_go_on_from_stays(oai: openai.OpenAI) -> None:
    """A deleted response is seen by nobody, and remembered by those that it led to."""
    first = ask(oai, "one")
    second = ask(oai, "two", previous_response_id=first.id)
    oai.responses.delete(first.id)
    third = ask(oai, "three", previous_response_id=second.id)

    said = texts(oai.responses.input_items.list(third.id, order="asc"))
    assert ["one", first.output_text, "two", second.output_text, "three"] == said


def test_instructions_are_not_carried_over(oai: openai.OpenAI) -> None:
    """As with OpenAI: each request says its own."""
    plain = ask(oai, "hello")
    first = ask(oai, "hello", instructions="Be brief, and then some more.")
    assert plain.usage
    assert first.usage
    extra = first.usage.input_tokens - plain.usage.input_tokens
    without = ask(oai, "more", previous_response_id=first.id)
    again = ask(oai, "more", previous_response_id=first.id, instructions="Be brief, and then some more.")

    assert extra > 0
    assert without.usage
    assert again.usage
    assert extra == again.usage.input_tokens - without.usage.input_tokens
    assert without.instructions is None


def test_streamed_as_the_library_reads_it(oai: openai.OpenAI) -> None:
    """Its own helper puts the events together; what it gets is what is kept."""
    with oai.responses.stream(
        model="calls", input="hello", text_format=Verdict, max_output_tokens=50, temperature=0
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]

    assert ["response.created", "response.in_progress", "response.output_item.added"] == kinds[:3]
    assert "response.completed" == kinds[-1]
    assert list(range(len(events))) == [event.sequence_number for event in events]
    assert final.output_parsed == Verdict(stars=3)
    assert final.output_text == "".join(event.delta for event in deltas)
    (message,) = final.output
    assert isinstance(message, ResponseOutputMessage)
    assert {message.id} == {event.item_id for event in deltas}
    kept = oai.responses.retrieve(final.id)
    assert (final.id, final.output_text, final.usage) == (kept.id, kept.output_text, kept.usage)
    assert ask(oai, "more", previous_response_id=final.id).output_text

    with oai.responses.create(model="chat", input="hello", max_output_tokens=8, stream=True) as cut:
        assert "response.incomplete" == list(cut)[-1].type


def test_a_tool_is_called_and_answered(oai: openai.OpenAI) -> None:
    """The call and its result are items of the conversation."""
    asked: dict[str, Any] = {"model": "calls", "max_output_tokens": 100, "tools": [TOOL]}
    first = ask(oai, "Weather?", **asked, tool_choice="required")
    (call,) = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert ("weather", {"days": 3}) == (call.name, json.loads(call.arguments))
    assert "completed" == first.status
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = ask(oai, [result], **asked, previous_response_id=first.id)

    assert first.usage
    assert cached(second) > first.usage.input_tokens
    items = oai.responses.input_items.list(second.id, order="asc").data
    assert ["message", "function_call", "function_call_output"] == [item.type for item in items]

    with oai.responses.stream(input="Weather?", tool_choice="required", **asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert isinstance(streamed.output[0], ResponseFunctionToolCall)
    assert json.loads(call.arguments) == json.loads(streamed.output[0].arguments)  # a blank here or there is by chance


def test_structured_output(oai: openai.OpenAI) -> None:
    """`text.format` holds, which the engine's own route does not know."""
    parsed = oai.responses.parse(model="calls", input="How was it?", text_format=Verdict, max_output_tokens=50)

    assert Verdict(stars=3) == parsed.output_parsed


def test_references_to_items(oai: openai.OpenAI) -> None:
    """What is kept can be said again by its id."""
    first = ask(oai, "hello")
    item: Any = {"type": "item_reference", "id": first.output[0].id}
    second = ask(oai, [{"role": "user", "content": "hello"}, item, {"role": "user", "content": "more"}])

    assert ["more", first.output_text, "hello"] == texts(oai.responses.input_items.list(second.id))
    talk = oai.conversations.create()
    ask(oai, [item, item, {"role": "user", "content": "more"}], conversation=talk.id)
    assert [first.output_text] * 2 == texts(oai.conversations.items.list(talk.id, order="asc"))[:2]
    with pytest.raises(openai.BadRequestError, match="no item"):
        ask(oai, [{**item, "id": "msg_" + "0" * 36}])


def test_a_conversation(oai: openai.OpenAI) -> None:
    """Responses add to it what was asked and answered; so can the client, and take away again."""
    talk = oai.conversations.create(metadata={"a": "b"}, items=[{"role": "user", "content": LONG}])
    first = ask(oai, "Go on.", conversation=talk.id)
    second = ask(oai, "And then?", conversation={"id": talk.id})

    assert first.conversation
    assert first.conversation.id == talk.id
    assert first.usage
    assert cached(second) > first.usage.input_tokens
    listed = list(oai.conversations.items.list(talk.id, order="asc", limit=2))
    assert [LONG, "Go on.", first.output_text, "And then?", second.output_text] == texts(listed)
    assert [LONG, "Go on."] == texts(oai.responses.input_items.list(first.id, order="asc"))
    item_id = str(listed[3].id)
    assert listed[3] == oai.conversations.items.retrieve(item_id, conversation_id=talk.id)
    oai.conversations.items.delete(item_id, conversation_id=talk.id)
    added = oai.conversations.items.create(talk.id, items=[{"role": "user", "content": "Aside."}])
    assert ["Aside."] == texts(added.data)
    left = texts(oai.conversations.items.list(talk.id))
    assert ["Aside.", second.output_text, first.output_text, "Go on.", LONG] == left
    branch = ask(oai, "Elsewhere.", previous_response_id=first.id)
    assert [LONG, "Go on.", first.output_text, "Elsewhere."] == texts(
        oai.responses.input_items.list(branch.id, order="asc")
    )

    assert {"c": "d"} == oai.conversations.update(talk.id, metadata={"c": "d"}).metadata
    assert {"c": "d"} == oai.conversations.retrieve(talk.id).metadata
    oai.conversations.delete(talk.id)
    with pytest.raises(openai.NotFoundError):
        oai.conversations.retrieve(talk.id)
    with pytest.raises(openai.NotFoundError):
        ask(oai, "Go on.", conversation=talk.id)


def test_an_older_part_is_left_out(oai: openai.OpenAI) -> None:
    """With `truncation: auto` a conversation goes on when it has become too long; else it is refused."""
    first = ask(oai, "word " * 300)
    second = ask(oai, "word " * 80, previous_response_id=first.id)

    with pytest.raises(openai.BadRequestError, match="exceed"):
        ask(oai, "word " * 80, previous_response_id=second.id)
    third = ask(oai, "word " * 80, previous_response_id=second.id, truncation="auto")
    assert third.usage
    assert third.usage.input_tokens < 2048
    assert 5 == len(oai.responses.input_items.list(third.id).data)


def test_what_is_refused(oai: openai.OpenAI) -> None:
    """Clearly, and by the field's name."""
    for more, param in (
        ({"background": True}, "background"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"input": []}, "input"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(oai, more.get("input", "hello"), **{key: value for key, value in more.items() if key != "input"})
        assert param == refused.value.param
    made = ask(oai, "hello")
    with pytest.raises(openai.BadRequestError):
        oai.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError):
        oai.responses.retrieve(made.id, stream=True)


def test_nobody_sees_anothers(oai: openai.OpenAI, alice: openai.OpenAI) -> None:
    """Whatever id somebody names."""
    made = ask(oai, "secret")
    talk = oai.conversations.create(items=[{"role": "user", "content": "secret"}])
    item_id = str(made.output[0].id)

    for attempt in (
        lambda: alice.responses.retrieve(made.id),
        lambda: alice.responses.delete(made.id),
        lambda: alice.responses.cancel(made.id),
        lambda: alice.responses.input_items.list(made.id),
        lambda: alice.conversations.retrieve(talk.id),
        lambda: alice.conversations.update(talk.id, metadata={}),
        lambda: alice.conversations.delete(talk.id),
        lambda: alice.conversations.items.list(talk.id),
        lambda: alice.conversations.items.create(talk.id, items=[{"role": "user", "content": "x"}]),
        lambda: ask(alice, "x", conversation=talk.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    with pytest.raises(openai.BadRequestError) as previous:
        ask(alice, "x", previous_response_id=made.id)
    assert "previous_response_not_found" == previous.value.code
    with pytest.raises(openai.BadRequestError, match="no item"):
        ask(alice, [{"type": "item_reference", "id": item_id}])
    assert made == oai.responses.retrieve(made.id)
    assert "secret" == texts(oai.conversations.items.list(talk.id))[0]

    assert 0 == cached(ask(alice, "secret"))


def test_forgetting(served: GatewayProcess, alice: openai.OpenAI, oai: openai.OpenAI) -> None:
    """`DELETE /v1/me/sessions` takes what is kept of the caller with it, and of nobody else."""
    made, talk, others = ask(alice, "hello"), alice.conversations.create(), ask(oai, "hello")

    httpx.delete(
        f"{served.url}/v1/me/sessions", headers={"Authorization": f"Bearer {alice.api_key}"}
    ).raise_for_status()

    with pytest.raises(openai.NotFoundError):
        alice.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        alice.conversations.retrieve(talk.id)
    assert oai.responses.retrieve(others.id)


def test_after_a_restart(tmp_path: Path) -> None:
    """What was said, and what was computed of it, is still there."""
    config = chat_config(tmp_path, sessions=SESSIONS)
    with running(tmp_path, {"chat": config}) as gateway, client_of(gateway) as oai:
        first = ask(oai, LONG)
        second = ask(oai, "And the wind?", previous_response_id=first.id)
    with running(tmp_path, {"chat": config}) as gateway, client_of(gateway) as oai:
        assert first == oai.responses.retrieve(first.id)
        third = ask(oai, "Why?", previous_response_id=second.id)
        fork = ask(oai, "And the sand?", previous_response_id=first.id)

        assert second.usage
        assert first.usage
        assert cached(third) > second.usage.input_tokens
        assert cached(fork) > first.usage.input_tokens
