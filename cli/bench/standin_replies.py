"""The bodies and events that llama-server sends, one class per dialect. Pure."""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

FINGERPRINT = "b0-standin"
_EMBEDDING_SIZE = 8
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one generation counted and took."""

    prompt: int
    cached: int
    predicted: int
    prompt_ms: float
    predicted_ms: float

    def as_openai(self) -> dict[str, Any]:
        return {
            "completion_tokens": self.predicted,
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.predicted,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def as_responses(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt,
            "output_tokens": self.predicted,
            "total_tokens": self.prompt + self.predicted,
            "input_tokens_details": {"cached_tokens": self.cached},
        }

    def timings(self) -> dict[str, Any]:
        fresh = self.prompt - self.cached
        return {
            "cache_n": self.cached,
            "prompt_n": fresh,
            "prompt_ms": self.prompt_ms,
            "prompt_per_token_ms": self.prompt_ms / max(fresh, 1),
            "prompt_per_second": fresh * 1e3 / max(self.prompt_ms, 1e-3),
            "predicted_n": self.predicted,
            "predicted_ms": self.predicted_ms,
            "predicted_per_token_ms": self.predicted_ms / max(self.predicted, 1),
            "predicted_per_second": self.predicted * 1e3 / max(self.predicted_ms, 1e-3),
        }


class Reply(Protocol):
    """One answer in one dialect: as events (each goes out as one chunk), or whole."""

    def first(self) -> Sequence[bytes]:
        """What precedes the first token."""

    def token(self, piece: str) -> bytes:
        """One generated token."""

    def last(self, text: str, finish: str, usage: Usage) -> Sequence[bytes]:
        """What follows the last token."""

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        """The non-streaming body."""


class ChatReply:
    """`/v1/chat/completions`. All `n` choices say the same."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        self._wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._choices = range(body.get("n") or 1)
        self._base = {"created": int(time.time()), "model": model, "system_fingerprint": FINGERPRINT}
        self._id = f"chatcmpl-{next(_numbers):032d}"
        self._chunk = {**self._base, "id": self._id, "object": "chat.completion.chunk"}
        self._tail = b"}]," + orjson.dumps(self._chunk)[1:] + b"\n\n"

    def first(self) -> Sequence[bytes]:
        return (self._delta(b'{"role":"assistant","content":null}'),)

    def token(self, piece: str) -> bytes:
        return self._delta(b'{"content":' + orjson.dumps(piece) + b"}")

    def last(self, text: str, finish: str, usage: Usage) -> Sequence[bytes]:
        ends: list[dict[str, Any]] = [
            {"choices": [{"finish_reason": finish, "index": i, "delta": {}}], **self._chunk} for i in self._choices
        ]
        if self._wants_usage:
            ends.append({"choices": [], **self._chunk, "usage": usage.as_openai()})
        ends[-1]["timings"] = usage.timings()
        return (b"".join(map(_event, ends)), b"data: [DONE]\n\n")

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        message = {"role": "assistant", "content": text}
        return orjson.dumps(
            {
                "choices": [{"finish_reason": finish, "index": i, "message": message} for i in self._choices],
                **self._base,
                "object": "chat.completion",
                "usage": usage.as_openai(),
                "id": self._id,
                "timings": usage.timings(),
            }
        )

    def _delta(self, delta: bytes) -> bytes:
        head = b'data: {"choices":[{"finish_reason":null,"index":%d,"delta":%b'
        return b"".join([head % (i, delta) + self._tail for i in self._choices])


class CompletionReply:
    """`/v1/completions`. All `n` choices say the same."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        self._choices = range(body.get("n") or 1)
        self._base = {"created": int(time.time()), "model": model, "system_fingerprint": FINGERPRINT}
        self._base |= {"object": "text_completion", "id": f"chatcmpl-{next(_numbers):032d}"}

    def first(self) -> Sequence[bytes]:
        return ()

    def token(self, piece: str) -> bytes:
        return b"".join([_event(self._body([i], piece, None)) for i in self._choices])

    def last(self, text: str, finish: str, usage: Usage) -> Sequence[bytes]:
        counted = {"usage": usage.as_openai(), "timings": usage.timings()}
        return (
            b"".join([_event({**self._body([i], "", finish), **counted}) for i in self._choices]),
            b"data: [DONE]\n\n",
        )

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        counted = {"usage": usage.as_openai(), "timings": usage.timings()}
        return orjson.dumps({**self._body(self._choices, text, finish), **counted})

    def _body(self, choices: Sequence[int], text: str, finish: str | None) -> dict[str, Any]:
        said = [{"text": text, "index": i, "logprobs": None, "finish_reason": finish} for i in choices]
        return {"choices": said, **self._base}


class LegacyReply:
    """`/completion` and `/infill`: llama-server's own dialect. The only one that names the slot."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        self._model = model
        self._prompt = str(body.get("prompt", ""))
        self._sent = 0
        self.slot_id = 0

    def first(self) -> Sequence[bytes]:
        return ()

    def token(self, piece: str) -> bytes:
        self._sent += 1
        frame = {"index": 0, "content": piece, "tokens": to_tokens(piece.encode()), "stop": False}
        return _event({**frame, "id_slot": -1, "tokens_predicted": self._sent})

    def last(self, text: str, finish: str, usage: Usage) -> Sequence[bytes]:
        return (_event(self._final("", finish, usage)),)

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        return orjson.dumps(self._final(text, finish, usage))

    def _final(self, content: str, finish: str, usage: Usage) -> dict[str, Any]:
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "id_slot": self.slot_id,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.predicted,
            "tokens_evaluated": usage.prompt,
            "generation_settings": {},
            "prompt": self._prompt,
            "has_new_line": False,
            "truncated": False,
            "stop_type": "limit" if finish == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": usage.prompt + usage.predicted,
            "timings": usage.timings(),
        }


class ResponsesReply:
    """`/v1/responses`. Its stream ends without `[DONE]`."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        number = next(_numbers)
        self._id, self._item = f"resp_{number:032d}", f"msg_{number:032d}"
        self._model = model
        self._created = int(time.time())

    def first(self) -> Sequence[bytes]:
        started = {"id": self._id, "object": "response", "status": "in_progress"}
        item = {"content": [], "id": self._item, "role": "assistant", "status": "in_progress", "type": "message"}
        return (
            _named("response.created", {"response": started})
            + _named("response.in_progress", {"response": started})
            + _named("response.output_item.added", {"item": item})
            + _named(
                "response.content_part.added", {"item_id": self._item, "part": {"type": "output_text", "text": ""}}
            ),
        )

    def token(self, piece: str) -> bytes:
        return _named("response.output_text.delta", {"item_id": self._item, "delta": piece})

    def last(self, text: str, finish: str, usage: Usage) -> Sequence[bytes]:
        item = self._message(text)
        return (
            _named("response.output_text.done", {"item_id": self._item, "text": text})
            + _named("response.content_part.done", {"item_id": self._item, "part": item["content"][0]})
            + _named("response.output_item.done", {"item": item})
            + _named("response.completed", {"response": self._response(text, usage), "timings": usage.timings()}),
        )

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        return orjson.dumps({"completed_at": int(time.time()), **self._response(text, usage)})

    def _message(self, text: str) -> dict[str, Any]:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        return {"content": [part], "id": self._item, "role": "assistant", "status": "completed", "type": "message"}

    def _response(self, text: str, usage: Usage) -> dict[str, Any]:
        return {
            "created_at": self._created,
            "id": self._id,
            "model": self._model,
            "object": "response",
            "output": [self._message(text)],
            "status": "completed",
            "usage": usage.as_responses(),
        }


def error_body(status: int, kind: str, message: str, **more: Any) -> bytes:
    return orjson.dumps({"error": {"code": status, "message": message, "type": kind, **more}})


def error_event(message: str) -> bytes:
    """An error after the first token: an event, and nothing follows it."""
    return _event({"error": {"code": 500, "message": message, "type": "server_error"}})


def embeddings_body(model: str, body: dict[str, Any]) -> bytes:
    given = body.get("input", body.get("content", ""))
    texts = given if isinstance(given, list) else [given]
    data = []
    for i, text in enumerate(texts):
        digest = hashlib.sha256(str(text).encode()).digest()
        vector = [byte / 255 - 0.5 for byte in digest[:_EMBEDDING_SIZE]]
        embedding: Any = vector
        if body.get("encoding_format") == "base64":
            embedding = base64.b64encode(struct.pack(f"<{_EMBEDDING_SIZE}f", *vector)).decode()
        data.append({"embedding": embedding, "index": i, "object": "embedding"})
    return orjson.dumps({"model": model, "object": "list", "usage": _pooled_usage(texts), "data": data})


def rerank_body(model: str, body: dict[str, Any]) -> bytes:
    query, documents = str(body.get("query", "")), body.get("documents") or body.get("texts") or []
    wanted = set(query.lower().split())
    scores = [float(len(wanted & set(str(document).lower().split()))) for document in documents]
    results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
    results.sort(key=lambda result: -result["relevance_score"])
    top = results[: body.get("top_n") or len(results)]
    return orjson.dumps({"model": model, "object": "list", "usage": _pooled_usage(documents), "results": top})


def to_tokens(text: bytes) -> list[int]:
    """A token of the stand-in is four bytes of text: cheap, and a prefix of text is a prefix of tokens."""
    padded = text + b" " * (-len(text) % 4)
    return list(struct.unpack(f"<{len(padded) // 4}I", padded))


def to_text(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


def count_tokens(text: bytes) -> int:
    return -(-len(text) // 4)


def _pooled_usage(texts: Sequence[Any]) -> dict[str, int]:
    total = sum(count_tokens(str(text).encode()) for text in texts)
    return {"prompt_tokens": total, "total_tokens": total}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _named(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\n" + _event({"type": kind, **data})
