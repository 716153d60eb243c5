"""Real client libraries against a real gateway on the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import anthropic
import openai
import pytest

from hugind.supervisor.aliases import Alias, Aliases
from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.engines import engine_binary
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
CLOCK: Any = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
THINKS = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and m.reasoning_content -%}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%- endif -%}"
    "{{ m.content + '<|im_end|>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\n\n</think>\n\n' }}"
    "{%- else -%}{{ '<think>\n' }}{%- endif -%}{%- endif -%}"
)


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves `calls`, which calls tools whenever it can, its alias `brief`, `thinks`, and `rerank`."""
    folder = tmp_path_factory.mktemp("special")
    template = folder / "thinks.jinja"
    template.write_text(THINKS)
    calls = chat_config(folder, context={"ctx_size": 4096}, sampling={"temp": 0})
    calls["model"] = {"model_path": str(make_llama_gguf(folder / "calls.gguf", ctx=4096, calls=True))}
    rerank = {
        "model": {"model_path": str(make_llama_gguf(folder / "rerank.gguf", ctx=512)), "task": "rerank"},
        "context": {"ctx_size": 512},
        "engine": {"binary": engine_binary()},
    }
    thinks = chat_config(folder, chat={"template_file": str(template)})
    with running(folder, {"calls": calls, "thinks": thinks, "rerank": rerank}) as process:
        said = ({"role": "user", "content": "be brief"}, {"role": "assistant", "content": "yes"})
        Aliases(process.home).put("brief", Alias(model="calls", system="Say little.", messages=said))
        yield process


@pytest.fixture
def able(special: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=special.url + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def able_claude(special: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=special.url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def oai(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_models(oai: openai.OpenAI) -> None:
    """The engines are the models, with what they can do, how much they take at once, and how they are."""
    chat, embed = oai.models.list()
    about: Any = chat.model_dump()["meta"]

    assert ("chat", "embed", "embed") == (chat.id, embed.id, oai.models.retrieve("embed").id)
    assert (["completion"], 2048, 4096, "ready") == (
        about["capabilities"],
        about["n_ctx"],
        about["n_ctx_train"],
        about["state"],
    )
    assert ["embedding"] == embed.model_dump()["meta"]["capabilities"]


def test_openai_lists_aliases(able: openai.OpenAI) -> None:
    """As models of their own that say what they stand for."""
    calls, _, _, brief = able.models.list()

    assert ("brief", "calls") == (brief.id, brief.model_dump()["parent"])
    assert ["completion", "tools"] == calls.model_dump()["meta"]["capabilities"]
    assert "brief" == able.models.retrieve("brief:latest").id


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


def test_openai_says_what_it_counted_only_where_asked(oai: openai.OpenAI) -> None:
    """Without `include_usage` no chunk has any, and each has a choice."""
    chunks = list(oai.chat.completions.create(model="chat", messages=HELLO, max_tokens=3, stream=True))

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_openai_shapes_answers(oai: openai.OpenAI) -> None:
    """Limits, seeds, stops, penalties and biases, each of which shows."""

    def say(**fields: Any) -> str:
        asked = {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 1, **fields}
        return oai.chat.completions.create(**asked).choices[0].message.content or ""

    plain = say()
    one_seed, same_seed, other_seed = (say(temperature=1.5, seed=seed) for seed in (5, 5, 6))
    token = oai.post("/../tokenize", body={"model": "chat", "content": "Q"}, cast_to=object)

    assert plain[:3] == say(max_tokens=openai.omit, max_completion_tokens=3)
    assert (True, False) == (one_seed == same_seed, one_seed == other_seed)
    assert plain.partition(plain[4])[0] == say(stop=plain[4]) == say(stop=["no such", plain[4]])
    assert plain != say(presence_penalty=2, frequency_penalty=2)
    assert "Q" * 12 == say(logit_bias={str(token["tokens"][-1]): 100})  # type: ignore[index]


def test_openai_sees_probabilities(oai: openai.OpenAI) -> None:
    """Of the tokens that were chosen, and of those that might have been; streamed or not; of completions, too."""
    asked: Any = {"model": "chat", "messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    whole = oai.chat.completions.create(**asked).choices[0].logprobs
    chunks = oai.chat.completions.create(**asked, stream=True)
    streamed = [
        token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or ()
    ]
    assert whole
    assert whole.content
    assert (3, 3) == (len(whole.content), len(streamed))
    assert all(2 == len(token.top_logprobs) and token.logprob <= 0 for token in [*whole.content, *streamed])

    asked = {"model": "chat", "prompt": "once", "max_tokens": 3, "logprobs": 2}
    completion = oai.completions.create(**asked).choices[0]
    parts = [chunk.choices[0].logprobs for chunk in oai.completions.create(**asked, stream=True)]
    assert completion.logprobs
    assert completion.text == "".join(completion.logprobs.tokens or ())
    assert [0, 1, 2] == completion.logprobs.text_offset
    assert [0, 1, 2] == [offset for part in parts if part for offset in part.text_offset or ()]


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_openai_gets_json(able: openai.OpenAI, kind: str) -> None:
    """Of a schema, or any; streamed or not; the library's own parser reads it."""
    schema = {"type": "json_schema", "json_schema": {"name": "where", "strict": True, "schema": CITY}}
    asked: Any = {
        "model": "calls",
        "messages": HELLO,
        "max_tokens": 60,
        "response_format": schema if kind == "json_schema" else {"type": kind},
    }
    whole = able.chat.completions.create(**asked).choices[0]
    streamed = "".join(
        choice.delta.content or ""
        for chunk in able.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
    )
    parsed = json.loads(whole.message.content or "")

    assert "stop" == whole.finish_reason
    assert parsed == json.loads(streamed)
    assert isinstance(parsed, dict)
    if kind == "json_schema":
        assert parsed["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("is_stream", [False, True])
def test_openai_calls_tools(able: openai.OpenAI, is_stream: bool) -> None:
    """One that must be called, one by its name, one that may be; none; and what came of it goes back."""

    def ask(**fields: Any) -> Any:
        asked: Any = {
            "model": "calls", "messages": HELLO, "max_tokens": 120, "tools": [WEATHER, CLOCK],
            "parallel_tool_calls": False, **fields,
        }  # fmt: skip
        if not is_stream:
            return able.chat.completions.create(**asked).choices[0]
        with able.chat.completions.stream(**asked) as stream:
            return stream.get_final_completion().choices[0]

    for choice in ("auto", "required"):
        free = ask(tool_choice=choice)
        assert "tool_calls" == free.finish_reason
        assert free.message.tool_calls[0].function.name in ("get_weather", "get_time")
    for name in ("get_weather", "get_time"):
        called = ask(tool_choice={"type": "function", "function": {"name": name}})
        assert [name] == [call.function.name for call in called.message.tool_calls]
    called = ask(tool_choice={"type": "function", "function": {"name": "get_weather"}})
    call = called.message.tool_calls[0]
    said = {
        "id": call.id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": call.function.arguments},
    }
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = ask(
        messages=[*HELLO, {"role": "assistant", "content": None, "tool_calls": [said]}, result], tools=[WEATHER]
    )
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert after.finish_reason == "tool_calls"


def test_openai_calls_no_tool_where_none_is_wanted(able: openai.OpenAI) -> None:
    """Though it is told of them."""
    answer = able.chat.completions.create(
        model="calls", messages=HELLO, max_tokens=4, tools=[WEATHER], tool_choice="none"
    )

    assert not answer.choices[0].message.tool_calls


def test_openai_calls_functions_as_of_old(able: openai.OpenAI) -> None:
    """In the words of older clients, streamed or not, and back."""
    asked: Any = {
        "model": "calls", "messages": HELLO, "max_tokens": 120, "functions": [WEATHER["function"]],
        "function_call": {"name": "get_weather"},
    }  # fmt: skip
    whole = able.chat.completions.create(**asked).choices[0]
    choices = [choice for chunk in able.chat.completions.create(**asked, stream=True) for choice in chunk.choices]
    pieces = [choice.delta.function_call for choice in choices if choice.delta.function_call]
    call = whole.message.function_call
    assert call
    result = {"role": "function", "name": "get_weather", "content": "sunny"}
    said = {"role": "assistant", "content": None, "function_call": call.model_dump()}
    after = able.chat.completions.create(**{**asked, "messages": [*HELLO, said, result], "function_call": "auto"})

    assert ("function_call", "function_call") == (whole.finish_reason, choices[-1].finish_reason)
    assert whole.message.tool_calls is None
    assert ("get_weather", call.name) == (call.name, pieces[0].name)
    assert json.loads(call.arguments) == json.loads("".join(piece.arguments or "" for piece in pieces))
    assert "function_call" == after.choices[0].finish_reason


def test_openai_calls_functions_several_times_over(able: openai.OpenAI) -> None:
    """With `n`, too."""
    answer = able.chat.completions.create(
        model="calls", messages=HELLO, max_tokens=120, functions=[WEATHER["function"]], n=2
    )

    assert ["function_call"] * 2 == [choice.finish_reason for choice in answer.choices]


def test_openai_thinks_as_hard_as_told(able: openai.OpenAI) -> None:
    """`reasoning_effort` none: not at all."""
    asked: Any = {"model": "thinks", "messages": HELLO, "max_tokens": 8}
    thinking = able.chat.completions.create(**asked).choices[0].message.model_dump()
    plain = able.chat.completions.create(**asked, reasoning_effort="none").choices[0].message.model_dump()

    assert ("", 8) == (thinking["content"], len(thinking["reasoning_content"]))
    assert (8, None) == (len(plain["content"]), plain.get("reasoning_content"))


def test_openai_says_things_in_many_ways(oai: openai.OpenAI) -> None:
    """Developers, parts of a content, fields that mean nothing here and ones that nobody knows."""
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    ]
    answer = oai.chat.completions.create(
        model="chat",
        messages=messages,
        max_tokens=3,
        user="somebody",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        modalities=["text"],
        prediction={"type": "content", "content": "hello"},
        verbosity="low",
        extra_body={"nobody_knows": [1]},
    )

    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "unsupported_value"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_value"),
        ({"tools": [WEATHER]}, "tools", "unsupported_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", None),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice",
            None,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format", "unsupported_value"),
        ({"temperature": "warm"}, None, None),
        ({"messages": [{"content": "no role"}]}, "messages[0].role", None),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}]}]},
            None,
            None,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nope"}}}},
            None,
            None,
        ),
    ],
)  # fmt: skip
def test_openai_is_refused_what_cannot_be_had(
    oai: openai.OpenAI, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    """400, with the field where it is we who refuse, else in the engine's words. A 500 would be asked again."""
    asked: Any = {"model": "chat", "messages": HELLO, "max_tokens": 4, **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        oai.chat.completions.create(**asked)

    assert (param, code) == (refused.value.param, refused.value.code)


def test_openai_may_speak_of_tools_to_a_model_that_has_none(oai: openai.OpenAI) -> None:
    """A conversation that comes from another model goes on, with what tools said in it."""
    call: Any = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
    said: Any = {"role": "assistant", "content": None, "tool_calls": [call]}
    result: Any = {"role": "tool", "tool_call_id": "c", "content": "sunny " * 20}
    asked: Any = {"model": "chat", "max_tokens": 2}
    without = oai.chat.completions.create(**asked, messages=HELLO).usage
    answer = oai.chat.completions.create(**asked, messages=[*HELLO, said, result]).usage

    assert without
    assert answer
    assert answer.prompt_tokens > without.prompt_tokens + 120


def test_openai_completes(oai: openai.OpenAI) -> None:
    """One prompt or several, streamed or not."""
    one = oai.completions.create(model="chat", prompt="once", max_tokens=4)
    two = oai.completions.create(model="chat", prompt=["once", "twice"], max_tokens=4)
    streamed = list(oai.completions.create(model="chat", prompt="once", max_tokens=4, stream=True))

    assert one.choices[0].text
    assert [0, 1] == [choice.index for choice in two.choices]
    assert all(choice.text for choice in two.choices)
    assert len(streamed) > 1
    for fields in ({"echo": True}, {"suffix": "end"}, {"best_of": 2}):
        with pytest.raises(openai.BadRequestError) as refused:
            oai.completions.create(**{"model": "chat", "prompt": "once", "max_tokens": 4, **fields})  # type: ignore[call-overload]
        assert ([refused.value.param], "unsupported_value") == (list(fields), refused.value.code)


def test_openai_responds(oai: openai.OpenAI) -> None:
    """The Responses API, whole and streamed."""
    whole = oai.responses.create(model="chat", input="hello", max_output_tokens=8)
    with oai.responses.create(model="chat", input="hello", max_output_tokens=8, stream=True) as stream:
        kinds = [event.type for event in stream]

    assert whole.output_text
    assert ("response.created", "response.incomplete") == (kinds[0], kinds[-1])


def test_openai_embeds(oai: openai.OpenAI) -> None:
    """One input or several."""
    answer = oai.embeddings.create(model="embed", input=["one", "two"], encoding_format="float")

    assert 2 == len(answer.data)
    assert 64 == len(answer.data[0].embedding)
    assert answer.data[0].embedding != answer.data[1].embedding


def test_openai_embeds_in_other_forms(oai: openai.OpenAI) -> None:
    """The library asks for base64; tokens, few dimensions; more than there are is refused."""
    plain = oai.embeddings.create(model="embed", input="one", encoding_format="float").data[0].embedding
    packed = oai.embeddings.create(model="embed", input="one").data[0].embedding
    tokens = oai.embeddings.create(model="embed", input=[[5, 6], [7]])
    for form in ("float", "base64"):
        few: Any = oai.embeddings.create(model="embed", input="one", dimensions=8, encoding_format=form)
        if form == "float":
            assert 1 == pytest.approx(sum(value**2 for value in few.data[0].embedding))
    cut = oai.embeddings.create(model="embed", input="one", dimensions=8).data[0].embedding

    assert plain == pytest.approx(packed, abs=1e-6)
    assert 2 == len(tokens.data)
    assert [value / cut[0] for value in cut] == pytest.approx([value / plain[0] for value in plain[:8]], rel=1e-3)
    with pytest.raises(openai.BadRequestError, match="the model has 64") as refused:
        oai.embeddings.create(model="embed", input="one", dimensions=65)
    with pytest.raises(openai.BadRequestError, match="too large"):
        oai.embeddings.create(model="embed", input="word " * 600)
    assert "dimensions" == refused.value.param


def test_reranking(special: GatewayProcess) -> None:
    """Texts or objects, the best of them, with their words where asked for."""
    documents: list[Any] = ["one", {"text": "two"}, "three"]
    asked = {"model": "rerank", "query": "which", "documents": documents}
    whole = special.client.post("/v1/rerank", json=asked).json()
    best = special.client.post("/v1/rerank", json={**asked, "top_n": 2, "return_documents": True}).json()
    none = special.client.post("/v1/rerank", json={**asked, "top_n": 0})

    assert {0, 1, 2} == {result["index"] for result in whole["results"]}
    assert 2 == len(best["results"])
    for result in best["results"]:
        assert {"text": ("one", "two", "three")[result["index"]]} == result["document"]
    assert (400, "top_n") == (none.status_code, none.json()["error"]["param"])


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


def test_anthropic_counts_what_a_turn_will_read(able_claude: anthropic.Anthropic) -> None:
    """With a system prompt, with tools, and what an alias puts before: exactly what is read then."""
    tools: Any = [{"name": "get_weather", "input_schema": CITY}]
    for model in ("calls", "brief"):
        for more in ({}, {"system": "Be brief."}, {"tools": tools}):
            asked: Any = {"model": model, "messages": HELLO, **more}
            counted = able_claude.messages.count_tokens(**asked).input_tokens
            usage = able_claude.messages.create(**asked, max_tokens=1).usage

            assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_anthropic_lists_models(able_claude: anthropic.Anthropic) -> None:
    """In its own shape, page by page; each by its name."""
    first = able_claude.models.list(limit=3)
    everything = [model.id for model in able_claude.models.list(limit=2)]

    assert (True, "calls", "rerank") == (first.has_more, first.first_id, first.last_id)
    assert ["calls", "thinks", "rerank", "brief"] == everything
    assert ("brief", "model") == (able_claude.models.retrieve("brief").id, first.data[0].type)
    assert first.data[0].created_at.year >= 2024


def test_anthropic_hears_events_in_order(claude: anthropic.Anthropic) -> None:
    """From the start to the stop, with a ping behind the start."""
    with claude.messages.with_streaming_response.create(
        model="chat", max_tokens=4, messages=HELLO, stream=True
    ) as answer:
        names = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]

    assert ["message_start", "ping"] == names[:2]
    assert [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ] == [name for name, _ in groupby(name for name in names if name != "ping")]  # fmt: skip


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "auto"}])
def test_anthropic_calls_tools(able_claude: anthropic.Anthropic, choice: Any) -> None:
    """The input comes piece by piece, and what came of the call goes back, well or badly."""
    tools: Any = [{"name": "get_weather", "description": "How it is", "input_schema": CITY}]
    asked: Any = {"model": "calls", "max_tokens": 120, "messages": HELLO, "tools": tools, "tool_choice": choice}
    whole = able_claude.messages.create(**asked)
    with able_claude.messages.stream(**asked) as stream:
        deltas = [
            event.delta.partial_json
            for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
        final = stream.get_final_message()
    block = whole.content[-1]

    assert ("tool_use", "tool_use") == (whole.stop_reason, final.stop_reason)
    assert block.type == final.content[-1].type == "tool_use"
    assert block.input == final.content[-1].input == json.loads("".join(deltas))
    assert len(deltas) > 1
    for is_error in (False, True):
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "sunny", "is_error": is_error}
        said = {"role": "assistant", "content": [part.model_dump() for part in whole.content]}
        messages = [*HELLO, said, {"role": "user", "content": [result]}]

        assert "tool_use" == able_claude.messages.create(**{**asked, "messages": messages}).stop_reason


def test_anthropic_thinks_within_its_budget(able_claude: anthropic.Anthropic) -> None:
    """A block of thoughts, then text; without thoughts where they are disabled; and the thoughts may come back."""
    asked: Any = {"model": "thinks", "max_tokens": 40, "messages": HELLO}
    thinking: Any = {"type": "enabled", "budget_tokens": 5}
    with able_claude.messages.stream(**asked, thinking=thinking) as stream:
        final = stream.get_final_message()
    whole = able_claude.messages.create(**asked, thinking=thinking)
    plain = able_claude.messages.create(**asked, thinking={"type": "disabled"})
    said = {"role": "assistant", "content": [block.model_dump() for block in whole.content]}
    after = able_claude.messages.create(**{**asked, "messages": [*HELLO, said, *HELLO]}, thinking=thinking)

    for message in (final, whole, after):
        assert ["thinking", "text"] == [block.type for block in message.content]
        assert len(getattr(message.content[0], "thinking")) <= 5  # noqa: B009
    assert ["text"] == [block.type for block in plain.content]


def test_anthropic_stops_where_it_is_told(claude: anthropic.Anthropic) -> None:
    """At a sequence, which it names, or at the limit."""
    asked: Any = {"model": "chat", "max_tokens": 12, "messages": HELLO, "extra_body": {"temperature": 0}}
    limited = claude.messages.create(**asked)
    assert limited.content[0].type == "text"
    mark = limited.content[0].text[4]
    for stopped in (
        claude.messages.create(**asked, stop_sequences=["no such", mark]),
        _streamed(claude, **asked, stop_sequences=["no such", mark]),
    ):
        assert ("stop_sequence", mark) == (stopped.stop_reason, stopped.stop_sequence)
    assert ("max_tokens", None) == (limited.stop_reason, limited.stop_sequence)


def test_anthropic_ends_its_turn(able_claude: anthropic.Anthropic) -> None:
    """Where the model says so: behind an answer of a schema."""
    config: Any = {"format": {"type": "json_schema", "schema": CITY}}
    message = able_claude.messages.create(
        model="calls", max_tokens=60, messages=HELLO, extra_body={"output_config": config}
    )

    assert "end_turn" == message.stop_reason
    assert message.content[0].type == "text"
    assert json.loads(message.content[0].text)["city"] in ("Paris", "Rome")


def test_anthropic_is_remembered(claude: anthropic.Anthropic) -> None:
    """The second turn reads from the cache what was said in the first; cache marks, betas and ids change nothing."""
    marked = {"type": "text", "text": "Be brief. " * 20, "cache_control": {"type": "ephemeral"}}
    asked: Any = {
        "model": "chat",
        "max_tokens": 8,
        "system": [marked, {"type": "text", "text": "Be kind."}],
        "metadata": {"user_id": "user-of-claude"},
        "extra_headers": {"anthropic-version": "1999-01-01", "anthropic-beta": "some-beta-2025-01-01"},
    }
    first = claude.messages.create(**asked, messages=HELLO)
    assert first.content[0].type == "text"
    messages = [*HELLO, {"role": "assistant", "content": first.content[0].text}, {"role": "user", "content": "and?"}]
    second = claude.messages.create(**asked, messages=messages)

    assert 0 == first.usage.cache_read_input_tokens
    assert (second.usage.cache_read_input_tokens or 0) > first.usage.input_tokens - 8


def test_anthropic_shows_pictures_to_who_cannot_see(claude: anthropic.Anthropic) -> None:
    """400 in the engine's words, not a failure that is tried again."""
    source: Any = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    with pytest.raises(anthropic.BadRequestError, match="image input is not supported"):
        claude.messages.create(model="chat", max_tokens=4, messages=[{"role": "user", "content": content}])


def _streamed(claude: anthropic.Anthropic, **asked: Any) -> Any:
    with claude.messages.stream(**asked) as stream:
        return stream.get_final_message()


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
