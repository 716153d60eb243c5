"""A conversation that the client carries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.dialects.ollama_context import MAX_BYTES, read_context, write_context

SAID = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]


@given(st.lists(st.text(max_size=80), min_size=1, max_size=6), st.text(max_size=200))
def test_comes_back_as_it_went(questions: list[str], answer: str) -> None:
    """As numbers that clients keep in 32 bits."""
    messages = [{"role": "user", "content": question} for question in questions]
    context = write_context(messages, answer)

    assert all(0 <= number < 2**31 for number in context)
    assert [*messages, {"role": "assistant", "content": answer}] == read_context(context)


def test_only_texts_are_kept() -> None:
    """An image would make it as large as the image is."""
    parts = [{"type": "image_url", "image_url": {"url": "data:..."}}, {"type": "text", "text": "what is it?"}]

    assert "what is it?" == read_context(write_context([{"role": "user", "content": parts}], "a cat"))[0]["content"]


@pytest.mark.parametrize(
    "foreign",
    [None, [], "x", [1, 2, 3], [128000, 882, 128001], [0x68756769, 9, 1], [0x68756769, "9", 1, 2, 3]],
)
def test_what_is_not_ours_says_nothing(foreign: Any) -> None:
    """Token ids of a real Ollama, for example."""
    assert [] == read_context(foreign)


def test_what_was_changed_says_nothing() -> None:
    """Nor one that claims to be larger than it may, or of another shape."""
    context = write_context(SAID, "hi")
    huge = write_context([{"role": "user", "content": "a" * MAX_BYTES}], "hi")
    for wrong in (
        [*context[:5], context[5] ^ 0xFF, *context[6:]],
        context[:-1],
        [*context, 1],
        [*context[:-1], -1],
        huge,
    ):
        assert [] == read_context(wrong)
    for at, value in ((2, 1.5), (2, None), (2, 2**40)):
        assert [] == read_context([*context[:at], value, *context[at + 1 :]])
    assert [] == read_context(write_context([{"role": "king", "content": "obey"}], "hi"))
