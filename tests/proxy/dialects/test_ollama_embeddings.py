"""Embeddings, as Ollama asks for them and answers them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama import Spent
from hugind.proxy.dialects.ollama_embeddings import (
    cut,
    may_be_too_long,
    read_dimensions,
    read_inputs,
    render_embeddings,
    vectors_of,
)


def test_inputs() -> None:
    """One text, several, or none."""
    assert [] == read_inputs({}) == read_inputs({"input": ""}) == read_inputs({"input": []})
    assert ["a"] == read_inputs({"input": "a"})
    assert ["a", ""] == read_inputs({"input": ["a", ""]})
    for wrong in (7, ["a", 7], {"a": 1}):
        with pytest.raises(DialectError, match="invalid input type"):
            read_inputs({"input": wrong})


def test_dimensions() -> None:
    """All of them where none are said."""
    assert [None, None, 3] == [read_dimensions(asked) for asked in ({}, {"dimensions": 0}, {"dimensions": 3})]
    for wrong in (-1, "3", 1.5):
        with pytest.raises(DialectError, match="dimensions"):
            read_dimensions({"dimensions": wrong})


def test_short_texts_need_not_be_measured() -> None:
    """No token is shorter than a byte."""
    assert not may_be_too_long("word", 32)
    assert may_be_too_long("é" * 16, 32)


def test_texts_are_cut_between_what_the_model_puts_around_them() -> None:
    """The marks stay."""
    assert cut([5, 6, 7], [1, 5, 6, 7, 2], 5) is None
    assert [1, 5, 6, 2] == cut([5, 6, 7], [1, 5, 6, 7, 2], 4)
    assert [5, 6] == cut([5, 6, 7], [5, 6, 7], 2)
    assert [5, 2] == cut([5, 6, 7], [5, 6, 7, 2], 2)


def test_vectors() -> None:
    """In order, of length 1 also where they were cut."""
    answer = {"data": [{"index": 1, "embedding": [0.0, 0.0]}, {"index": 0, "embedding": [3.0, 4.0]}]}

    assert [[0.6, 0.8], [0.0, 0.0]] == vectors_of(answer, None)
    assert [[1.0], [0.0]] == vectors_of(answer, 1)
    for wrong in ([math.nan], [None], None, [[1.0]]):
        with pytest.raises(ValueError, match="embedding"):
            vectors_of({"data": [{"embedding": wrong}]}, None)


def test_the_answer() -> None:
    """Whole nanoseconds, zeros too."""
    answer: dict[str, Any] = render_embeddings("M:latest", [[1.0]], 7, Spent(0.25))

    assert {
        "model": "M:latest",
        "embeddings": [[1.0]],
        "total_duration": 250_000_000,
        "load_duration": 0,
        "prompt_eval_count": 7,
    } == answer
