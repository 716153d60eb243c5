"""The Anthropic dialect's answers: a chat completion, streamed or whole, as a message; and error bodies.

`to_chat`, the way in, lives in `anthropic_request` and is offered here too.
"""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.anthropic_request import to_chat
from hugind.proxy.dialects.errors import EngineStreamError, raise_if_error
from hugind.proxy.sse import format_event

__all__ = ["MessageStream", "error_event", "from_chat", "ping_event", "render_error", "to_chat"]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

# https://platform.claude.com/docs/en/api/errors; 402, 409 and 504 from the SDK's `ErrorType`.
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class MessageStream:
    """Turns the engine's chat chunks into a message's events; lives as long as that one stream.

    Feed every chunk, then call `finish` once the engine's stream has ended. Ask the engine for
    `stream_options.include_usage`, and for `return_progress` if `message_start` is to know the input's size, and a long
    prompt is not to be silent.
    """

    def __init__(self, requested_model: str) -> None:
        self._model = requested_model
        self._started = False
        self._message_id = ""
        self._blocks = 0
        self._open: str | None = None
        self._calls = 0
        self._finish_reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage = _usage({})

    def feed(self, chunk: dict[str, Any] | None) -> bytes:
        """The events that `chunk` causes, often none. Raises EngineStreamError if it is an error."""
        if chunk is None:
            return b""
        raise_if_error(chunk)
        self._usage = _usage(chunk, self._usage)
        events = [self._start(chunk)] if not self._started else [ping_event()] if "prompt_progress" in chunk else []
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content"):
                events += self._add_text("thinking", "thinking_delta", thought)
            if text := delta.get("content"):
                events += self._add_text("text", "text_delta", text)
            for fragment in delta.get("tool_calls") or ():
                events += self._add_call(fragment)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._stop_sequence = _stop_sequence(chunk) or self._stop_sequence
        return b"".join(events)

    def finish(self) -> bytes:
        """The closing events. Raises EngineStreamError if the engine's stream ended before its answer did."""
        if self._finish_reason is None:
            raise EngineStreamError.cut_off()
        stop = _stop(self._finish_reason, self._stop_sequence)
        delta = _event("message_delta", delta=stop, usage=self._usage)
        return b"".join([*self._close_block(), delta, _event("message_stop")])

    def _start(self, chunk: dict[str, Any]) -> bytes:
        self._started = True
        self._message_id = _message_id(chunk)
        message = _message(self._message_id, self._model, [], {"stop_reason": None, "stop_sequence": None})
        started = _event("message_start", message={**message, "usage": {**self._usage, "output_tokens": 0}})
        return started + ping_event()  # as Anthropic's own service does

    def _add_text(self, kind: str, delta_type: str, text: str) -> list[bytes]:
        events = [] if self._open == kind else self._open_block(kind, _text_block(kind, ""))
        return [*events, self._delta(delta_type, kind, text)]

    def _add_call(self, fragment: dict[str, Any]) -> list[bytes]:
        index = fragment.get("index", 0)
        function = fragment.get("function") or {}
        name = f"tool_use {index}"
        events: list[bytes] = []
        if self._open != name:
            if index < self._calls:
                raise EngineStreamError({"code": 502, "message": "The engine went back to a tool call it had left."})
            self._calls = index + 1
            block = _tool_block(_call_id(fragment, self._message_id, index), function.get("name") or "", {})
            events += self._open_block(name, block)
        if arguments := function.get("arguments"):
            events.append(self._delta("input_json_delta", "partial_json", arguments))
        return events

    def _open_block(self, name: str, block: dict[str, Any]) -> list[bytes]:
        events = self._close_block()
        self._open = name
        self._blocks += 1
        return [*events, _event("content_block_start", index=self._blocks - 1, content_block=block)]

    def _close_block(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", index=self._blocks - 1)]

    def _delta(self, delta_type: str, key: str, value: str) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta={"type": delta_type, key: value})


def from_chat(completion: dict[str, Any], requested_model: str) -> dict[str, Any]:
    """A whole chat completion as a message; its first choice, as a message has only one."""
    choice = completion["choices"][0]
    message = choice["message"]
    message_id = _message_id(completion)
    content = [
        _text_block(kind, message[key])
        for kind, key in (("thinking", "reasoning_content"), ("text", "content"))
        if message.get(key)
    ]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        arguments = _parse_arguments(function["arguments"])
        content.append(_tool_block(_call_id(call, message_id, index), function["name"], arguments))
    stop = _stop(choice["finish_reason"], _stop_sequence(completion))
    return {**_message(message_id, requested_model, content, stop), "usage": _usage(completion)}


def render_error(
    status: int,
    message: str,
    request_id: str | None = None,
    *,
    type: str | None = None,  # noqa: A002 - the wire's own name for it
) -> dict[str, Any]:
    """Anthropic's error body; the type follows from `status` unless given."""
    default = _ERROR_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": type or default, "message": message}, "request_id": request_id}


def error_event(
    status: int,
    message: str,
    request_id: str | None = None,
    *,
    type: str | None = None,  # noqa: A002 - the wire's own name for it
) -> bytes:
    """The last event of a stream that broke; a client's SDK raises it."""
    return format_event(orjson.dumps(render_error(status, message, request_id, type=type)), "error")


def ping_event() -> bytes:
    """Keeps a quiet stream open; clients skip it."""
    return _event("ping")


def _event(event_type: str, **fields: Any) -> bytes:
    return format_event(orjson.dumps({"type": event_type, **fields}), event_type)


def _message(message_id: str, model: str, content: list[dict[str, Any]], stop: dict[str, Any]) -> dict[str, Any]:
    return {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": content, **stop}


def _message_id(completion: dict[str, Any]) -> str:
    return "msg_" + str(completion.get("id") or "").removeprefix("chatcmpl-")


def _text_block(kind: str, text: str) -> dict[str, Any]:
    block = {"type": kind, kind: text}
    # Clients insist on a signature; only Anthropic can make a real one, and nothing here checks it.
    return {**block, "signature": ""} if kind == "thinking" else block


def _tool_block(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _call_id(call: dict[str, Any], message_id: str, index: int) -> str:
    """The engine's id, or one that the stream and the whole answer agree on."""
    return call.get("id") or f"toolu_{message_id.removeprefix('msg_')}_{index}"


def _parse_arguments(arguments: str) -> dict[str, Any]:
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}  # A call that max_tokens cut short.
    return parsed if isinstance(parsed, dict) else {}


def _stop(finish_reason: str, stop_sequence: str | None) -> dict[str, Any]:
    if stop_sequence is not None and finish_reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_sequence}
    return {"stop_reason": _STOP_REASONS.get(finish_reason, "end_turn"), "stop_sequence": None}


def _stop_sequence(completion: dict[str, Any]) -> str | None:
    """The sequence that ended the answer; the engine names it only in the `__verbose` that `to_chat` asks for."""
    return (completion.get("__verbose") or {}).get("stopping_word") or None


def _usage(completion: dict[str, Any], known: dict[str, int] | None = None) -> dict[str, int]:
    """Anthropic's counts, whose `input_tokens` leaves out what came from the cache; `known` where nothing is said."""
    if usage := completion.get("usage"):
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return _counts(usage["prompt_tokens"] - cached, cached, usage["completion_tokens"])
    if progress := completion.get("prompt_progress"):
        return _counts(progress["total"] - progress["cache"], progress["cache"], 0)
    if timings := completion.get("timings"):
        return _counts(timings["prompt_n"], timings["cache_n"], timings["predicted_n"])
    return known or _counts(0, 0, 0)


def _counts(read: int, cached: int, written: int) -> dict[str, int]:
    return {"input_tokens": read, "cache_read_input_tokens": cached, "output_tokens": written}
