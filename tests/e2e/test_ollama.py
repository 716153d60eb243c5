"""The `ollama` package against a real gateway on the real engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import ollama
import orjson
import pytest
from ollama import ResponseError

from hugind.supervisor.aliases import Alias, Aliases
from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.engines import engine_binary
from tests.eventually import eventually_sync
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
THINKS = """{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and m.reasoning_content -%}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif -%}
{{ m.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n<think>\\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}
"""
FEW = {"num_predict": 4}
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=gateway.url, headers=HEADERS) as connected:
        yield connected


@pytest.fixture
def other(special: GatewayProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=special.url, headers=HEADERS) as connected:
        yield connected


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves `caller`, which calls tools, and `thinker`, which may think."""
    folder = tmp_path_factory.mktemp("special")
    template = folder / "thinks.jinja"
    template.write_text(THINKS)
    model = make_llama_gguf(folder / "caller.gguf", calls=True, ctx=4096)
    caller = {"model": {"model_path": str(model)}, "context": {"ctx_size": 2048}, "engine": {"binary": engine_binary()}}
    with running(
        folder, {"caller": caller, "thinker": chat_config(folder, chat={"template_file": str(template)})}
    ) as process:
        yield process


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"rain in {city}"


def refused(call: Any, *arguments: Any, **fields: Any) -> tuple[int, str]:
    """Status and text of the library's error."""
    with pytest.raises(ResponseError) as error:
        call(*arguments, **fields)
    return error.value.status_code, error.value.error


def test_a_chat(client: ollama.Client) -> None:
    """Whole: strictly typed, with figures and an end."""
    answer = client.chat("chat", HELLO, options=FEW)

    assert answer.message.content
    assert ("chat", True, "length", 4) == (answer.model, answer.done, answer.done_reason, answer.eval_count)
    assert answer.prompt_eval_count
    assert answer.total_duration
    assert answer.eval_duration
    assert 0 == answer.load_duration


def test_a_streamed_chat_says_the_same(client: ollama.Client) -> None:
    """Streamed or not, the text is the same; each chunk has a message."""
    asked: dict[str, Any] = {"options": {"num_predict": 12, "temperature": 0, "seed": 1}}
    whole = client.chat("chat", HELLO, **asked)
    chunks = list(client.chat("chat", HELLO, stream=True, **asked))

    assert whole.message.content == "".join(chunk.message.content or "" for chunk in chunks)
    assert [False] * 12 + [True] == [chunk.done for chunk in chunks]
    assert {"assistant"} == {chunk.message.role for chunk in chunks}
    assert (whole.eval_count, whole.done_reason) == (chunks[-1].eval_count, chunks[-1].done_reason)


def test_side_by_side(gateway: GatewayProcess) -> None:
    """With the asynchronous client."""

    async def ask() -> list[str]:
        async with ollama.AsyncClient(host=gateway.url, headers=HEADERS) as client:
            streamed = await client.chat("chat", HELLO, options=FEW, stream=True)
            answer = await client.chat("chat", HELLO, options=FEW)
            return [answer.message.content or "", "".join([chunk.message.content or "" async for chunk in streamed])]

    assert all(asyncio.run(ask()))


def test_a_conversation_comes_from_the_cache(client: ollama.Client, gateway: GatewayProcess) -> None:
    """The next turn of the same conversation, as the library's user would send it."""
    said: list[Any] = [{"role": "user", "content": "tell me of the sea, and of the land behind it " * 4}]
    first = client.chat("chat", said, options=FEW)
    said += [first.message, {"role": "user", "content": "more"}]
    body = {"model": "chat", "messages": [*said[:1], first.message.model_dump(exclude_none=True), said[2]]}
    second = gateway.client.post("/api/chat", json={**body, "options": FEW, "stream": False})

    assert client.chat("chat", said, options=FEW).prompt_eval_count == second.json()["prompt_eval_count"]
    assert second.json()["prompt_eval_cached_count"] > 0
    assert "hot" == second.headers["x-hugind-session"]


def test_prompts(client: ollama.Client) -> None:
    """Whole, streamed, raw, and gone on from."""
    whole = client.generate("chat", "hello", system="be brief", options=FEW)
    chunks = list(client.generate("chat", "hello", stream=True, options=FEW))
    raw = client.generate("chat", "hello", raw=True, options=FEW)
    again = client.generate("chat", "more", context=whole.context, options=FEW)

    assert whole.response
    assert whole.context
    assert "".join(chunk.response or "" for chunk in chunks)
    assert ("length", True) == (chunks[-1].done_reason, bool(chunks[-1].context))
    assert (True, None) == (bool(raw.response), raw.context)
    assert (raw.prompt_eval_count or 0) < (whole.prompt_eval_count or 0) < (again.prompt_eval_count or 0)


def test_formats(client: ollama.Client, other: ollama.Client) -> None:
    """JSON, and JSON of a schema, in chats and prompts, raw ones included."""
    options = {"num_predict": 200}
    chat = other.chat("caller", HELLO, format="json", options=options).message.content or ""
    said = [
        client.chat("chat", HELLO, format=SCHEMA, options=options).message.content or "",
        client.generate("chat", "hello", format=SCHEMA, options=options).response,
        client.generate("chat", "hello", format=SCHEMA, raw=True, options=options).response,
    ]

    assert isinstance(orjson.loads(chat), dict)
    assert [{"a": "x"}] * 3 == [orjson.loads(text or "") for text in said]


def test_options(client: ollama.Client) -> None:
    """Those of sampling count, those of loading do nothing; stops end an answer and are not in it."""
    fixed = {"temperature": 0, "seed": 1, "num_predict": 12}
    text = client.generate("chat", "hello", options=fixed).response or ""
    stopped = client.generate("chat", "hello", options={**fixed, "stop": [text[3:6]]})
    other = client.generate("chat", "hello", options={**fixed, "repeat_penalty": 1.9, "num_ctx": 128, "num_gpu": 0})

    assert "stop" == stopped.done_reason
    assert stopped.response == text[: text.index(text[3:6])]
    assert 12 == other.eval_count
    assert 400 == refused(client.generate, "chat", "hello", options={"num_ctx": "8k"})[0]


def test_logprobs(client: ollama.Client) -> None:
    """Of each token, with its alternatives."""
    chat = client.chat("chat", HELLO, logprobs=True, top_logprobs=2, options=FEW).logprobs
    raw = client.generate("chat", "hello", raw=True, logprobs=True, options=FEW).logprobs
    chunks = list(client.chat("chat", HELLO, stream=True, logprobs=True, options=FEW))

    assert chat
    assert raw
    assert [2] * 4 == [len(token.top_logprobs or ()) for token in chat]
    assert [(4, True), (None, True)] == [
        (len(raw), all(token.logprob <= 0 for token in raw)),
        (raw[0].top_logprobs, all(chunk.logprobs for chunk in chunks[:-1])),
    ]
    assert (400, "top_logprobs must be between 0 and 20") == refused(
        client.chat, "chat", HELLO, logprobs=True, top_logprobs=21
    )


def test_what_this_model_cannot(client: ollama.Client) -> None:
    """Refused as such: clients read the words."""
    seen = [{"role": "user", "content": "what is it?", "images": [PNG]}]

    assert (400, '"chat" does not support thinking') == refused(client.chat, "chat", HELLO, think=True)
    assert (400, '"chat" does not support insert') == refused(client.generate, "chat", "a", suffix="b")
    assert (400, "chat does not support tools") == refused(client.chat, "chat", HELLO, tools=[weather])
    assert "does not support vision" in refused(client.chat, "chat", seen)[1]
    assert '"embed" does not support chat' == refused(client.chat, "embed", HELLO)[1]
    assert client.chat("chat", HELLO, think=False, options=FEW).message.content


def test_calls_of_tools(other: ollama.Client) -> None:
    """As objects, whole or streamed; the results go back, with or without ids."""
    options = {"num_predict": 200}
    answer = other.chat("caller", HELLO, tools=[weather], options=options)
    chunks = list(other.chat("caller", HELLO, tools=[weather], stream=True, options=options))
    (call,) = answer.message.tool_calls or ()
    streamed = [(chunk.done, bool(chunk.message.tool_calls)) for chunk in chunks]

    assert "weather" == call.function.name
    assert isinstance(call.function.arguments["city"], str)
    assert "stop" == answer.done_reason
    assert [(False, True), (True, False)] == streamed[-2:]
    result = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    again = other.chat("caller", [*HELLO, answer.message, result], tools=[weather], options=options)
    assert (again.prompt_eval_count or 0) > (answer.prompt_eval_count or 0)


def test_thinking(other: ollama.Client) -> None:
    """A model that may think does, unless it is told not to."""
    unsaid, level = (other.chat("thinker", HELLO, options=FEW, think=think) for think in (None, "low"))
    without = other.chat("thinker", HELLO, options=FEW, think=False)
    prompt = other.generate("thinker", "hello", options=FEW, think=True)
    chunks = list(other.chat("thinker", HELLO, options=FEW, think=True, stream=True))

    assert [(True, "")] * 2 == [(bool(answer.message.thinking), answer.message.content) for answer in (unsaid, level)]
    assert (None, True) == (without.message.thinking, bool(without.message.content))
    assert (True, "") == (bool(prompt.thinking), prompt.response)
    assert any(chunk.message.thinking for chunk in chunks)
    assert 400 == refused(other.chat, "thinker", HELLO, think="hard")[0]


def test_embeddings(client: ollama.Client) -> None:
    """Of one text or several, of length 1, of as many dimensions as are wanted; long ones are cut."""
    two = client.embed("embed", ["one", "two"])
    few = client.embed("embed", "one", dimensions=8)
    long = client.embed("embed", "word " * 1000)

    assert [64, 64] == [len(vector) for vector in two.embeddings]
    assert two.prompt_eval_count
    assert [8] == [len(vector) for vector in few.embeddings]
    assert [pytest.approx(1.0, abs=1e-5)] * 4 == [
        math.hypot(*vector) for vector in (*two.embeddings, *few.embeddings, *long.embeddings)
    ]
    assert 512 == long.prompt_eval_count
    assert (400, "the input length exceeds the context length") == refused(
        client.embed, "embed", "word " * 1000, truncate=False
    )
    assert 64 == len(client.embeddings("embed", "one").embedding)
    assert [] == client.embed("embed", []).embeddings
    assert 400 == refused(client.embed, "chat", "one")[0]


def test_long_conversations(client: ollama.Client) -> None:
    """The oldest turns go, unless the client wants to know."""
    said = [{"role": role, "content": f"{at} " * 200} for at in range(8) for role in ("user", "assistant")]
    answer = client.chat("chat", [*said, *HELLO], options=FEW)

    assert 0 < (answer.prompt_eval_count or 0) < 2048
    status, told = refused(client.chat, "chat", [{"role": "user", "content": "word " * 3000}])
    assert (400, True) == (status, "context size" in told)


def test_loading_and_unloading(other: ollama.Client, special: GatewayProcess) -> None:
    """At once, and for all to see in the reason."""

    assert "unload" == other.generate("caller", keep_alive=0).done_reason
    assert ["load", "load"] == [
        other.generate("caller", keep_alive="5m").done_reason,
        other.chat("caller", keep_alive=-1).done_reason,
    ]
    assert "unload" == other.chat("caller", keep_alive="0s").done_reason
    eventually_sync(lambda: special.engine("caller")["state"] == "unloaded")
    assert other.chat("caller", HELLO, options=FEW).load_duration
    assert (400, 'time: missing unit in duration "60"') == refused(other.generate, "caller", keep_alive="60")


def test_aliases(client: ollama.Client, gateway: GatewayProcess) -> None:
    """A name with settings of its own, that a request may override."""
    aliases = Aliases(gateway.home)
    aliases.put("brief", Alias(model="chat", parameters={"num_predict": 3}))
    try:
        assert [3, 2] == [
            client.chat("brief:latest", HELLO, options=options).eval_count for options in ({}, {"num_predict": 2})
        ]
    finally:
        aliases.remove("brief")


def test_errors(client: ollama.Client, gateway: GatewayProcess) -> None:
    """One text, with the status."""
    assert (404, "model 'nope' not found") == refused(client.chat, "nope", HELLO)
    with ollama.Client(host=gateway.url, headers={"Authorization": "Bearer wrong"}) as stranger:
        assert 401 == refused(stranger.chat, "chat", HELLO)[0]
    assert 404 == refused(client.generate, "nope", "hello", stream=False)[0]
    with pytest.raises(ResponseError, match="not found"):
        list(client.generate("nope", "hello", stream=True))
    for method in ("GET", "PUT", "HEAD"):
        assert 405 == gateway.client.request(method, "/api/chat").status_code
