"""Ollama's requests, as the engine is asked."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama_request import (
    DEFAULTS,
    add_defaults,
    asks_nothing,
    drop_oldest,
    has_images,
    prompt_to_chat,
    prompt_to_completion,
    prompt_to_infill,
    take,
    thinks,
    to_chat,
    wants_stream,
)

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
DEEP: Any = orjson.loads('{"a":' * 300 + "1" + "}" * 300)
"""Can be read, and not be written."""
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **fields}


def test_a_plain_chat() -> None:
    """It streams unless it says no; what is Ollama's own stays behind, what Ollama does not have goes on."""
    plain = {"messages": HELLO, "stream": True}

    assert plain == to_chat(asked())
    assert plain == to_chat(asked(keep_alive="5m", truncate=True, shift=False, think=None, format="", stream=None))
    assert {**plain, "tool_choice": "required", "user": "u"} == to_chat(asked(tool_choice="required", user="u", n=4))
    assert not to_chat(asked(stream=False))["stream"]
    assert wants_stream({})


def test_options() -> None:
    """By the engine's names; those of loading and unknown ones do nothing, no limit is said as such."""
    options = {
        "num_predict": 8.0,
        "num_ctx": 99,
        "num_gpu": 1,
        "temperature": 0,
        "top_k": 7,
        "repeat_penalty": 1.5,
        "stop": "END",
        "seed": None,
        "num_keep": 4,
        "tfs_z": 1.0,
        "nonsense": {},
    }
    chat = to_chat(asked(options=options))

    assert {
        "max_tokens": 8,
        "temperature": 0,
        "top_k": 7,
        "repeat_penalty": 1.5,
        "stop": ["END"],
        "n_keep": 4,
        "messages": HELLO,
        "stream": True,
    } == chat
    assert -1 == to_chat(asked(options={"num_predict": -2}))["max_tokens"]
    assert 64 == to_chat(asked(options={"max_tokens": 64, "repetition_penalty": 1.1}))["max_tokens"]
    assert to_chat(asked(options=None)) == to_chat(asked())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"options": {"num_ctx": "8k"}}, 'option "num_ctx" must be of type integer'),
        ({"options": {"temperature": "hot"}}, 'option "temperature" must be of type'),
        ({"options": []}, "json: cannot unmarshal array into field options of type map"),
        ({"messages": "hello"}, "json: cannot unmarshal string into field messages of type []"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "json: cannot unmarshal array into field content"),
        ({"messages": [{"role": "king", "content": "a"}]}, 'invalid role: "king"'),
        ({"messages": ["hello"]}, "messages.0: must be an object"),
        ({"stream": "yes"}, "json: cannot unmarshal string into field stream of type bool"),
        ({"format": "xml"}, 'invalid format: "xml"; expected "json" or a valid JSON Schema object'),
        ({"format": ["json"]}, 'invalid format: ["json"]'),
        ({"think": "hard"}, 'invalid think value: "hard"'),
        ({"think": 1}, "invalid think value: 1"),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
        ({"logprobs": 5}, "json: cannot unmarshal number into field logprobs of type bool"),
        ({"top_logprobs": True}, "json: cannot unmarshal bool into field top_logprobs of type int"),
        ({"tools": ["f"]}, "tools: each must be an object with a function"),
        ({"messages": [{"role": "user", "content": "", "images": [7]}]}, "each must be a string of base64"),
        ({"messages": [{"role": "user", "content": "", "images": ["%%%%"]}]}, "illegal base64 data"),
        ({"messages": [{"role": "user", "content": "", "images": ["AAAA"]}]}, "neither a PNG, JPEG"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "each must be an object with a function"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": DEEP}}]}]}, "too deeply"),
        ({"format": [DEEP]}, "format: nested too deeply"),
        ({"think": DEEP}, "think: nested too deeply"),
        ({"chat_template_kwargs": [1]}, "json: cannot unmarshal array into field chat_template_kwargs of type map"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], said: str) -> None:
    """In Ollama's words where it has some."""
    with pytest.raises(DialectError) as refused:
        to_chat(asked(**wrong))

    assert said in refused.value.message


def test_formats() -> None:
    """JSON, or JSON by a schema."""
    assert {"type": "json_object"} == to_chat(asked(format="json"))["response_format"]
    by_schema = to_chat(asked(format=SCHEMA))["response_format"]
    assert {"type": "json_schema", "json_schema": {"name": "schema", "schema": SCHEMA}} == by_schema


def test_thinking() -> None:
    """A switch, or how hard."""
    assert {"enable_thinking": False} == to_chat(asked(think=False))["chat_template_kwargs"]
    hard = to_chat(asked(think="high"))

    assert {"enable_thinking": True, "reasoning_effort": "high"} == hard["chat_template_kwargs"]
    assert [None, True, False] == [thinks(to_chat(asked(think=value))) for value in (None, "max", False)]


def test_logprobs() -> None:
    """The engine gives none where it is asked for no alternatives: it is asked for one at least."""
    assert {"logprobs": True, "top_logprobs": 1}.items() <= to_chat(asked(logprobs=True)).items()
    assert 3 == to_chat(asked(logprobs=True, top_logprobs=3))["top_logprobs"]
    assert "top_logprobs" not in to_chat(asked(top_logprobs=3))
    assert 2 == prompt_to_completion({"prompt": "a", "logprobs": True, "top_logprobs": 2})["n_probs"]


def test_images() -> None:
    """Told by their first bytes, and put before the text. Sounds come the same way."""
    kinds = {
        b"\x89PNG": "png",
        b"\xff\xd8\xff\xe0": "jpeg",
        b"GIF89a": "gif",
        b"BM": "bmp",
        b"RIFF0000WEBP": "webp",
    }
    for start, kind in kinds.items():
        data = base64.b64encode(start + bytes(20)).decode()
        chat = to_chat({"messages": [{"role": "user", "content": "see", "images": [data]}]})

        image, text = chat["messages"][0]["content"]
        assert {"url": f"data:image/{kind};base64,{data}"} == image["image_url"]
        assert {"type": "text", "text": "see"} == text
        assert has_images(chat)
    wav = base64.b64encode(b"RIFF0000WAVE" + bytes(20)).decode()
    heard = to_chat({"messages": [{"role": "user", "images": [wav]}]})

    assert [{"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}] == heard["messages"][0]["content"]
    assert not has_images(heard)
    prefixed = to_chat({"messages": [{"role": "user", "images": [f"data:image/png;base64,{PNG}"]}]})
    assert prefixed == to_chat({"messages": [{"role": "user", "images": [PNG]}]})


def test_calls_of_tools() -> None:
    """Arguments become text; what has no id gets one, the same for call and answer, and the same every time."""
    city = {"city": "Paris"}
    messages = [
        {"role": "USER", "content": "weather?"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                {"function": {"name": "f", "arguments": city}},
                {"function": {"name": "g"}},
                {"id": "call_own", "function": {"name": "f", "arguments": '{"city":"Rome"}'}},
            ],
        },
        {"role": "tool", "tool_name": "g", "content": "2"},
        {"role": "tool", "tool_call_id": "call_own", "content": "3"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "none asked"},
    ]
    user, assistant, *answers = to_chat({"messages": messages})["messages"]

    assert {"role": "user", "content": "weather?"} == user
    assert ("", "hm") == (assistant["content"], assistant["reasoning_content"])
    assert [
        ("call_0", "f", '{"city":"Paris"}'),
        ("call_1", "g", "{}"),
        ("call_own", "f", '{"city":"Rome"}'),
    ] == [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in assistant["tool_calls"]]
    assert [("call_1", "g"), ("call_own", "f"), ("call_0", "f"), ("call_3", None)] == [
        (answer["tool_call_id"], answer.get("name")) for answer in answers
    ]


def test_tools() -> None:
    """They go on as they are; the type that some leave out is put there."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}}}
    chat = to_chat(asked(tools=[{"function": function}, {"type": "function", "function": function}]))

    assert [{"type": "function", "function": function}] * 2 == chat["tools"]


def test_a_prompt() -> None:
    """A message of the user, behind the request's own system prompt and what was said before."""
    before = [{"role": "system", "content": "old"}, *HELLO, {"role": "assistant", "content": "hi"}]
    plain = prompt_to_chat({"prompt": "go on", "images": [PNG]}, before)
    other = prompt_to_chat({"prompt": "go on", "system": "new", "options": {"num_predict": 3}}, before)

    assert before == plain["messages"][:3]
    assert ["image_url", "text"] == [part["type"] for part in plain["messages"][3]["content"]]
    assert ["new", "hello", "hi", "go on"] == [message["content"] for message in other["messages"]]
    assert 3 == other["max_tokens"]
    with pytest.raises(DialectError, match="template"):
        prompt_to_chat({"prompt": "a", "template": "{{ .Prompt }}"})
    assert prompt_to_chat({"prompt": "a", "template": ""})["messages"]


def test_a_raw_prompt() -> None:
    """As it is: nothing that a template would place."""
    assert {"prompt": "a", "stream": True} == prompt_to_completion({"prompt": "a", "raw": True, "think": True})
    assert SCHEMA == prompt_to_completion({"prompt": "a", "format": SCHEMA})["json_schema"]
    assert {"type": "object"} == prompt_to_completion({"prompt": "a", "format": "json"})["json_schema"]
    for key, value in (("template", "t"), ("system", "s"), ("context", [1])):
        with pytest.raises(DialectError, match="raw mode does not support template, system, or context"):
            prompt_to_completion({"prompt": "a", key: value})
    with pytest.raises(DialectError, match="images"):
        prompt_to_completion({"prompt": "a", "images": [PNG]})


def test_a_gap_to_fill() -> None:
    """Before and after."""
    infill = prompt_to_infill({"prompt": "def f(", "suffix": "return 1", "options": {"num_predict": 4}})

    assert {"input_prefix": "def f(", "input_suffix": "return 1", "max_tokens": 4, "stream": True} == infill


def test_only_to_load() -> None:
    """Nothing is asked."""
    assert asks_nothing({"messages": []}, "messages")
    assert asks_nothing({}, "prompt", "suffix", "images")
    assert not asks_nothing({"prompt": "", "images": [PNG]}, "prompt", "suffix", "images")


def test_defaults() -> None:
    """Ollama's, unless the request, an alias (which is in the request) or the config says otherwise."""
    silent: dict[str, Any] = {}
    add_defaults(silent, {"top_p": None, "min_p": None})
    said: dict[str, Any] = {"top_p": 0.5}
    add_defaults(said, {"min_p": 0.2})

    assert DEFAULTS == silent
    assert {"top_p": 0.5} == said


def test_a_conversation_is_shortened_by_whole_turns() -> None:
    """From its oldest message of the user on; its system prompt stays, and so does the last question."""
    turns = [{"role": role, "content": f"{at} " * 50} for at in range(4) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "s"}, *turns, {"role": "user", "content": "last"}]
    three_quarters, least = drop_oldest(messages, 0.8), drop_oldest(messages, 0.01)

    assert three_quarters is not None
    assert [messages[0], *messages[3:]] == three_quarters
    assert [messages[0], messages[-1]] == least
    assert drop_oldest([messages[0], messages[-1]], 0.5) is None
    assert drop_oldest(HELLO, 0.5) is None


def test_fields_of_another_type() -> None:
    """Named in Go's words, as clients know them."""
    assert take({"a": None}, "a", str) is None
    with pytest.raises(DialectError) as refused:
        take({"a": 1.5}, "a", int)

    assert "json: cannot unmarshal number into field a of type int" == refused.value.message
    assert orjson.dumps({"error": refused.value.message})
