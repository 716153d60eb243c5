"""The family of a model decides what is done with its conversations, so it is read as llama.cpp reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hugind.supervisor.models.family import Family, family_of, sliding_window, swa_full_cost_bytes
from hugind.supervisor.models.gguf import GgufHeader, read_header
from tests.engines import DEMO_MODEL


def keys(architecture: str, **values: Any) -> dict[str, Any]:
    """Header values: `a__b` stands for the key `<architecture>.a.b`."""
    return {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("architecture", "values", "family"),
    [
        ("llama", {}, Family.ATTENTION),
        ("qwen3moe", {"attention__head_count": 32}, Family.ATTENTION),
        ("llama", {"attention__sliding_window": 4096}, Family.ATTENTION),
        ("phi3", {"attention__sliding_window": 2047}, Family.ATTENTION),
        ("gemma3", {"attention__sliding_window": 512}, Family.SWA),
        ("gemma3", {"attention__sliding_window": 0}, Family.ATTENTION),
        ("gemma3", {}, Family.ATTENTION),
        ("gemma2", {}, Family.SWA),
        ("gpt-oss", {"attention__sliding_window": 128}, Family.SWA),
        ("llama4", {}, Family.SWA),
        ("llama4", {"attention__sliding_window": 0}, Family.ATTENTION),
        ("exaone4", {"block_count": 64}, Family.SWA),
        ("exaone4", {"block_count": 30, "attention__sliding_window": 4096}, Family.ATTENTION),
        ("mamba", {"ssm__state_size": 16}, Family.RECURRENT),
        ("rwkv7", {"wkv__head_size": 64}, Family.RECURRENT),
        ("falcon-h1", {"ssm__state_size": 16}, Family.HYBRID),
        ("qwen3next", {}, Family.HYBRID),
        ("lfm2", {"shortconv__l_cache": 3, "attention__sliding_window": 512}, Family.HYBRID),
        ("granitehybrid", {}, Family.HYBRID),
        ("newcomer", {"attention__sliding_window": 512}, Family.ATTENTION),
        (
            "newcomer",
            {"attention__sliding_window": 512, "attention__sliding_window_pattern": (True, False)},
            Family.SWA,
        ),
        ("newcomer", {"ssm__state_size": 16, "attention__head_count": (0, 8)}, Family.HYBRID),
        ("newcomer", {"ssm__state_size": 16, "attention__head_count": 0}, Family.RECURRENT),
    ],
)
def test_family(architecture: str, values: dict[str, Any], family: Family) -> None:
    """By name where llama.cpp goes by name; a window that it does not use is none."""
    assert family is family_of(keys(architecture, **values), architecture)


def test_demo() -> None:
    """What is shipped is plain attention."""
    header = read_header(DEMO_MODEL)

    assert Family.ATTENTION is family_of(header.values, header.architecture)


@pytest.mark.parametrize(
    ("architecture", "told", "window"),
    [("gemma2", None, 4096), ("gemma3", 1024, 1024), ("llama4", 4096, 8192), ("smallthinker", 1024, 4096)],
)
def test_window(architecture: str, told: int | None, window: int) -> None:
    """Some architectures have the size of their window in llama.cpp, not in the file."""
    values = {} if told is None else keys(architecture, attention__sliding_window=told)

    assert window == sliding_window(values, architecture)


def header(architecture: str, **values: Any) -> GgufHeader:
    """Twelve layers of two heads of 64."""
    shape = {
        "block_count": 12,
        "attention__head_count": 4,
        "attention__head_count_kv": 2,
        "attention__key_length": 64,
        "attention__value_length": 64,
    }
    plain = read_header(DEMO_MODEL)
    return replace(plain, architecture=architecture, values=keys(architecture, **{**shape, **values}))


A_LAYER = 2 * (64 + 64) * 2
"""Bytes of f16 a token."""


@pytest.mark.parametrize(
    ("architecture", "values", "layers"),
    [
        ("gemma3", {}, 10),
        ("gpt-oss", {}, 6),
        ("cohere2moe", {}, 9),
        ("gemma3", {"attention__sliding_window_pattern": 4}, 9),
        ("gemma3", {"attention__sliding_window_pattern": (True, False) * 6}, 6),
        ("gemma4", {"attention__sliding_window_pattern": (True, False) * 6, "attention__shared_kv_layers": 4}, 4),
        ("step35", {}, 12),
        ("lfm2", {"attention__head_count_kv": (0, 2) * 6}, 6),
    ],
)
def test_cost_counts_layers_with_window(architecture: str, values: dict[str, Any], layers: int) -> None:
    """Only layers with a window and a cache of their own grow."""
    model = header(architecture, attention__sliding_window=512, **values)

    assert 3 * (8192 - 1024) * layers * A_LAYER == swa_full_cost_bytes(model, 8192, 3)


def test_cost() -> None:
    """Nothing where nothing grows; heads of the layers with a window may have their own size."""
    model = header(
        "gemma4", attention__sliding_window=512, attention__key_length_swa=32, attention__value_length_swa=32
    )

    assert 0 == swa_full_cost_bytes(header("llama"), 8192, 3)
    assert 0 == swa_full_cost_bytes(header("gemma3", attention__sliding_window=512), 1024, 3)
    assert (8192 - 1024) * 12 * A_LAYER // 2 == swa_full_cost_bytes(model, 8192, 1)
    assert (8192 - 1024) * 12 * A_LAYER // 4 == swa_full_cost_bytes(model, 8192, 1, 1.0)
    assert (8192 - 768) * 12 * A_LAYER // 2 == swa_full_cost_bytes(model, 8192, 1, ubatch_size=256)
