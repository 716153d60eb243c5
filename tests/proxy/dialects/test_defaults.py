"""What an alias says, in requests that do not say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.defaults import add_messages, add_parameters

SYSTEM = {"role": "system", "content": "Be brief."}
OWN = {"role": "system", "content": "Be long."}
HELLO = {"role": "user", "content": "hello"}
EXAMPLE = {"role": "user", "content": "an example"}


def test_parameters_by_the_engine_s_names() -> None:
    """Those of loading are left out, and so is what the engine does by itself."""
    request: dict[str, Any] = {}
    add_parameters(
        request,
        {"temperature": 0.7, "stop": ["x"], "num_predict": 5, "num_ctx": 99, "repeat_penalty": 1.1, "top_k": None},
    )

    assert request == {"temperature": 0.7, "stop": ["x"], "max_tokens": 5, "repeat_penalty": 1.1}


def test_as_many_tokens_as_there_is_room_for() -> None:
    request: dict[str, Any] = {}
    add_parameters(request, {"num_predict": -1})

    assert request == {}


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"])
def test_requests_override(key: str) -> None:
    """By whatever name; null says nothing."""
    request = {"temperature": 0, key: 9, "top_p": None}
    add_parameters(request, {"temperature": 0.7, "num_predict": 5, "top_p": 0.5})

    assert request == {"temperature": 0, key: 9, "top_p": 0.5}


@pytest.mark.parametrize(
    ("messages", "whole"),
    [
        ([HELLO], [SYSTEM, EXAMPLE, HELLO]),
        ([OWN, HELLO], [OWN, EXAMPLE, HELLO]),
        ([], [SYSTEM, EXAMPLE]),
        ("not a list", "not a list"),
        (["not a message"], [SYSTEM, EXAMPLE, "not a message"]),
    ],
)
def test_messages_come_first(messages: Any, whole: Any) -> None:
    """A system message of the request's own takes the alias's place."""
    assert whole == add_messages(messages, "Be brief.", (EXAMPLE,))


def test_without_a_system_message() -> None:
    assert add_messages([HELLO], None, ()) == [HELLO]
