"""Ollama's objects about models: a list's entry, what is loaded, what one is, and lines of progress. Pure.

Source: `api/types.go`, `server/routes.go` and `cmd/cmd.go` of ollama v0.33.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from hugind.supervisor.model_names import LATEST

FOREVER_S = 292 * 365.25 * 86400
"""What stays is said to go after as many seconds as fit into Go's largest duration: clients show "Forever"."""

_LATEST_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_PARAMETER_WIDTH = 30
_LONGEST_SHOWN = 5
"""Longer arrays of a GGUF header are shown when asked for (`verbose`) only."""
_LEFT_OUT = ("general.name", "tokenizer.chat_template")
_PROJECTOR_SIZES = ("embedding_length", "projection_dim")
_CLIENT_THAT_NEEDS_A_NAME = "GitHubCopilotChat/"
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_LARGEST_PLAIN = 1e21  # from there on Go writes an exponent


@dataclass(frozen=True)
class Card:
    """What clients are told of a model, or of an alias of one."""

    name: str
    size_bytes: int
    digest: str
    """64 hex digits."""
    modified_at: float
    """Unix seconds."""
    parent: str = ""
    """Of an alias: its model."""
    families: tuple[str, ...] = ()
    """The architecture first; `clip` for one that sees."""
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    """Tokens of one request, prompt and answer: what is served, not what the model was made for."""
    embedding_length: int = 0
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """How a model stands that is in memory. Numbers only: nothing of who uses it."""

    size_bytes: int
    vram_bytes: int
    expires_at: float | None
    """Unix seconds; None: it stays."""
    state: str
    refs: int
    is_pinned: bool
    slots: int
    free_slots: int
    waiting: int


@dataclass(frozen=True)
class Settings:
    """What is put before or beside every request for a model: its config's, and over it its alias's."""

    parameters: Mapping[str, Any]
    system: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    template: str = ""
    """As its author wrote it, in Jinja."""
    license: str = ""


def tagged(name: str) -> str:
    """A name as lists have it: always with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def time_text(unix_s: float) -> str:
    """RFC 3339 with an offset, and no finer than Python's own parser reads."""
    return datetime.fromtimestamp(min(unix_s, _LATEST_TIME), UTC).isoformat(timespec="microseconds")


def digest_of(parts: object) -> str:
    """64 hex digits that stand for `parts`, which JSON can say."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def list_entry(card: Card) -> dict[str, Any]:
    """One of `/api/tags`."""
    name = tagged(card.name)
    return {
        "name": name,
        "model": name,
        "modified_at": time_text(card.modified_at),
        "size": card.size_bytes,
        "digest": card.digest,
        "details": details(card),
        "capabilities": list(card.capabilities),
    }


def newest_first(cards: Iterable[Card]) -> list[Card]:
    """In the order of lists."""
    return sorted(cards, key=lambda card: (-card.modified_at, card.name))


def loaded_entry(card: Card, loaded: Loaded, now: float) -> dict[str, Any]:
    """One of `/api/ps`. Beyond `context_length` are our own keys, which clients leave alone."""
    name = tagged(card.name)
    return {
        "name": name,
        "model": name,
        "size": loaded.size_bytes,
        "digest": card.digest,
        "details": details(card),
        "expires_at": time_text(_expiry(loaded, now)),
        "size_vram": loaded.vram_bytes,
        "context_length": card.context_length,
        "state": loaded.state,
        "refs": loaded.refs,
        "pinned": loaded.is_pinned,
        "slots": loaded.slots,
        "free_slots": loaded.free_slots,
        "waiting": loaded.waiting,
    }


def longest_first(models: Iterable[tuple[Card, Loaded]], now: float) -> list[tuple[Card, Loaded]]:
    """Those first that stay longest."""
    return sorted(models, key=lambda one: (-_expiry(one[1], now), one[0].name))


def details(card: Card) -> dict[str, Any]:
    """What a model is; every text is one, if an empty one: some clients take no null."""
    return {
        "parent_model": card.parent,
        "format": "gguf",
        "family": card.families[0] if card.families else "",
        "families": list(card.families),
        "parameter_size": card.parameter_size,
        "quantization_level": card.quantization_level,
        "context_length": card.context_length,
        "embedding_length": card.embedding_length,
    }


def show_answer(
    card: Card,
    settings: Settings,
    model_info: Mapping[str, Any],
    projector_info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer of `/api/show`."""
    answer = {
        "license": settings.license,
        "modelfile": modelfile(card, settings),
        "parameters": parameters_text(settings.parameters),
        "template": settings.template,
        "system": settings.system or "",
        "details": details(card),
        "messages": [dict(message) for message in settings.messages],
        "model_info": dict(model_info),
        "capabilities": list(card.capabilities),
        "modified_at": time_text(card.modified_at),
    }
    return answer if projector_info is None else {**answer, "projector_info": dict(projector_info)}


def header_info(values: Mapping[str, Any], lengths: Mapping[str, int], *, is_verbose: bool) -> dict[str, Any]:
    """The keys of a GGUF header. `lengths`: of its arrays, of which those are empty that are long."""
    longest = math.inf if is_verbose else _LONGEST_SHOWN
    shown = {key: [] if lengths.get(key, 0) > longest else value for key, value in values.items()}
    unread: dict[str, Any] = {key: [] for key in lengths if key not in values}
    return {key: value for key, value in (shown | unread).items() if key not in _LEFT_OUT}


def served_info(info: Mapping[str, Any], card: Card, parameters: int, asked: str, user_agent: str) -> dict[str, Any]:
    """`header_info` as clients need it: with the context that they get, and what Ollama adds.

    Args:
        parameters: how many numbers the model has.
        asked: the name in the request; one client shows its models by it.
        user_agent: the header that says which client asks.
    """
    served = {"general.architecture": "", **info, "general.parameter_count": parameters}
    for key in [key for key in info if key.endswith(".context_length")]:
        served["hugind.trained_context"] = info[key]
        served[key] = card.context_length
    if user_agent.startswith(_CLIENT_THAT_NEEDS_A_NAME):
        served["general.basename"] = asked
    return served


def projector_info(info: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """`header_info` of a projector, with all that Ollama's command line takes for granted."""
    sizes = dict.fromkeys((f"{info.get('general.architecture')}.vision.{name}" for name in _PROJECTOR_SIZES), 0)
    return {**sizes, **info, "general.parameter_count": parameters}


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Lines of a name and a value, as `ollama show` prints them and other clients read them."""
    return "\n".join(f"{name:<{_PARAMETER_WIDTH}} {_literal(value)}" for name, value in _one_by_one(parameters))


def modelfile(card: Card, settings: Settings) -> str:
    """What Ollama's command line would make the same of. The file behind a model is none of its business."""
    lines = ["# Modelfile of a model that hugind serves", f"FROM {card.parent or card.name}"]
    if settings.template:
        lines.append(f"TEMPLATE {_quoted(settings.template)}")
    if settings.system:
        lines.append(f"SYSTEM {_quoted(settings.system)}")
    lines += [
        f"PARAMETER {name} {_quoted(value) if isinstance(value, str) else _plain(value)}"
        for name, value in _one_by_one(settings.parameters)
    ]
    if settings.license:
        lines.append(f"LICENSE {_quoted(settings.license)}")
    lines += [f"MESSAGE {message['role']} {_quoted(message['content'])}" for message in settings.messages]
    return "\n".join(lines) + "\n"


def progress_line(status: str, **figures: Any) -> bytes:
    """One line of a stream that tells how far something is."""
    return orjson.dumps({"status": status, **figures}) + b"\n"


def _expiry(loaded: Loaded, now: float) -> float:
    return now + FOREVER_S if loaded.expires_at is None else loaded.expires_at


def _one_by_one(parameters: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A line for each stop sequence."""
    return [
        (name, value)
        for name, given in parameters.items()
        for value in (given if isinstance(given, (list, tuple)) else [given])
    ]


def _literal(value: Any) -> str:
    """As Go's `%#v` writes it."""
    if not isinstance(value, str):
        return _plain(value)
    return '"' + "".join(_ESCAPES.get(char, char if char.isprintable() else _escape(char)) for char in value) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_PLAIN:
        return str(int(value))
    return str(value)


def _quoted(text: str) -> str:
    """As Modelfiles have it: only where it is needed."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'
