"""What a client wants made."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama_create import Recipe, base_name, check_template, read_recipe


def test_an_alias() -> None:
    """With all that can be said of one; what is null is not said."""
    body = {
        "from": "demo",
        "system": "You are Mario.",
        "parameters": {"temperature": 0.5, "seed": None},
        "messages": [{"role": "user", "content": "hi"}],
        "license": ["one", "two"],
        "template": "{{ x }}",
        "renderer": "ignored",
    }
    recipe = read_recipe(body, "mario:latest")

    assert (
        Recipe(
            "mario",
            source="demo",
            system="You are Mario.",
            parameters={"temperature": 0.5},
            messages=({"role": "user", "content": "hi"},),
            license="one\ntwo",
            template="{{ x }}",
        )
        == recipe
    )
    assert recipe.is_alias


def test_files_are_digests() -> None:
    """In the order of their names, which are forgotten."""
    recipe = read_recipe({"files": {"b.gguf": "sha256:2", "../a.gguf": "sha256:1"}, "adapters": {"x": "3"}}, "mine")

    assert (("sha256:1", "sha256:2"), ("3",)) == (recipe.files, recipe.adapters)


@pytest.mark.parametrize(
    ("name", "said", "engine", "is_alias"),
    [
        ("mine", {}, "mine", False),
        ("mine", {"system": "hi"}, "mine-base", True),
        ("mine", {"parameters": {"top_k": 1}}, "mine-base", True),
        ("me/mine:7b", {}, "me-mine-7b-base", True),
        ("m" * 80, {}, "m" * 58 + "-base", True),
    ],
)
def test_what_a_model_of_files_is_called(name: str, said: dict[str, Any], engine: str, is_alias: bool) -> None:
    """Its own name where that can be a config's and nothing else is said; else an alias has that."""
    recipe = read_recipe({"files": {"a": "sha256:1"}, **said}, name)

    assert (engine, is_alias) == (recipe.engine_name, recipe.is_alias)
    if is_alias:
        assert engine == base_name(name)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "from"),
        ({"adapters": {"a": "sha256:1"}}, "from"),
        ({"from": "demo", "files": {"a": "b"}}, "files"),
        ({"from": "demo", "quantize": "q4_K_M"}, "quantize"),
        ({"modelfile": "FROM x"}, "modelfile"),
        ({"from": "demo", "remote_host": "http://x"}, "remote_host"),
        ({"from": 1}, "from"),
        ({"files": ["sha256:1"]}, "files"),
        ({"files": {"a": 1}}, "files"),
        ({"from": "demo", "parameters": []}, None),
        ({"from": "demo", "parameters": [1]}, "parameters"),
        ({"from": "demo", "messages": {"role": "user"}}, "messages"),
        ({"from": "demo", "messages": ["hi"]}, "messages"),
        ({"from": "demo", "license": {"a": 1}}, "license"),
        ({"from": "demo", "system": ["hi"]}, "system"),
    ],
)
def test_refused(body: dict[str, Any], param: str | None) -> None:
    """What cannot be read, and what there is not: the field is named."""
    with pytest.raises(DialectError) as refused:
        read_recipe(body, "mario")

    assert refused.value.param == (param or "parameters")


def test_templates() -> None:
    """Only the model's own is taken, as `ollama show` hands it out."""
    check_template(None, "own")
    check_template(" own\n", "own")
    with pytest.raises(DialectError, match="template"):
        check_template("{{ .Prompt }}", "own")
