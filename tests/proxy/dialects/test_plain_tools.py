"""Tools in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.plain_tools import has_tool_messages, to_plain_messages

CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
SAID = '<tool_call>{"name": "f", "arguments": {"a":1}}</tool_call>'


def result(text: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": text}


def told(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"


def test_a_chat_with_tools() -> None:
    """Users and assistants take turns, as strict templates want it."""
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "let me see", "tool_calls": [CALL, CALL]},
        result("one"),
        result([{"type": "text", "text": "two"}]),
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        result(None),
        {"role": "assistant", "content": "done"},
    ]

    assert [
        chat[0],
        chat[1],
        {"role": "assistant", "content": f"let me see\n{SAID}\n{SAID}"},
        {"role": "user", "content": f"{told('one')}\n{told('two')}\nand?"},
        {"role": "assistant", "content": SAID},
        {"role": "user", "content": told("")},
        chat[8],
    ] == to_plain_messages(chat)


def test_arguments_as_an_object() -> None:
    """As some clients send them; a message that is none stays."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}

    assert [3, {"role": "assistant", "content": SAID}] == to_plain_messages(
        [3, {"role": "assistant", "tool_calls": [call]}]
    )


def test_pictures_are_not_merged() -> None:
    """What a user says in parts stays a message of its own."""
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}]}

    assert [{"role": "user", "content": told("one")}, parts] == to_plain_messages([result("one"), parts])


def test_a_chat_without_tools_has_none() -> None:
    """Nothing to do; nor where there are no messages."""
    assert not has_tool_messages([{"role": "assistant", "content": "a", "tool_calls": []}, 3])
    assert not has_tool_messages(None)
    assert has_tool_messages([result("a")])
    assert has_tool_messages([{"role": "assistant", "tool_calls": [CALL]}])


@pytest.mark.parametrize("calls", ["f", ["f"], [{"function": "f"}], {"function": {}}, 3])
def test_calls_that_are_none(calls: Any) -> None:
    """It is said, instead of a fault of ours."""
    with pytest.raises(DialectError, match="each must be an object"):
        to_plain_messages([{"role": "assistant", "tool_calls": calls}])
