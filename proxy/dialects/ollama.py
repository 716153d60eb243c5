"""The Ollama dialect's answers: the engine's stream as lines of JSON, or as one object; and error bodies. Pure.

Source: `api/types.go` of ollama v0.33, and what its clients trip over: reference/ollama.md, sections (a) and (f).
Whole numbers are sent even where they are 0, durations in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from hugind.proxy.dialects.errors import EngineStreamError, raise_if_error
from hugind.proxy.dialects.ollama_request import MAX_LOGPROBS

_NS_OF_S, _NS_OF_MS = 1_000_000_000, 1_000_000
_CALL_ID_HEX = 8


def render_error(message: str) -> dict[str, Any]:
    """Ollama's error body."""
    return {"error": message}


def error_line(message: str) -> bytes:
    """The last line of a stream that broke: there is no `done` after it."""
    return orjson.dumps(render_error(message)) + b"\n"


@dataclass(frozen=True)
class Spent:
    """Seconds that went by."""

    total_s: float
    """Since the request came."""
    load_s: float = 0.0
    """Of these, until the model was loaded."""


@dataclass
class Piece:
    """A part of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.logprobs or self.tool_calls)


class Form(Protocol):
    """How a route spells a piece of an answer."""

    def __call__(self, piece: Piece) -> dict[str, Any]: ...


def as_message(piece: Piece) -> dict[str, Any]:
    """`/api/chat`: in a message, whose content is always a string."""
    message: dict[str, Any] = {"role": "assistant", "content": piece.text}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.tool_calls:
        message["tool_calls"] = piece.tool_calls
    return {"message": message}


def as_response(piece: Piece) -> dict[str, Any]:
    """`/api/generate`: as plain text."""
    return {"response": piece.text, **({"thinking": piece.thinking} if piece.thinking else {})}


class Reader(Protocol):
    """Understands the engine's events of one stream."""

    finish_reason: str | None
    """As the engine says it; None while it goes on."""
    timings: dict[str, Any]

    def read(self, event: dict[str, Any]) -> Piece:
        """What an event adds, often nothing. Raises EngineStreamError if it is an error."""

    def rest(self) -> Piece:
        """What is only known once the stream ended."""


class ChatReader:
    """Of `/v1/chat/completions`. Calls of tools are kept until they are whole.

    `top_logprobs`: alternatives that the client wants; the engine was asked for at least one.
    """

    def __init__(self, top_logprobs: int = 0) -> None:
        self.finish_reason: str | None = None
        self.timings: dict[str, Any] = {}
        self._top = top_logprobs
        self._calls: dict[int, _Call] = {}

    def read(self, event: dict[str, Any]) -> Piece:
        """As `Reader`."""
        raise_if_error(event)
        self.timings = event.get("timings") or self.timings
        piece = Piece()
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            piece.text += delta.get("content") or ""
            piece.thinking += delta.get("reasoning_content") or ""
            for fragment in delta.get("tool_calls") or ():
                self._calls.setdefault(fragment.get("index", 0), _Call()).add(fragment)
            piece.logprobs += _logprobs((choice.get("logprobs") or {}).get("content"), self._top)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return piece

    def rest(self) -> Piece:
        """As `Reader`: the calls. One that a limit has cut short is left out."""
        calls = [self._calls[index].result(index) for index in sorted(self._calls)]
        return Piece(tool_calls=[call for call in calls if call is not None])


class NativeReader:
    """Of `/completion` and `/infill`. `top_logprobs`: as for `ChatReader`."""

    def __init__(self, top_logprobs: int = 0) -> None:
        self.finish_reason: str | None = None
        self.timings: dict[str, Any] = {}
        self._top = top_logprobs

    def read(self, event: dict[str, Any]) -> Piece:
        """As `Reader`."""
        raise_if_error(event)
        self.timings = event.get("timings") or self.timings
        if event.get("stop") is True:
            self.finish_reason = "length" if event.get("stop_type") == "limit" else "stop"
        return Piece(event.get("content") or "", logprobs=_logprobs(event.get("completion_probabilities"), self._top))

    def rest(self) -> Piece:
        """As `Reader`: nothing."""
        return Piece()


@dataclass(frozen=True)
class Told:
    """What every object of an answer says, and what the last one says of all."""

    model: str
    """As the client wrote it."""
    form: Form
    now: Callable[[], float]
    """Unix seconds."""
    spent: Callable[[], Spent]
    """Asked for once, at the end."""
    context: Callable[[str], list[int]] | None = None
    """From the text of the whole answer to what the client may send back with its next prompt."""

    def part(self, piece: Piece) -> dict[str, Any]:
        """An object of a stream that goes on."""
        return self._object(piece, is_last=False)

    def last(self, reader: Reader, piece: Piece, text: str) -> dict[str, Any]:
        """The last object, or the only one: `piece` is what was not told before, `text` the whole answer.

        Raises:
            EngineStreamError: the engine's stream ended before its answer did.
        """
        if reader.finish_reason is None:
            raise EngineStreamError.cut_off()
        ended = self._object(piece, is_last=True)
        ended["done_reason"] = "length" if reader.finish_reason == "length" else "stop"
        if self.context is not None:
            ended["context"] = self.context(text)
        return ended | _figures(reader.timings, self.spent())

    def bare(self, done_reason: str) -> dict[str, Any]:
        """The answer to who only wanted the model loaded, or unloaded."""
        return {**self._object(Piece(), is_last=True), "done_reason": done_reason}

    def _object(self, piece: Piece, *, is_last: bool) -> dict[str, Any]:
        said = {"model": self.model, "created_at": timestamp(self.now()), **self.form(piece), "done": is_last}
        if piece.logprobs:
            said["logprobs"] = piece.logprobs
        return said


class Lines:
    """Turns the engine's events into lines; lives as long as that one stream."""

    def __init__(self, told: Told, reader: Reader) -> None:
        self._told = told
        self._reader = reader
        self._texts: list[str] = []

    def feed(self, event: dict[str, Any] | None) -> bytes:
        """The line that an event causes, often none. Raises EngineStreamError if it is an error."""
        piece = Piece() if event is None else self._reader.read(event)
        if not piece:
            return b""
        if self._told.context is not None:
            self._texts.append(piece.text)
        return _line(self._told.part(piece))

    def finish(self) -> bytes:
        """The last lines. Raises EngineStreamError if the engine's stream ended before its answer did."""
        rest = self._reader.rest()
        before = _line(self._told.part(rest)) if rest else b""
        return before + _line(self._told.last(self._reader, Piece(), "".join(self._texts)))


class Whole:
    """Puts the engine's events together into one object; lives as long as that one stream."""

    def __init__(self, told: Told, reader: Reader) -> None:
        self._told = told
        self._reader = reader
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def feed(self, event: dict[str, Any] | None) -> None:
        """One event. Raises EngineStreamError if it is an error."""
        if event is not None:
            piece = self._reader.read(event)
            self._texts.append(piece.text)
            self._thoughts.append(piece.thinking)
            self._logprobs += piece.logprobs

    def result(self) -> dict[str, Any]:
        """The answer. Raises EngineStreamError if the engine's stream ended before its answer did."""
        text = "".join(self._texts)
        piece = Piece(text, "".join(self._thoughts), self._logprobs, self._reader.rest().tool_calls)
        return self._told.last(self._reader, piece, text)


def timestamp(unix_s: float) -> str:
    """RFC 3339 in UTC, with microseconds: the finest that Python's own parser takes."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """Seconds as Ollama sends them."""
    return round(seconds * _NS_OF_S)


def _figures(timings: dict[str, Any], spent: Spent) -> dict[str, int]:
    """The prompt counts whole; its duration is that of what was not cached, as in ollama v0.33.3."""
    cached = int(timings.get("cache_n", 0))
    return {
        "total_duration": nanoseconds(spent.total_s),
        "load_duration": nanoseconds(spent.load_s),
        "prompt_eval_count": cached + int(timings.get("prompt_n", 0)),
        "prompt_eval_cached_count": cached,
        "prompt_eval_duration": round(timings.get("prompt_ms", 0) * _NS_OF_MS),
        "eval_count": int(timings.get("predicted_n", 0)),
        "eval_duration": round(timings.get("predicted_ms", 0) * _NS_OF_MS),
    }


def _logprobs(tokens: object, top: int) -> list[dict[str, Any]]:
    if not isinstance(tokens, list):
        return []
    return [{**_logprob(token), **_alternatives(token, min(top, MAX_LOGPROBS))} for token in tokens]


def _alternatives(token: dict[str, Any], top: int) -> dict[str, Any]:
    return {"top_logprobs": [_logprob(one) for one in (token.get("top_logprobs") or ())[:top]]} if top else {}


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    text = token.get("token") or ""
    return {"token": text, "logprob": token.get("logprob", 0.0), "bytes": token.get("bytes") or list(text.encode())}


class _Call:
    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._arguments: list[str] = []

    def add(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function") or {}
        self._id = fragment.get("id") or self._id
        self._name += function.get("name") or ""
        self._arguments.append(function.get("arguments") or "")

    def result(self, index: int) -> dict[str, Any] | None:
        """None: its arguments are not whole."""
        try:
            arguments = orjson.loads("".join(self._arguments) or "{}")
        except orjson.JSONDecodeError:
            return None
        if not isinstance(arguments, dict):
            return None
        return {
            "id": self._id or f"call_{index:0{_CALL_ID_HEX}x}",
            "function": {"index": index, "name": self._name, "arguments": arguments},
        }


def _line(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said) + b"\n"
