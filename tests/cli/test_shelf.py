"""The models of a home, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.demo import install_demo
from hugind.cli.shelf import Entry, entries, find_entry
from hugind.supervisor.aliases import Alias, Aliases
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from tests.engines import DEMO_MODEL
from tests.model_files import add_two_quants


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With the demo and its config, two models of the library, two aliases, and a config that is wrong."""
    home = Home(tmp_path)
    install_demo(home)
    add_two_quants(tmp_path)
    home.config("odd").write_text("model:\n  modle_path: x\n")
    home.config("gone").write_text("model:\n  model_path: nowhere.gguf\n")
    Aliases(home).put("tutor", Alias(model="tiny-Q8_0"))
    Aliases(home).put("lost", Alias(model="nothing"))
    return home


def test_everything_by_name(home: Home) -> None:
    """Configs, models of the library that no config has, aliases; what cannot be served says why."""
    told = {entry.name: entry for entry in entries(home)}
    size = DEMO_MODEL.stat().st_size

    assert [(entry.name, entry.kind) for entry in told.values()] == [
        *(("demo", "config"), ("gone", "config"), ("lost", "alias"), ("odd", "config")),
        *(("tiny-Q4_K_M", "library"), ("tiny-Q8_0", "library"), ("tutor", "alias")),
    ]
    assert {told[name].size_bytes for name in ("demo", "tiny-Q8_0", "tutor")} == {size}
    assert told["tutor"].of == "tiny-Q8_0"
    problems = {name: entry.problem for name, entry in told.items() if entry.problem}
    assert problems.keys() == {"gone", "lost", "odd"}
    assert "nowhere.gguf" in str(problems["gone"])
    assert "modle_path" in str(problems["odd"])
    assert problems["lost"] == "there is no model 'nothing'"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("demo.gguf", "demo"),
        ("Demo:latest", "demo"),
        ("someone/tiny-GGUF", "tiny-Q4_K_M"),
        ("hf.co/someone/tiny-GGUF:Q8_0", "tiny-Q8_0"),
        ("tiny-Q8_0.gguf", "tiny-Q8_0"),
        ("Tutor", "tutor"),
    ],
)
def test_found(home: Home, given: str, name: str) -> None:
    """As requests may name it."""
    assert find_entry(home, given).name == name


def test_not_found(home: Home) -> None:
    """There is none: where to look."""
    with pytest.raises(HugindError, match="there is no model 'nope'") as error:
        find_entry(home, "nope")
    assert "hugind pull" in str(error.value.hint)


def test_empty_home(tmp_path: Path) -> None:
    """Nothing there, not even the folder."""
    nothing: list[Entry] = []
    assert entries(Home(tmp_path / "nowhere")) == nothing
