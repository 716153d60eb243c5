"""What an alias says goes into every request that does not say otherwise. Pure.

An alias has its parameters by Ollama's names. Source of the mapping: reference/ollama.md, "options".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENGINE_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_last_n": "repeat_last_n",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_tokens",
    "num_keep": "n_keep",
}
"""Ollama's options that can be said for one request, and what llama-server calls them. All others are of loading."""

_SAME = {"max_tokens": ("max_completion_tokens", "max_output_tokens", "n_predict")}
"""What a request may say instead."""

_HEAD_ROLES = ("system", "developer")


def add_parameters(request: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Put parameters of an alias into an engine's request, where it does not say so itself."""
    for name, value in parameters.items():
        field = ENGINE_NAMES.get(name)
        if (
            field is None
            or value is None
            or any(request.get(key) is not None for key in (field, *_SAME.get(field, ())))
        ):
            continue
        if field == "max_tokens" and isinstance(value, int) and value < 0:
            continue  # as much as there is room for: so it is without
        request[field] = value


def add_messages(messages: Any, system: str | None, before: tuple[Mapping[str, Any], ...]) -> Any:
    """A chat's messages behind an alias's own; its system prompt only where the chat brings none."""
    if not isinstance(messages, list):
        return messages  # the engine will say what is wrong
    head = 1 if messages and isinstance(messages[0], dict) and messages[0].get("role") in _HEAD_ROLES else 0
    own = [] if head or system is None else [{"role": "system", "content": system}]
    return [*messages[:head], *own, *map(dict, before), *messages[head:]]
