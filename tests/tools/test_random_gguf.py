"""The writer of random models keeps its promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hugind.supervisor.models.family import Family, family_of, sliding_window
from hugind.supervisor.models.gguf import read_header
from tools.make_demo_model import make_demo
from tools.random_gguf import make_hybrid_gguf, make_llama_gguf, make_recurrent_gguf, make_swa_gguf

DEMO = Path(__file__).parents[2] / "configs" / "demo" / "demo.gguf"
MAKERS = {
    Family.ATTENTION: make_llama_gguf,
    Family.SWA: make_swa_gguf,
    Family.RECURRENT: make_recurrent_gguf,
    Family.HYBRID: make_hybrid_gguf,
}


@pytest.mark.parametrize("make", MAKERS.values())
def test_same_arguments_same_bytes(tmp_path: Path, make: Callable[..., Path]) -> None:
    """A model is a function of its arguments."""
    once = make(tmp_path / "a.gguf").read_bytes()
    again = make(tmp_path / "b.gguf").read_bytes()
    other = make(tmp_path / "c.gguf", seed=1).read_bytes()

    assert once == again
    assert (len(once), once) != (len(other), other)
    assert len(once) == len(other)


@pytest.mark.parametrize(("family", "make"), MAKERS.items())
def test_families(tmp_path: Path, family: Family, make: Callable[..., Path]) -> None:
    """There is a maker for each family; its models can chat."""
    header = read_header(make(tmp_path / "model.gguf", ctx=4096))

    assert family is family_of(header.values, header.architecture)
    assert header.chat_template
    assert 4096 == header.context_length


def test_window(tmp_path: Path) -> None:
    """The window is what was asked for."""
    header = read_header(make_swa_gguf(tmp_path / "model.gguf", window=32))

    assert 32 == sliding_window(header.values, header.architecture)


@pytest.mark.skipif(not DEMO.exists(), reason="an installation without the demo model")
def test_demo_is_what_the_tool_writes(tmp_path: Path) -> None:
    """The committed demo model can be made again."""
    made = make_demo(tmp_path / "demo.gguf").read_bytes()

    assert hashlib.sha256(DEMO.read_bytes()).hexdigest() == hashlib.sha256(made).hexdigest()


def test_one_that_calls_tools(tmp_path: Path) -> None:
    """It differs in its template and a few weights; what it does is seen in tests/e2e/test_langchain.py."""
    plain = read_header(make_llama_gguf(tmp_path / "plain.gguf"))
    calling = read_header(make_llama_gguf(tmp_path / "calling.gguf", calls=True))

    assert "tools" not in (plain.chat_template or "")
    assert "tools" in (calling.chat_template or "")
    assert plain.lengths["tokenizer.ggml.tokens"] == calling.lengths["tokenizer.ggml.tokens"]
