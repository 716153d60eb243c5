"""Which kind of memory a model has, and so what a saved conversation is worth to it. Pure.

Read from llama.cpp b11434 and b11549: `llm_arch_is_recurrent` and `llm_arch_is_hybrid` in `src/llama-arch.cpp`; for
sliding windows `load_arch_hparams` in each of `src/models/*.cpp` and `load_swa_pattern` in `src/llama-model.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from hugind.supervisor.models.gguf import GgufHeader, Value


class Family(StrEnum):
    """How far back a conversation can be taken up."""

    ATTENTION = "attention"
    """From any token."""
    SWA = "swa"
    """Layers with a sliding window forget: from near the end, or from a checkpoint."""
    RECURRENT = "recurrent"
    """From its end, or from a checkpoint."""
    HYBRID = "hybrid"
    """Attention and recurrence in one model: as recurrent."""


_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_HYBRID = {
    "bailingmoe3",
    "deepseek4",
    "falcon-h1",
    "glm5-next",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "minimax-01",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
}
_RECURRENT_KEYS = ("ssm.state_size", "ssm.inner_size", "wkv.head_size", "shortconv.l_cache")

_EVERY_LAYER = (0, False)
_PATTERNS = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "dots3note": _EVERY_LAYER,
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gemma4": _EVERY_LAYER,
    "gemma4-assistant": _EVERY_LAYER,
    "gpt-oss": (2, False),
    "granite_swa": _EVERY_LAYER,
    "laguna": (4, True),
    "lfm2": _EVERY_LAYER,
    "llama4": (4, False),
    "maple": _EVERY_LAYER,
    "mellum": (4, False),
    "mimo2": _EVERY_LAYER,
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
    "spark2_5": _EVERY_LAYER,
    "step35": _EVERY_LAYER,
}
"""Architectures whose window llama.cpp heeds: every how many layers one is full, and whether that is the first of them
instead of the last. It counts where the file has no `sliding_window_pattern`; those that must have one say "every"."""

_UNTOLD_WINDOWS = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
_EXAONE4_LAYERS_WITH_WINDOW = 64

CELL_PADDING = 256
"""A cache is as long as a multiple of this."""

ELEMENT_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Of one number in a cache, by the cache type."""


def family_of(header_values: Mapping[str, Value], architecture: str) -> Family:
    """The family of a model by the keys of its GGUF header.

    An architecture that is not known is judged by its keys: one with a state is recurrent, or hybrid if it has
    attention heads; one with a window counts as such only if it says which layers have it, because many carry a
    window that llama.cpp does not use (phi3, for one).
    """
    if architecture in _RECURRENT:
        return Family.RECURRENT
    if architecture in _HYBRID:
        return Family.HYBRID
    if any(number_of(header_values, architecture, key) for key in _RECURRENT_KEYS):
        heads = number_of(header_values, architecture, "attention.head_count")
        return Family.HYBRID if heads else Family.RECURRENT
    return Family.SWA if sliding_window(header_values, architecture) else Family.ATTENTION


def sliding_window(header_values: Mapping[str, Value], architecture: str) -> int:
    """Tokens that the layers with a window see; 0 if llama.cpp gives none of them a window."""
    pattern = header_values.get(f"{architecture}.attention.sliding_window_pattern")
    if architecture not in _PATTERNS and pattern is None:
        return 0
    if (
        architecture == "exaone4"
        and number_of(header_values, architecture, "block_count") != _EXAONE4_LAYERS_WITH_WINDOW
    ):
        return 0
    untold = _UNTOLD_WINDOWS.get(architecture, 0)
    told = number_of(header_values, architecture, "attention.sliding_window", untold)
    return _FIXED_WINDOWS.get(architecture, told) if told else 0


def swa_full_cost_bytes(
    header: GgufHeader, ctx_size: int, slots: int, element_bytes: float = 2.0, *, ubatch_size: int = 512
) -> int:
    """KV memory that `--swa-full` takes beyond the default, with a split cache of `slots` times `ctx_size` tokens.

    An upper bound where the header does not tell the layers with a window apart, and where layers share a cache
    (gemma3n). 0 for a model without a window, or with a header that lacks what llama.cpp requires.

    Args:
        element_bytes: of the cache type, see `ELEMENT_BYTES`.
        ubatch_size: what the engine runs with; the window is stored with so much to spare.
    """
    window = sliding_window(header.values, header.architecture)
    windowed = windowed_cells(window, ctx_size, ubatch_size)
    if not window or windowed >= ctx_size:
        return 0
    return int(slots * (ctx_size - windowed) * _windowed_elements(header) * element_bytes)


def windowed_cells(window: int, ctx_size: int, ubatch_size: int) -> int:
    """Tokens that a layer with a window keeps of one slot."""
    return -(-min(ctx_size, window + ubatch_size) // CELL_PADDING) * CELL_PADDING


def _windowed_elements(header: GgufHeader) -> int:
    """Numbers that the layers with a window keep for one token."""
    layers = header.layers or 0
    kv_heads = header.kv_heads
    per_layer = kv_heads if isinstance(kv_heads, tuple) else (kv_heads or 0,) * layers
    values, architecture = header.values, header.architecture
    width = number_of(values, architecture, "attention.key_length_swa", header.key_length or 0)
    width += number_of(values, architecture, "attention.value_length_swa", header.value_length or 0)
    own = layers - number_of(values, architecture, "attention.shared_kv_layers")
    has_window = layers_with_window(values, architecture, layers)
    return sum(heads * width for heads, is_in in zip(per_layer[:own], has_window[:own], strict=False) if is_in)


def layers_with_window(values: Mapping[str, Value], architecture: str, layers: int) -> list[bool]:
    """Of each layer, whether it sees the last tokens only; for a model of which `sliding_window` says so."""
    pattern = values.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return [bool(one) for one in pattern]
    period, is_first_full = _PATTERNS.get(architecture, _EVERY_LAYER)
    if isinstance(pattern, int):
        period = pattern
    full = 0 if is_first_full else period - 1
    return [period == 0 or layer % period != full for layer in range(layers)]


def number_of(values: Mapping[str, Value], architecture: str, key: str, default: int = 0) -> int:
    """A count; of an array, the largest."""
    found = values.get(f"{architecture}.{key}", default)
    if isinstance(found, tuple):
        return max((one for one in found if isinstance(one, int)), default=default)
    return found if isinstance(found, int) else default
