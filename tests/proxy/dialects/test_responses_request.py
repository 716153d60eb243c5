from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.responses_request import check_metadata, describe, to_chat

TOOL: dict[str, Any] = {"type": "function", "name": "f", "description": "d", "parameters": {"a": 1}, "strict": True}
OTHER: dict[str, Any] = {"type": "function", "name": "g", "parameters": None}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"a": 1}, "strict": True}}
CHAT_OTHER = {"type": "function", "function": {"name": "g"}}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}


def test_nothing_of_the_dialect_is_left() -> None:
    """What the engine knows goes on, what is ours does not."""
    request = {
        "model": "m", "input": "x", "instructions": "i", "store": True, "previous_response_id": "resp_1",
        "metadata": {"a": "b"}, "include": [], "truncation": "auto", "background": False, "service_tier": "auto",
        "stream": True, "stream_options": {"include_obfuscation": False}, "user": "u", "safety_identifier": "u",
        "prompt_cache_key": "k", "max_tool_calls": 3, "text": {"verbosity": "low"}, "reasoning": {"summary": "auto"},
        "temperature": 0.5, "top_k": 3, "keep_alive": "5m", "chat_template_kwargs": {"a": 1},
    }  # fmt: skip

    assert to_chat(request) == {
        "stream": True,
        "temperature": 0.5,
        "top_k": 3,
        "keep_alive": "5m",
        "chat_template_kwargs": {"a": 1},
    }


@pytest.mark.parametrize(
    ("said", "chat"),
    [
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"tools": [TOOL, OTHER]}, {"tools": [CHAT_TOOL, CHAT_OTHER]}),
        (
            {"tools": [TOOL, {"type": "web_search"}], "tool_choice": "auto"},
            {"tools": [CHAT_TOOL], "tool_choice": "auto"},
        ),
        ({"tools": [{"type": "web_search"}]}, {}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [CHAT_TOOL], "tool_choice": "required"}),
        (
            {"tools": [TOOL, OTHER], "tool_choice": {"type": "function", "name": "g"}},
            {"tools": [CHAT_OTHER], "tool_choice": "required"},
        ),
        (
            {
                "tools": [TOOL, OTHER],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            },
            {"tools": [CHAT_TOOL], "tool_choice": "auto"},
        ),
        (
            {"tools": [TOOL], "tool_choice": "required", "text": {"format": SCHEMA}},
            {"tools": [CHAT_TOOL], "tool_choice": "required"},
        ),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": SCHEMA}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 0}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
    ],
)
def test_what_is_said_in_other_words(said: dict[str, Any], chat: dict[str, Any]) -> None:
    """As the engine's chat route knows it."""
    assert chat == to_chat(said)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": 1}, "previous_response_id"),
        ({"instructions": []}, "instructions"),
        ({"store": "yes"}, "store"),
        ({"include": "x"}, "include"),
        ({"truncation": "middle"}, "truncation"),
        ({"text": "x"}, "text"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"reasoning": "x"}, "reasoning"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"metadata": []}, "metadata"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": ["x"]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_is_refused(said: dict[str, Any], param: str) -> None:
    """The field is named."""
    with pytest.raises(DialectError) as refused:
        to_chat(said)
    assert param == refused.value.param


@pytest.mark.parametrize(
    "wrong", ["x", {"a": 1}, {"k" * 65: "v"}, {"k": "v" * 513}, {str(number): "v" for number in range(17)}]
)
def test_metadata(wrong: Any) -> None:
    """Sixteen pairs of short strings."""
    most = {f"{number:064}": "v" * 512 for number in range(16)}

    assert most == check_metadata(most)
    assert {} == check_metadata(None)
    with pytest.raises(DialectError):
        check_metadata(wrong)


def test_what_a_response_says_of_its_request() -> None:
    """Every field that OpenAI's own has, as asked for, or as it is without."""
    plain = describe({}, {})
    request = {"tools": [TOOL, {"type": "web_search"}], "text": {"format": SCHEMA}, "instructions": "i", "top_p": 0.5}
    asked = describe(request, to_chat(request))

    assert ({}, "auto", [], "disabled") == tuple(plain[k] for k in ("metadata", "tool_choice", "tools", "truncation"))
    assert {"format": {"type": "text"}} == plain["text"]
    assert plain["parallel_tool_calls"] is True
    assert ([TOOL], SCHEMA, "i", 0.5) == (
        asked["tools"],
        asked["text"]["format"],
        asked["instructions"],
        asked["top_p"],
    )
