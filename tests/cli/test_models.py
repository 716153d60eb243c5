"""`list`, `cp` and `rm` of a home that nobody serves; `show` in words. With a server: tests/cli/test_serve.py."""

from __future__ import annotations

import shutil

import pytest

from hugind.cli import models
from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL


@pytest.fixture
def stopped(hugind: HugindCommand) -> HugindCommand:
    """`hugind` in this process, in a home with the demo and a model of the library."""
    hugind.is_here = True
    assert hugind("config", "demo").returncode == 0
    model = hugind.home / "someone" / "tiny-GGUF" / "tiny-Q8_0.gguf"
    model.parent.mkdir(parents=True)
    shutil.copy(DEMO_MODEL, model)
    return hugind


def test_list(stopped: HugindCommand) -> None:
    """All there is, with its kind; the chosen ones are marked; `ls` is the same."""
    stopped("alias", "create", "tutor", "--model", "tiny-Q8_0")
    stopped.write_config("odd", "model:\n  modle_path: x\n")
    rows = stopped.json("list")
    table = stopped("ls", "--chosen", "demo.gguf nothing").stdout

    assert [(row["name"], row["kind"], row["state"]) for row in rows] == [
        *(("demo", "config", "stopped"), ("odd", "config", "cannot be served")),
        *(("tiny-Q8_0", "library", "stopped"), ("tutor", "alias", "stopped")),
    ]
    lines = {name: line for line in table.splitlines() for name in ("demo", "odd", "tutor") if f" {name} " in line}
    assert "stopped, chosen" in lines["demo"]
    assert "unknown key" in lines["odd"]
    assert "alias of tiny-Q8_0" in lines["tutor"]


def test_names_come_and_go(stopped: HugindCommand) -> None:
    """`cp` gives a name, `rm` takes it; of a model it takes the files, and asks; a config is not its business."""
    copied = stopped("cp", "tiny-Q8_0", "gpt-4o")
    asked = stopped("rm", "gpt-4o")
    removed = stopped("rm", "gpt-4o", "--yes")
    config = stopped("rm", "demo", "-y")
    files = stopped("rm", "someone/tiny-GGUF", "-y")

    assert copied.returncode == removed.returncode == files.returncode == 0
    assert "gpt-4o stays" in asked.stderr
    assert "hugind config remove demo" in config.stderr
    assert [row["name"] for row in stopped.json("list")] == ["demo"]
    assert not (stopped.home / "someone").exists()
    assert stopped("rm", "someone/tiny-GGUF", "-y").returncode == 1


def test_long_texts_are_cut() -> None:
    """A template of a hundred lines is for programs."""
    text = models.indented("\n".join(map(str, range(100))))

    assert text.splitlines()[0] == "  0"
    assert text.splitlines()[-1] == "  ... 88 lines more: --json"


def test_facts() -> None:
    """What is known, in a person's order; nothing that a terminal would obey."""
    about = {
        "details": {"family": "llama", "parameter_size": "7.6B\x1b", "quantization_level": ""},
        "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
        "capabilities": ["completion", "tools"],
    }

    assert models.facts(about) == [
        *(("architecture", "llama"), ("parameters", "7.6B\ufffd"), ("context length", "4096")),
        ("capabilities", "completion, tools"),
    ]
