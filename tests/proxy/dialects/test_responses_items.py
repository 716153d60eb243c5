from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.responses_items import (
    Ids,
    drop_oldest,
    keep_items,
    references,
    response_of,
    to_messages,
)

TOKEN = "0123456789abcdef" * 2
USER: dict[str, Any] = {"role": "user", "content": "hello"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESULT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "42"}
THOUGHT: dict[str, Any] = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def kept(*items: Any) -> list[dict[str, Any]]:
    return keep_items(list(items), Ids(TOKEN))


def chat(*items: Any) -> list[dict[str, Any]]:
    return to_messages(kept(*items))


def said(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def test_a_text_is_what_the_user_says() -> None:
    """As a kept item: with an id, a status and parts."""
    (item,) = keep_items("hello", Ids(TOKEN))

    assert item == {
        "id": f"msg_{TOKEN}0001",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello"}],
    }
    assert [USER] == to_messages([item])
    assert [] == keep_items(None, Ids(TOKEN))


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("user", "a", {"role": "user", "content": "a"}),
        ("user", [{"type": "input_text", "text": "a"}], {"role": "user", "content": "a"}),
        (
            "user",
            [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ),
        (
            "user",
            [{"type": "input_image", "image_url": "data:x"}],
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
        ),
        (
            "user",
            [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}],
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}]},
        ),
        ("developer", "a", {"role": "system", "content": "a"}),
        ("system", "a", {"role": "system", "content": "a"}),
        ("assistant", "a", {"role": "assistant", "content": "a"}),
        (
            "assistant",
            [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "b"}],
            {"role": "assistant", "content": "ab"},
        ),
    ],
)
def test_messages(role: str, content: Any, message: dict[str, Any]) -> None:
    """With their type or without, as clients send them; keeping what is kept changes nothing."""
    assert [message] == chat(said(role, content)) == chat({"role": role, "content": content})
    again = [{key: value for key, value in item.items() if key != "id"} for item in kept(said(role, content))]
    assert [message] == chat(*again)


def test_what_an_assistant_does_is_one_message() -> None:
    """Text, thoughts and calls; a result ends it."""
    function = {"name": "f", "arguments": '{"a":1}'}
    call = {"id": "c1", "type": "function", "function": function}
    other = {"id": "c2", "type": "function", "function": function}
    result = {"role": "tool", "tool_call_id": "c1", "content": "42"}

    assert [{"role": "assistant", "content": "", "tool_calls": [call]}, result] == chat(CALL, RESULT)
    assert [
        {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [call, other]},
        result,
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
    ] == chat(THOUGHT, said("assistant", "a"), CALL, {**CALL, "call_id": "c2"}, RESULT, THOUGHT, CALL)
    assert [{"role": "assistant", "content": "", "tool_calls": [call]}, USER] == chat(CALL, THOUGHT, USER)


def test_results() -> None:
    """Text, in parts or not; pictures stay parts."""
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    picture = {"type": "input_image", "image_url": "data:x"}

    assert "a\nb" == chat({**RESULT, "output": parts})[0]["content"]
    assert [{"type": "image_url", "image_url": {"url": "data:x"}}] == chat({**RESULT, "output": [picture]})[0][
        "content"
    ]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (3, "input"),
        ([3], "input[0]"),
        ([USER, {"role": "nobody", "content": ""}], "input[1].role"),
        ([{"role": "user", "content": 3}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": ["x"]}], "input[0].content[0].type"),
        ([{"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0]"),
        ([{"type": "web_search_call"}], "input[0].type"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([{**RESULT, "output": None}], "input[0].output"),
        ([{**THOUGHT, "content": 3}], "input[0].content"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0]"),
        ([{"id": "msg_1"}], "input[0]"),
    ],
)
def test_what_cannot_be_used(given: Any, param: str) -> None:
    """The field is named."""
    with pytest.raises(DialectError) as refused:
        keep_items(given, Ids(TOKEN))
    assert param == refused.value.param


def test_references() -> None:
    """An item that is known is said by its id, and is said again then."""
    ids = Ids(TOKEN)
    (item,) = keep_items("hello", ids)
    given = [{"type": "item_reference", "id": item["id"]}, {"id": item["id"]}, USER]

    assert [item["id"]] * 2 == references(given)
    assert [] == references("hello")
    kept_again = keep_items(given, Ids("f" * 32), {item["id"]: item})
    assert [USER] * 3 == to_messages(kept_again)
    assert 3 == len({item["id"] for item in kept_again} - {item["id"]})


def test_an_item_tells_its_response() -> None:
    """If the id is one of ours."""
    ids = Ids(TOKEN)

    assert ids.response == response_of(ids.item("msg")) == response_of(ids.item("fc"))
    assert f"resp_{TOKEN}" == ids.response
    for other in ("", "msg_1", f"msg_{TOKEN}", f"msg_{TOKEN}0001\n", "msg_" + "x" * 36):
        assert response_of(other) is None


@given(st.lists(st.sampled_from([USER, CALL, RESULT, THOUGHT, said("assistant", "a")]), max_size=12), st.data())
def test_a_conversation_begins_as_it_began(items: list[dict[str, Any]], data: st.DataObject) -> None:
    """What was said stays as it was when more is said: only so is it recognised, and not computed again."""
    begin = data.draw(st.sampled_from([0, *(index for index, item in enumerate(items) if item is USER)]))
    before, whole = chat(*items[:begin]), chat(*items)

    assert before == whole[: len(before)]


def test_the_older_turns_are_dropped() -> None:
    """Half of them at a time; the head and the last turn stay."""
    head = {"role": "system", "content": "s"}
    turns = [[{"role": "user", "content": str(number)}, {"role": "assistant", "content": "a"}] for number in range(4)]
    messages = [head, *(message for turn in turns for message in turn)]

    fewer = drop_oldest(messages, 1)
    assert fewer == [head, *turns[2], *turns[3]]
    last = drop_oldest(fewer, 1)
    assert last == [head, *turns[3]]
    assert drop_oldest(last, 1) is None
    assert drop_oldest([], 0) is None
