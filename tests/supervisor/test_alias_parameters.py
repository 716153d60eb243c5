"""What an alias may set."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hugind.proxy.dialects.defaults import ENGINE_NAMES
from hugind.supervisor.alias_parameters import PARAMETER_KINDS, check_parameters, read_options


def test_by_ollamas_names() -> None:
    """Names of other tools are turned into Ollama's, a single stop into a list, and null says nothing."""
    given = {"temp": 0.2, "repetition_penalty": 1.1, "max_new_tokens": 64.0, "stop": "END", "seed": None, "top_k": 5}

    assert {
        "temperature": 0.2,
        "repeat_penalty": 1.1,
        "num_predict": 64,
        "stop": ["END"],
        "top_k": 5,
    } == check_parameters(given)


def test_what_loading_needs_is_kept() -> None:
    """Modelfiles say it; it must not be refused."""
    given = {"num_ctx": 8192, "use_mmap": False, "num_gpu": 99, "num_thread": 8, "penalize_newline": True}

    assert given == check_parameters(given)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temprature", 1, "unknown parameter 'temprature'"),
        ("temperature", "hot", 'option "temperature" must be of type number'),
        ("temperature", True, 'option "temperature" must be of type number'),
        ("temperature", math.nan, 'option "temperature" must be of type number'),
        ("num_predict", 1.5, 'option "num_predict" must be of type integer'),
        ("num_ctx", "8k", 'option "num_ctx" must be of type integer'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", ["a", 1], 'option "stop" must be of type array of strings'),
        ("stop", {"a": 1}, 'option "stop" must be of type array of strings'),
    ],
)
def test_refused(name: str, value: Any, said: str) -> None:
    """In the words that Ollama's clients know."""
    with pytest.raises(ValueError) as refused:
        check_parameters({name: value})

    assert said == str(refused.value)


def test_all_that_the_engine_takes() -> None:
    """What can be said for one request can be said for an alias; all else is about loading."""
    about_loading = {name for name, kind in PARAMETER_KINDS.items() if kind == "boolean"} | {
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "tfs_z", "draft_num_predict"),
    }

    assert PARAMETER_KINDS.keys() == ENGINE_NAMES.keys() | about_loading


def test_options_of_a_request() -> None:
    """Read as Ollama reads them: unknown ones and nulls are ignored, fractions cut off, and its own spelling counts."""
    given = {
        "max_tokens": 64,
        "num_predict": 8.9,
        "repetition_penalty": 1.1,
        "stop": "END",
        "seed": None,
        "warp_factor": 9,
        "num_ctx": 4096.0,
    }

    assert {"num_predict": 8, "repeat_penalty": 1.1, "stop": ["END"], "num_ctx": 4096} == read_options(given)


@pytest.mark.parametrize(("name", "value"), [("num_ctx", "8k"), ("seed", 1e300), ("top_k", math.inf)])
def test_options_of_another_kind(name: str, value: Any) -> None:
    """Also of those that have no effect."""
    with pytest.raises(ValueError, match=f'option "{name}" must be of type integer'):
        read_options({name: value})
