"""Completions of a text: what is refused, and log probabilities in the form that completions have."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.openai_completion import CompletionForm


def token(text: str, logprob: float) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": logprob,
        "top_logprobs": [{"token": text, "logprob": logprob}, {"token": "z", "logprob": -9.0}],
    }


def choice(index: int, *tokens: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": "", "logprobs": {"content": list(tokens)}, "finish_reason": reason}


@pytest.mark.parametrize(
    ("fields", "param"), [({"echo": True}, "echo"), ({"suffix": "end"}, "suffix"), ({"best_of": 2}, "best_of")]
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """The engine would ignore it in silence."""
    with pytest.raises(DialectError) as refused:
        CompletionForm().take({"prompt": "a", **fields})

    assert (param, "unsupported_value") == (refused.value.param, refused.value.code)


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"echo": False, "suffix": ""}, {"echo": False, "suffix": ""}),
        ({"best_of": 1}, {}),
        ({"best_of": 3, "n": 3}, {"n": 3}),
        ({"logprobs": None}, {"logprobs": None}),
    ],
)
def test_what_asks_for_nothing_more(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    """Passes, and the answer is the engine's."""
    form, request = CompletionForm(), dict(fields)
    form.take(request)

    assert sent == request
    assert form.is_plain


def test_logprobs() -> None:
    """In both forms; offsets are those of the answer's text, each answer its own."""
    form, request = CompletionForm(), {"logprobs": 2}
    form.take(request)
    body = form.body({"choices": [choice(0, token("ab", -1.0), token("c", -2.0), reason="stop")]})
    logprobs = body["choices"][0]["logprobs"]

    assert not form.is_plain
    assert 2 == request["logprobs"]
    assert (["ab", "c"], [-1.0, -2.0], [0, 2]) == (
        logprobs["tokens"],
        logprobs["token_logprobs"],
        logprobs["text_offset"],
    )
    assert [{"ab": -1.0, "z": -9.0}, {"c": -2.0, "z": -9.0}] == logprobs["top_logprobs"]
    assert "ab" == logprobs["content"][0]["token"]


def test_logprobs_in_a_stream() -> None:
    """Offsets go on from chunk to chunk, for every prompt; the next of several answers begins at 0."""
    form = CompletionForm()
    form.take({"logprobs": 1})
    seen = [
        form.event({"choices": [choice(index, token(text, -1.0), reason=reason)]})["choices"][0]["logprobs"][
            "text_offset"
        ]
        for index, text, reason in ((0, "ab", None), (1, "c", None), (0, "d", "stop"), (0, "e", None), (1, "f", None))
    ]

    assert [[0], [0], [2], [0], [1]] == seen
    assert {"choices": [{"index": 0, "logprobs": None}]} == form.event({"choices": [{"index": 0, "logprobs": None}]})


def test_no_alternatives() -> None:
    """0 is the chosen ones alone, for which the engine must be asked for one."""
    form, request = CompletionForm(), {"logprobs": 0}
    form.take(request)
    logprobs = form.event({"choices": [choice(0, token("a", -1.0))]})["choices"][0]["logprobs"]

    assert 1 == request["logprobs"]
    assert (["a"], None) == (logprobs["tokens"], logprobs["top_logprobs"])
