"""Anthropic requests as chat completions requests."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.dialects.anthropic_request import to_chat
from hugind.proxy.dialects.errors import DialectError

WEATHER = {"name": "get_weather", "description": "Weather.", "input_schema": {"type": "object", "properties": {}}}
TIME = {"name": "get_time", "input_schema": {"type": "object"}}
DEEP: Any = json.loads('{"a":' * 300 + "1" + "}" * 300)
PNG = {"type": "base64", "media_type": "image/png", "data": "aGk="}


def translate(**fields: Any) -> dict[str, Any]:
    return to_chat({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields})


def translate_content(role: str, content: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = translate(messages=[{"role": role, "content": content}])["messages"]
    return messages


def test_a_plain_request() -> None:
    """What both dialects call the same passes through."""
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "stream": True, "min_p": 0.1, "seed": 7}

    assert translate(**fields) == {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


def test_fields_without_meaning_here_are_dropped() -> None:
    """Tiers, cache marks and effort are hints to Anthropic's own service."""
    hints = {"service_tier": "auto", "cache_control": {"type": "ephemeral"}, "output_config": {"effort": "low"}}

    assert translate(**hints) == translate()


def test_the_request_is_not_changed() -> None:
    """The same request may be tried again."""
    request = {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}
    to_chat(request)

    assert request == {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("Be brief.", "Be brief."),
        ([{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}], "Be\nbrief."),
        ("x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=a5145;Be brief.", "Be brief."),
        ([{"type": "text", "text": "x-anthropic-billing-header: cch=f0;"}, {"type": "text", "text": "Hi"}], "Hi"),
    ],
)
def test_system_leads_the_messages(system: Any, text: str) -> None:
    """One system message in front, without the stamp that would spoil every cached prefix."""
    assert translate(system=system)["messages"][0] == {"role": "system", "content": text}


@pytest.mark.parametrize("system", [None, "", []])
def test_no_system_no_message(system: Any) -> None:
    """An empty system prompt is none."""
    assert translate(system=system)["messages"] == [{"role": "user", "content": "hi"}]


def test_images_and_texts_stay_in_order() -> None:
    """Base64 becomes a data URL, a URL stays one."""
    content = [
        {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
    ]

    assert translate_content("user", content) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
            ],
        }
    ]


def test_a_single_text_becomes_a_string() -> None:
    """The form that every template takes, and the same whether the client wrote a block or a string."""
    assert translate_content("user", [{"type": "text", "text": "hi"}]) == translate_content("user", "hi")


def test_documents_of_text_become_text() -> None:
    """Title and context come first; content documents are their blocks."""
    text = {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "D"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "E"}]}}
    [message] = translate_content("user", [text, blocks])

    assert [part["text"] for part in message["content"]] == ["T", "C", "D", "E"]


def test_an_assistant_turn_with_tools() -> None:
    """Thoughts, text and calls of one turn make one message; what nobody can read is left out."""
    content = [
        {"type": "thinking", "thinking": "hmm", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "One "},
        {"type": "text", "text": "moment."},
        {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}},
    ]

    assert translate_content("assistant", content) == [
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "hmm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
            ],
        }
    ]


@pytest.mark.parametrize("content", ["", [], [{"type": "redacted_thinking", "data": "x"}]])
def test_an_empty_assistant_turn_is_left_out(content: Any) -> None:
    """Nothing said is no message."""
    assert translate_content("assistant", content) == []


@pytest.mark.parametrize(
    ("block", "content"),
    [
        ({"content": "sunny"}, "sunny"),
        ({}, ""),
        ({"content": "no city", "is_error": True}, "Error: no city"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
        (
            {"content": [{"type": "image", "source": PNG}], "is_error": True},
            [
                {"type": "text", "text": "Error:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ],
        ),
    ],
)
def test_tool_results(block: dict[str, Any], content: Any) -> None:
    """A result is a message of its own; a failure is told in words."""
    block = {"type": "tool_result", "tool_use_id": "t1", **block}

    assert translate_content("user", [block]) == [{"role": "tool", "tool_call_id": "t1", "content": content}]


def test_tool_results_come_before_what_the_user_adds() -> None:
    """They answer the assistant's message, so they follow it at once."""
    content = [
        {"type": "text", "text": "and?"},
        {"type": "tool_result", "tool_use_id": "t1", "content": "a"},
        {"type": "tool_result", "tool_use_id": "t2", "content": "b"},
    ]

    assert [message["role"] for message in translate_content("user", content)] == ["tool", "tool", "user"]


def test_tools() -> None:
    """A schema is a function's parameters."""
    assert translate(tools=[WEATHER, {**TIME, "type": "custom"}])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
        {"type": "function", "function": {"name": "get_time", "description": "", "parameters": {"type": "object"}}},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto", "parallel_tool_calls": True}),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every choice has its word."""
    chat = translate(tools=[WEATHER, TIME], tool_choice=choice)
    tools = translate(tools=[WEATHER, TIME])["tools"]

    assert chat == {**translate(), "tools": tools, **expected}


def test_a_chosen_tool_is_the_only_one_offered() -> None:
    """The engine takes no name, so the other tools are kept from it."""
    chat = translate(tools=[WEATHER, TIME], tool_choice={"type": "tool", "name": "get_time"})

    assert [tool["function"]["name"] for tool in chat["tools"]] == ["get_time"]
    assert chat["tool_choice"] == "required"


def test_stop_sequences_ask_which_one_matched() -> None:
    """Only the verbose report names the sequence."""
    chat = translate(stop_sequences=["END"])

    assert (chat["stop"], chat["verbose"]) == (["END"], True)
    assert translate(stop_sequences=[]) == translate()


def test_user_id_becomes_user() -> None:
    """metadata.user_id narrows the search for the session."""
    assert translate(metadata={"user_id": "u"})["user"] == "u"


@pytest.mark.parametrize(
    ("thinking", "enabled", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True, 2048),
        ({"type": "enabled"}, True, None),
        ({"type": "adaptive"}, True, None),
        ({"type": "disabled", "budget_tokens": 1}, False, None),
    ],
)
def test_thinking_is_a_switch_of_the_template(thinking: dict[str, Any], enabled: bool, budget: int | None) -> None:
    """The budget is the engine's to keep; other template arguments stay."""
    chat = translate(thinking=thinking, chat_template_kwargs={"a": 1})

    assert chat["chat_template_kwargs"] == {"a": 1, "enable_thinking": enabled}
    assert budget == chat.get("thinking_budget_tokens")


def test_structured_output() -> None:
    """A JSON schema for the answer is a response format."""
    schema = {"type": "object"}
    config = {"format": {"type": "json_schema", "schema": schema}}
    chat = translate(output_config=config)
    tools = [{"name": "f", "input_schema": schema}]

    assert chat["response_format"] == {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    assert "response_format" in translate(output_config=config, tools=tools)
    assert "response_format" not in translate(output_config=config, tools=tools, tool_choice={"type": "any"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
            "messages.0.content.0.source",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": DEEP}]}]},
            "messages.0.content.0.input",
        ),
        ({"system": [{"type": "image", "source": PNG}]}, "system.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
        ({"chat_template_kwargs": 1, "thinking": {"type": "enabled"}}, "chat_template_kwargs"),
        ({"metadata": "x"}, "metadata"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any], param: str) -> None:
    """The error names the field; nothing is dropped in silence that would change the answer."""
    with pytest.raises(DialectError) as caught:
        translate(**fields)

    assert caught.value.param == param


_KEYS = ["messages", "system", "max_tokens", "tools", "tool_choice", "thinking", "metadata", "stop_sequences"]
_BLOCK_KEYS = ["type", "role", "content", "text", "source", "data", "input", "name", "id", "is_error", "title"]
_WORDS = ["text", "image", "document", "tool_use", "tool_result", "thinking", "user", "assistant", "any", "enabled"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_BLOCK_KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON))
def test_any_json_translates_or_is_refused(request_: dict[str, Any]) -> None:
    """Whatever a client sends, it is translated or answered with a 400, never with a crash."""
    valid = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    for request in (request_, valid | request_):
        with contextlib.suppress(DialectError):
            assert all(message["role"] for message in to_chat(request)["messages"])
