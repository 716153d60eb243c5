"""Aliases of a home. Those of a server: tests/cli/test_serve.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.alias_book import HomeAliases
from hugind.cli.demo import install_demo
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from tests.model_files import add_two_quants


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With the demo, and a model in two sizes."""
    home = Home(tmp_path)
    install_demo(home)
    add_two_quants(tmp_path)
    return home


def test_of_a_model_and_of_an_alias(home: Home) -> None:
    """The model is kept by its own name; of an alias what is not said again is taken over."""
    book = HomeAliases(home)
    book.create("tutor:latest", {"model": "Demo.gguf", "system": "Explain.", "parameters": {"top_k": 3, "seed": 1}})
    made = book.create("other", {"model": "tutor", "parameters": {"seed": 2}})

    assert (made["model"], made["system"], made["parameters"]) == ("demo", "Explain.", {"top_k": 3, "seed": 2})
    assert [alias["name"] for alias in book.all()] == ["other", "tutor"]
    assert book.get("TUTOR")["parameters"] == {"top_k": 3, "seed": 1}


def test_in_the_place_of_another(home: Home) -> None:
    """Made again it is another one, under the name that it has."""
    book = HomeAliases(home)
    book.create("tutor", {"model": "demo", "system": "Explain."})
    made = book.create("Tutor", {"model": "demo"})

    assert (made["name"], made["system"]) == ("tutor", None)
    book.remove("TUTOR:latest")
    assert book.all() == []


def test_bits(home: Home) -> None:
    """--load-in-8bit means the file of the model that is stored so; where there is none, how to get it."""
    book = HomeAliases(home)
    made = book.create("exact", {"model": "someone/tiny-GGUF", "quantization": "8bit"})
    (home.root / "someone/tiny-GGUF/tiny-Q8_0.gguf").unlink()

    assert (made["model"], made["quantization"]) == ("tiny-Q8_0", "8bit")
    with pytest.raises(HugindError) as error:
        book.create("exact", {"model": "tiny-Q4_K_M", "quantization": "8bit"})
    assert error.value.hint == "hugind pull someone/tiny-GGUF:Q8_0"


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("x", {"model": "nope"}, "there is no model 'nope'"),
        ("DEMO", {"model": "demo"}, "there is a model 'DEMO' already"),
        ("tiny-q8_0.gguf", {"model": "demo"}, "already"),
        ("../x", {"model": "demo"}, "is no name for a model"),
        ("x", {"model": "demo", "parameters": {"foo": 1}}, "unknown parameter 'foo'"),
        ("x", {"model": "demo", "parameters": {"top_k": "many"}}, "top_k"),
        ("x", {"model": "demo", "messages": [{"role": "robot", "content": "hi"}]}, "a message needs a role"),
    ],
)
def test_refused(home: Home, name: str, said: dict[str, object], words: str) -> None:
    """What cannot be: nothing is kept."""
    book = HomeAliases(home)
    with pytest.raises(HugindError, match=words):
        book.create(name, said)
    assert book.all() == []


def test_none_of_this_name(home: Home) -> None:
    """Neither shown nor removed."""
    book = HomeAliases(home)
    for ask in (book.get, book.remove):
        with pytest.raises(HugindError, match="there is no alias 'nope'"):
            ask("nope")
