"""Real client libraries against a real gateway on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.gateway_process import KEY, GatewayProcess

pytestmark = pytest.mark.e2e

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def oai(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_models(oai: openai.OpenAI) -> None:
    """The engines are the models."""
    assert ["chat", "embed"] == [model.id for model in oai.models.list()]
    assert "embed" == oai.models.retrieve("embed").id


def test_openai_chats(oai: openai.OpenAI) -> None:
    """An answer, its usage and its end."""
    answer = oai.chat.completions.create(model="chat", messages=HELLO, max_tokens=8)

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage
    assert 1 <= answer.usage.completion_tokens <= 8


def test_openai_streams_the_same_chat(oai: openai.OpenAI) -> None:
    """Streamed or not, the text is the same."""
    asked: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = oai.chat.completions.create(**asked).choices[0].message.content
    chunks = list(oai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    assert whole == streamed
    assert chunks[-1].usage


def test_openai_completes(oai: openai.OpenAI) -> None:
    """One prompt or several, streamed or not."""
    one = oai.completions.create(model="chat", prompt="once", max_tokens=4)
    two = oai.completions.create(model="chat", prompt=["once", "twice"], max_tokens=4)
    streamed = list(oai.completions.create(model="chat", prompt="once", max_tokens=4, stream=True))

    assert one.choices[0].text
    assert [0, 1] == [choice.index for choice in two.choices]
    assert all(choice.text for choice in two.choices)
    assert len(streamed) > 1


def test_openai_responds(oai: openai.OpenAI) -> None:
    """The Responses API, whole and streamed."""
    whole = oai.responses.create(model="chat", input="hello", max_output_tokens=8)
    with oai.responses.create(model="chat", input="hello", max_output_tokens=8, stream=True) as stream:
        kinds = [event.type for event in stream]

    assert whole.output_text
    assert ("response.created", "response.completed") == (kinds[0], kinds[-1])


def test_openai_embeds(oai: openai.OpenAI) -> None:
    """One input or several."""
    answer = oai.embeddings.create(model="embed", input=["one", "two"], encoding_format="float")

    assert 2 == len(answer.data)
    assert 64 == len(answer.data[0].embedding)
    assert answer.data[0].embedding != answer.data[1].embedding


def test_openai_sees_its_own_errors(oai: openai.OpenAI, gateway: GatewayProcess) -> None:
    """The library's exceptions, with code and parameter."""
    with pytest.raises(openai.NotFoundError) as unknown:
        oai.chat.completions.create(model="nope", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="a number from 1 to 16") as choices:
        oai.chat.completions.create(model="chat", messages=HELLO, n=17)
    with pytest.raises(openai.BadRequestError, match="exceed") as long:
        oai.chat.completions.create(model="chat", messages=[{"role": "user", "content": "word " * 5000}])
    with (
        openai.OpenAI(base_url=gateway.url + "/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()

    assert ("model_not_found", "model") == (unknown.value.code, unknown.value.param)
    assert ("unsupported_value", "n") == (choices.value.code, choices.value.param)
    assert "exceed_context_size_error" == long.value.type


def test_openai_gets_several_choices(oai: openai.OpenAI) -> None:
    """`n` of them, each of its own making, in one answer."""
    answer = oai.chat.completions.create(model="chat", messages=HELLO, n=3, max_tokens=8, temperature=1, seed=1)

    assert [0, 1, 2] == [choice.index for choice in answer.choices]
    assert 3 == len({choice.message.content for choice in answer.choices})
    assert answer.usage is not None
    assert 24 == answer.usage.completion_tokens


def test_anthropic_gets_messages(claude: anthropic.Anthropic) -> None:
    """A message with content, a stop reason and usage."""
    message = claude.messages.create(model="chat", max_tokens=8, messages=HELLO, system="Be brief.")

    assert "text" == message.content[0].type
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert 1 <= message.usage.output_tokens <= 8


def test_anthropic_streams_the_same_message(claude: anthropic.Anthropic) -> None:
    """Streamed or not, the text is the same."""
    asked: dict[str, Any] = {"model": "chat", "max_tokens": 12, "messages": HELLO, "extra_body": {"temperature": 0}}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert "text" == whole.content[0].type
    assert whole.content[0].text == text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    """What a request would cost, without running it."""
    few = claude.messages.count_tokens(model="chat", messages=HELLO).input_tokens
    many = claude.messages.count_tokens(model="chat", messages=[{"role": "user", "content": "hello " * 20}])

    assert 0 < few < many.input_tokens


def test_anthropic_sees_its_own_errors(claude: anthropic.Anthropic, gateway: GatewayProcess) -> None:
    """The library's exceptions, with type and request id."""
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="nope", max_tokens=1, messages=HELLO)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="chat", max_tokens=1, messages=HELLO)

    body: Any = unknown.value.body
    assert ("error", "not_found_error") == (body["type"], body["error"]["type"])
    assert body["request_id"] == unknown.value.response.headers["x-request-id"]


def test_a_wrong_model_for_the_task_is_refused_clearly(gateway: GatewayProcess) -> None:
    """Chat, embeddings and reranking each need an engine made for it."""
    asked = [
        ("/v1/rerank", {"model": "chat", "query": "q", "documents": ["a"]}, "serves chat", "rerank"),
        ("/v1/embeddings", {"model": "chat", "input": "a"}, "serves chat", "embedding"),
        ("/v1/chat/completions", {"model": "embed", "messages": HELLO}, "serves embedding", "chat"),
        ("/v1/messages", {"model": "embed", "messages": HELLO, "max_tokens": 1}, "serves embedding", "chat"),
    ]
    for path, body, serves, needs in asked:
        answer = gateway.client.post(path, json=body)
        message = answer.json()["error"]["message"]

        assert 400 == answer.status_code
        assert serves in message
        assert f"a model for {needs}" in message


def test_the_engines_own_routes(gateway: GatewayProcess) -> None:
    """Tokens there and back; what this model cannot do is refused in the engine's own words."""
    tokens = gateway.client.post("/tokenize", json={"model": "chat", "content": "hello"}).json()["tokens"]
    text = gateway.client.post("/detokenize", json={"model": "chat", "tokens": tokens}).json()["content"]
    filled = gateway.client.post("/infill", json={"model": "chat", "input_prefix": "a", "input_suffix": "b"})

    assert "hello" == text.strip()
    assert (501, "not_supported_error") == (filled.status_code, filled.json()["error"]["type"])


def test_a_refusal_has_the_engines_words(gateway: GatewayProcess) -> None:
    """What the engine says of a request without a slot reaches the client."""
    refused = gateway.client.post("/detokenize", json={"model": "chat", "tokens": ["a"]})

    assert refused.status_code == 400
    assert "type must be number" in refused.json()["error"]["message"]


def test_only_health_needs_no_key(gateway: GatewayProcess) -> None:
    """Everything else is 401 without one, unknown paths included."""
    client = gateway.client
    asked = {
        path: client.get(path, headers={"Authorization": ""}).status_code
        for path in ("/health", "/livez", "/readyz", "/version", "/v1/models", "/admin/v1/engines", "/slots", "/nope")
    }
    posted = {
        path: client.post(path, headers={"Authorization": ""}, json={}).status_code
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/tokenize")
    }

    assert {"/health": 200, "/livez": 200, "/readyz": 200} == {p: s for p, s in asked.items() if s != 401}
    assert {401} == set(posted.values())


def test_each_dialect_has_its_own_errors(gateway: GatewayProcess) -> None:
    """OpenAI's shape everywhere, Anthropic's under /v1/messages; never a bare `detail`."""
    for path in ("/v1/chat/completions", "/v1/responses", "/nope"):
        body = gateway.client.post(path, json={"model": "nope"}).json()

        assert ["code", "message", "param", "type"] == sorted(body["error"])
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"):
        body = gateway.client.post(path, json={"model": "nope"}).json()

        assert ["error", "request_id", "type"] == sorted(body)
        assert ["message", "type"] == sorted(body["error"])
