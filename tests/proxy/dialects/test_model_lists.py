"""The models in two shapes."""

from __future__ import annotations

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.model_lists import ListedModel, anthropic_model, anthropic_page, openai_list, openai_model

MODELS = [ListedModel(name, 1_700_000_000.5, {"state": "ready"}) for name in "abcde"]
ALIAS = ListedModel("f", 0, {}, "a")


def test_openais_list() -> None:
    """An alias says what it stands for."""
    assert ["a", "f"] == [model["id"] for model in openai_list([MODELS[0], ALIAS])["data"]]
    assert {
        "id": "a",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "hugind",
        "meta": {"state": "ready"},
    } == openai_model(MODELS[0])
    assert "a" == openai_model(ALIAS)["parent"]


def test_anthropics_model() -> None:
    """With a date that a program reads."""
    assert {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "2023-11-14T22:13:20Z",
    } == anthropic_model(MODELS[0])


@pytest.mark.parametrize(
    ("asked", "ids", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "2", "before_id": "c"}, "ab", False),
        ({"before_id": "a"}, "", False),
    ],
)
def test_anthropics_pages(asked: dict[str, str], ids: str, has_more: bool) -> None:
    """Forwards and backwards, with where they begin and end."""
    page = anthropic_page(MODELS, asked)

    assert (list(ids), has_more) == ([model["id"] for model in page["data"]], page["has_more"])
    assert (ids[:1] or None, ids[-1:] or None) == (page["first_id"], page["last_id"])


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after_id": "z"}, "after_id"),
        ({"before_id": "z"}, "before_id"),
        ({"after_id": "a", "before_id": "b"}, "before_id"),
    ],
)
def test_pages_that_there_are_not(asked: dict[str, str], param: str) -> None:
    """Refused by their field."""
    with pytest.raises(DialectError) as refused:
        anthropic_page(MODELS, asked)

    assert param == refused.value.param
