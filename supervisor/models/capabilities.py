"""What can a model do? Read from its header. Pure.

The words are Ollama's: `completion`, `embedding`, `tools`, `insert`, `vision`, `thinking`.
"""

from __future__ import annotations

import re
from typing import Literal

from hugind.supervisor.models.gguf import GgufHeader

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    4: "Q4_1_F16",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
}
"""`general.file_type`: llama.cpp's `LLAMA_FTYPE`, by the names that files carry."""

UNKNOWN = "unknown"

_INSERT_KEYS = (
    *(f"tokenizer.ggml.{name}_token_id" for name in ("prefix", "suffix", "middle")),
    *(f"tokenizer.ggml.fim_{name}_token_id" for name in ("pre", "suf", "mid")),
)
_THINKING = re.compile(
    r"</?think>|<\|think\|>|\[THINK\]|enable_thinking|reasoning_effort|reasoning_content|\bthinking\b"
)
_TOOLS = re.compile(r"\btools\b")
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
_RANK = 4  # LLAMA_POOLING_TYPE_RANK

Task = Literal["chat", "embedding", "rerank"]


def capabilities_of(header: GgufHeader, *, has_mmproj: bool, task: str | None) -> tuple[str, ...]:
    """What clients may ask of a model.

    Args:
        has_mmproj: a vision projector is loaded with it.
        task: what its config says it serves; None where there is none: then the file decides.
    """
    serves = task or task_of(header)
    if serves != "chat":
        return ("embedding",) if serves == "embedding" else ()
    template = header.chat_template or ""
    found = {
        "completion": True,
        "tools": _TOOLS.search(template) is not None,
        "insert": any(key in header.values for key in _INSERT_KEYS),
        "vision": has_mmproj,
        "thinking": _THINKING.search(template) is not None,
    }
    return tuple(word for word, has in found.items() if has)


def task_of(header: GgufHeader) -> Task:
    """What a model is for, where no config says: only models for it say how their tokens are summed up."""
    pooling = header.values.get(f"{header.architecture}.pooling_type")
    if pooling is None:
        return "chat"
    return "rerank" if pooling == _RANK else "embedding"


def parameter_size(header: GgufHeader, parameters: int | None = None) -> str:
    """As people write it: `7.6B`, `135M`.

    Args:
        parameters: of all parts, where the model is split.
    """
    told = header.values.get("general.parameter_count")
    label = header.values.get("general.size_label")
    count = parameters or (told if isinstance(told, int) else 0)
    if not count and header.values.get("split.count", 1) == 1:
        count = header.parameters
    if not count:
        return label if isinstance(label, str) else UNKNOWN
    return next((f"{_short(count / unit)}{name}" for unit, name in _UNITS if count >= unit), str(count))


def quantization_level(header: GgufHeader) -> str:
    """The name of `general.file_type`, such as `Q4_K_M`; `unknown` where the file does not say."""
    kind = header.values.get("general.file_type")
    return FILE_TYPES.get(kind, UNKNOWN) if isinstance(kind, int) else UNKNOWN


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
