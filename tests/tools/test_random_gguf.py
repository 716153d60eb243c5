"""The writer of random models keeps its promises."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tools.make_demo_model import make_demo
from tools.random_gguf import make_llama_gguf

DEMO = Path(__file__).parents[2] / "configs" / "demo" / "demo.gguf"


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    """A model is a function of its arguments."""
    once = make_llama_gguf(tmp_path / "a.gguf").read_bytes()
    again = make_llama_gguf(tmp_path / "b.gguf").read_bytes()
    other = make_llama_gguf(tmp_path / "c.gguf", seed=1).read_bytes()

    assert once == again
    assert (len(once), once) != (len(other), other)
    assert len(once) == len(other)


@pytest.mark.skipif(not DEMO.exists(), reason="an installation without the demo model")
def test_demo_is_what_the_tool_writes(tmp_path: Path) -> None:
    """The committed demo model can be made again."""
    made = make_demo(tmp_path / "demo.gguf").read_bytes()

    assert hashlib.sha256(DEMO.read_bytes()).hexdigest() == hashlib.sha256(made).hexdigest()
