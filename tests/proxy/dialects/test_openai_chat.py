"""A chat request in the engine's words: what is put otherwise, what passes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError, EngineStreamError
from hugind.proxy.dialects.openai_chat import ChatForm

F: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
G: dict[str, Any] = {"type": "function", "function": {"name": "g"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
HELLO = [{"role": "user", "content": "hello"}]


def take(**fields: Any) -> dict[str, Any]:
    request = {"messages": HELLO, **fields}
    ChatForm().take(request)
    return request


def body(content: str, reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [F], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [F], "tool_choice": "none"},
        {"tools": [F]},
        {"tools": [F], "tool_choice": "required"},
        {"response_format": SCHEMA},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"logprobs": True, "top_logprobs": 2, "logit_bias": {"1": 2}, "seed": 1, "stop": ["a"]},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "prediction": {"type": "content"}},
        {"something": "new", "messages": "hello"},
        {"messages": [{"role": "assistant", "function_call": None}, 3]},
    ],
)
def test_what_passes_untouched(fields: dict[str, Any]) -> None:
    """What the engine does itself, what is harmless, and what nobody knows."""
    assert {"messages": HELLO, **fields} == take(**fields)


@pytest.mark.parametrize(
    ("choice", "tools", "told"),
    [
        ({"type": "function", "function": {"name": "g"}}, [G], "required"),
        ({"type": "function", "name": "g"}, [G], "required"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F]}}, [F], "auto"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [F, G]}}, [F, G], "required"),
    ],
)
def test_a_tool_that_must_be_called_is_the_only_one(choice: Any, tools: list[Any], told: str) -> None:
    """The engine understands nothing but a word."""
    request = take(tools=[F, G], tool_choice=choice)

    assert (tools, told) == (request["tools"], request["tool_choice"])


def test_no_tools_are_no_tools() -> None:
    """An empty list, or a choice among none, says nothing."""
    assert {"messages": HELLO} == take(tools=[], tool_choice="auto") == take(tool_choice="none")


def test_a_call_comes_before_json() -> None:
    """Who must call a tool cannot answer in JSON; who may, does."""
    assert "response_format" not in take(tools=[F], tool_choice="required", response_format=SCHEMA)
    assert SCHEMA == take(tools=[F], response_format=SCHEMA)["response_format"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": "f"}, "tools", None),
        ({"tools": [3]}, "tools[0]", None),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", None),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice", None),
        ({"tools": [F], "tool_choice": {"type": "custom"}}, "tool_choice", "unsupported_value"),
        ({"tools": [F], "tool_choice": "always"}, "tool_choice", None),
        ({"tools": [F], "tool_choice": 3}, "tool_choice", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"response_format": "json"}, "response_format", "unsupported_value"),
        ({"response_format": {"type": "yaml"}}, "response_format", "unsupported_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "a"}}, "audio", "unsupported_value"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_value"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", None),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, code: str | None) -> None:
    """By its field; with a code where it is right and cannot be had here."""
    with pytest.raises(DialectError) as refused:
        take(**fields)

    assert (param, code) == (refused.value.param, refused.value.code)
    assert param.partition("[")[0].partition(".")[0] in refused.value.message


@pytest.mark.parametrize("kind", [SCHEMA, {"type": "json_object"}])
def test_json_is_checked(kind: Any) -> None:
    """Where the answer ended by itself it can be parsed, or is none."""
    form = ChatForm()
    form.take({"messages": HELLO, "response_format": kind})

    assert form.is_plain
    assert body('{"a": 1}') == form.body(body('{"a": 1}'))
    assert body('{"a', "length") == form.body(body('{"a', "length"))
    with pytest.raises(EngineStreamError) as refused:
        form.body(body('{"a'))

    assert (502, "invalid_json") == (refused.value.status, refused.value.type)


@pytest.mark.parametrize("fields", [{"stop": ["}"]}, {"tools": [F], "tool_choice": "required"}])
def test_json_that_need_not_be(fields: dict[str, Any]) -> None:
    """A stop may cut it anywhere; a call is none."""
    form = ChatForm()
    form.take({"messages": HELLO, "response_format": {"type": "json_object"}, **fields})

    assert body('{"a') == form.body(body('{"a'))


def test_functions_are_answered_as_such() -> None:
    """Not as they are, and only where they were asked for."""
    old, new = ChatForm(), ChatForm()
    old.take({"messages": [{"role": "function", "name": "f", "content": "a"}], "functions": [{"name": "f"}]})
    new.take({"messages": HELLO, "tools": [F]})
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}

    assert (False, True) == (old.is_plain, new.is_plain)
    assert "tool_calls" == new.event(last)["choices"][0]["finish_reason"]
    assert "function_call" == old.event(last)["choices"][0]["finish_reason"]
