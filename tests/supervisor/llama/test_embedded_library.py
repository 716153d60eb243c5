"""The exported functions of the pinned wheel do what we count on."""

from __future__ import annotations

import os
import sys

import pytest
import xllamacpp

from hugind.supervisor.llama import embedded_library

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64",
    reason="other wheels may not export the symbols, and have the table",
)


def test_parser_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test passes, even if a variable of llama-server is set to nonsense, and leaves it set."""
    monkeypatch.setenv("LLAMA_ARG_PORT", "banana")

    assert embedded_library.can_parse()
    assert os.environ["LLAMA_ARG_PORT"] == "banana"


def test_parser_reaches_what_python_cannot() -> None:
    """A flag without a place in the wheel's Python API is accepted."""
    assert embedded_library.parse(xllamacpp.CommonParams(), ["-m", "a.gguf", "--override-kv", "a=int:3"])


def test_parser_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    """A refusal is False, and the reason is on stderr."""
    assert not embedded_library.parse(xllamacpp.CommonParams(), ["--nope"])

    embedded_library.flush_log()
    assert "error: invalid argument: --nope" in capfd.readouterr().err
