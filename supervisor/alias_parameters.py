"""What an alias can set for those who ask it, by Ollama's names, and of which kind it must be. Pure.

Source: `api/types.go` of ollama v0.33 (Options, Runner), with what older clients still send.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("mirostat_tau", "mirostat_eta", "tfs_z"),
)
_INTEGERS = (
    *("top_k", "repeat_last_n", "mirostat", "seed", "num_predict", "num_keep"),
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "draft_num_predict"),
)
_SWITCHES = (
    *("use_mmap", "use_mlock", "numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "embedding_only"),
    "penalize_newline",
)
PARAMETER_KINDS = {
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(_INTEGERS, "integer"),
    **dict.fromkeys(_SWITCHES, "boolean"),
    "stop": "array",
}
"""Those that are about loading are kept and shown, and without effect: that is for the config of a model to say."""

_OTHER_NAMES = {
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
    "max_new_tokens": "num_predict",
    "temp": "temperature",
}
"""As people say who come from elsewhere."""

_MOST = 2**53
"""Beyond, a number is not what it was once it has been through somebody's JSON."""


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same by Ollama's names and of its kinds; what is null is left out.

    A whole number may be written as `1.0`; one stop sequence may stand without a list.

    Raises:
        ValueError: there is no such parameter, or its value is of another kind, in Ollama's words.
    """
    checked: dict[str, Any] = {}
    for said, value in given.items():
        name = _OTHER_NAMES.get(said, said)
        kind = PARAMETER_KINDS.get(name)
        if kind is None:
            raise ValueError(f"unknown parameter '{said}'")
        if value is not None:
            checked[name] = _of_kind(name, kind, value)
    return checked


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the `options` of a request say, by Ollama's names and of its kinds.

    As Ollama reads them: unknown names and nulls are ignored, and what shall be whole may have a fraction, which is cut
    off. Where a name is given in several spellings, Ollama's own counts.

    Raises:
        ValueError: a value is of another kind, in Ollama's words.
    """
    options: dict[str, Any] = {}
    for said, value in given.items():
        name = _OTHER_NAMES.get(said, said)
        kind = PARAMETER_KINDS.get(name)
        if kind is None or value is None or (said != name and given.get(name) is not None):
            continue
        is_cut = kind == "integer" and isinstance(value, float) and math.isfinite(value)
        options[name] = _of_kind(name, kind, math.trunc(value) if is_cut else value)
    return options


def _of_kind(name: str, kind: str, value: Any) -> Any:
    if kind == "array":
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, (list, tuple)) and all(isinstance(stop, str) for stop in stops):
            return list(stops)
        raise ValueError(f'option "{name}" must be of type array of strings')
    if kind == "boolean":
        if isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST <= value <= _MOST:
        if kind == "number":
            return value
        if value == int(value):
            return int(value)
    raise ValueError(f'option "{name}" must be of type {kind}')
