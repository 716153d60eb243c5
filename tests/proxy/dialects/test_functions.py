"""Functions of older clients, as tools and back."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.functions import function_body, function_event, take_functions, to_tool_messages

F: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("wanted", "choice"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ({"name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_functions_become_tools(wanted: Any, choice: Any) -> None:
    """One call at a time: there is room for no more in an answer."""
    request = {"functions": [F], "function_call": wanted}

    assert take_functions(request)
    assert {
        "tools": [{"type": "function", "function": F}],
        "tool_choice": choice,
        "parallel_tool_calls": False,
    } == request


def test_a_request_without_functions_stays() -> None:
    """Also one that says that none shall be called."""
    request = {"function_call": "none", "tools": []}

    assert not take_functions(request)
    assert {"tools": []} == request


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": []}, "functions"),
        ({"functions": "f"}, "functions"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"functions": [F], "tools": []}, "functions"),
        ({"functions": [F], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [F], "function_call": "always"}, "function_call"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_functions_that_make_no_sense(fields: dict[str, Any], param: str) -> None:
    """Named by their field."""
    with pytest.raises(DialectError) as refused:
        take_functions(fields)

    assert param == refused.value.param


def test_messages_of_functions() -> None:
    """A result belongs to the call before it; the ids are the same every time."""
    call = {"name": "f", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": None},
        "no message",
    ]
    translated = to_tool_messages(messages)

    assert [messages[0], messages[5]] == [translated[0], translated[5]]
    assert {"id": "call_1", "type": "function", "function": call} == translated[1]["tool_calls"][0]
    assert {"role": "tool", "tool_call_id": "call_1", "content": "1"} == translated[2]
    assert ("call_2", "call_2", "") == (
        translated[3]["tool_calls"][0]["id"],
        translated[4]["tool_call_id"],
        translated[4]["content"],
    )
    assert translated == to_tool_messages(messages)


def test_an_answer_speaks_of_functions() -> None:
    """The first call, and the reason in the old word."""
    calls = [{"id": str(at), "type": "function", "function": {"name": "f", "arguments": str(at)}} for at in (0, 1)]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    body = function_body({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    plain = {"choices": [{"message": {"content": "text"}, "finish_reason": "stop"}]}

    assert {
        "message": {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "0"}},
        "finish_reason": "function_call",
    } == body["choices"][0]
    assert plain == function_body(plain)


def test_a_stream_speaks_of_functions() -> None:
    """Pieces of the first call; of others nothing."""

    def chunk(index: int, **delta: Any) -> dict[str, Any]:
        fragment = {"index": index, "id": "x", "function": {"arguments": "1"}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [fragment], **delta}, "finish_reason": None}]}

    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}

    assert {"function_call": {"arguments": "1"}} == function_event(chunk(0))["choices"][0]["delta"]
    assert {"content": "a"} == function_event(chunk(1, content="a"))["choices"][0]["delta"]
    assert "function_call" == function_event(last)["choices"][0]["finish_reason"]
    assert {"choices": []} == function_event({"choices": []})
