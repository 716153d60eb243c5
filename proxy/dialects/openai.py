"""The OpenAI dialect: an engine's stream assembled into the answer it would have given unstreamed, and error bodies.

The engine is always asked to stream, because a request that does not stream cannot be cancelled. Every assembler is fed
the decoded `data:` payloads of one stream and lives as long as it; `result` raises EngineStreamError while the stream
is incomplete, which is how a finished answer is told from a worker that died (`/infill` ends without `[DONE]`, and the
stream of a dead worker ends as cleanly).
"""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.errors import EngineStreamError, raise_if_error
from hugind.proxy.sse import format_event

_DELTA_TEXTS = ("content", "reasoning_content", "refusal")


class _ChoicesAssembler:
    """What chat and completion streams share: an envelope, and choices that arrive interleaved."""

    _object: str

    def __init__(self, choices: int = 1) -> None:
        """`choices` is how many the request asks for: prompts times `n`. Only so is a missing one noticed."""
        self._expected = choices
        self._last: dict[str, Any] = {}
        self._owner = 0
        self._usage: dict[int, dict[str, Any]] = {}
        self._timings: dict[int, dict[str, Any]] = {}
        self._verbose: dict[int, dict[str, Any]] = {}

    def feed(self, event: dict[str, Any] | None) -> None:
        """Add one payload. Raises EngineStreamError if it is an error; None does nothing."""
        # The engine sends `data: null` where a token was only the first half of a character.
        if event is None:
            return
        raise_if_error(event)
        for choice in event.get("choices") or ():
            self._owner = choice.get("index", 0)
            self._add(self._owner, choice)
        # A chunk with usage may carry no choice: it belongs to the choice that just finished.
        if usage := event.get("usage"):
            self._usage[self._owner] = usage
        if timings := event.get("timings"):
            self._timings[self._owner] = timings
        # Sent to a request that says `verbose`: the only place that names the stop sequence that matched.
        if verbose := event.get("__verbose"):
            self._verbose[self._owner] = verbose
        self._last = event

    def result(self) -> dict[str, Any]:
        """The whole answer. Raises EngineStreamError if a choice has not finished."""
        choices = self._finished_choices()
        if len(choices) < self._expected:
            raise EngineStreamError.cut_off()
        body: dict[str, Any] = {"choices": choices}
        for key in ("created", "model", "system_fingerprint"):
            if key in self._last:
                body[key] = self._last[key]
        body["object"] = self._object
        # The engine reports the first choice's numbers for the whole answer.
        if self._usage:
            body["usage"] = self._usage[min(self._usage)]
        body["id"] = self._last.get("id")
        if self._verbose:
            body["__verbose"] = self._verbose[min(self._verbose)]
        if self._timings:
            body["timings"] = self._timings[min(self._timings)]
        return body

    def _add(self, index: int, choice: dict[str, Any]) -> None:
        raise NotImplementedError

    def _finished_choices(self) -> list[dict[str, Any]]:
        raise NotImplementedError


class ChatAssembler(_ChoicesAssembler):
    """`/v1/chat/completions`. Ask for `stream_options.include_usage`, or the answer has no `usage`."""

    _object = "chat.completion"

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._choices: dict[int, _ChatChoice] = {}

    def _add(self, index: int, choice: dict[str, Any]) -> None:
        if (found := self._choices.get(index)) is None:
            found = self._choices[index] = _ChatChoice()
        found.add(choice)

    def _finished_choices(self) -> list[dict[str, Any]]:
        return [self._choices[index].result(index) for index in sorted(self._choices)]


class _ChatChoice:
    def __init__(self) -> None:
        self._role = "assistant"
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, _ToolCall] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        for key in _DELTA_TEXTS:
            if piece := delta.get(key):
                self._texts.setdefault(key, []).append(piece)
        if role := delta.get("role"):
            self._role = role
        for fragment in delta.get("tool_calls") or ():
            self._calls.setdefault(fragment.get("index", 0), _ToolCall()).add(fragment)
        if logprobs := choice.get("logprobs"):
            _extend_lists(self._logprobs, logprobs)
        if reason := choice.get("finish_reason"):
            self._finish_reason = reason

    def result(self, index: int) -> dict[str, Any]:
        if self._finish_reason is None:
            raise EngineStreamError.cut_off()
        # Always a string, as the engine has it; OpenAI itself would say null beside tool calls.
        message: dict[str, Any] = {"role": self._role, "content": ""}
        message.update((key, "".join(pieces)) for key, pieces in self._texts.items())
        if self._calls:
            message["tool_calls"] = [self._calls[call].result() for call in sorted(self._calls)]
        body: dict[str, Any] = {"finish_reason": self._finish_reason, "index": index, "message": message}
        if self._logprobs:
            body["logprobs"] = self._logprobs
        return body


class _ToolCall:
    def __init__(self) -> None:
        self._id: str | None = None
        self._type = "function"
        self._name: list[str] = []
        self._arguments: list[str] = []

    def add(self, fragment: dict[str, Any]) -> None:
        self._id = fragment.get("id") or self._id
        self._type = fragment.get("type") or self._type
        function = fragment.get("function") or {}
        if name := function.get("name"):
            self._name.append(name)
        if arguments := function.get("arguments"):
            self._arguments.append(arguments)

    def result(self) -> dict[str, Any]:
        function = {"name": "".join(self._name), "arguments": "".join(self._arguments)}
        call: dict[str, Any] = {"type": self._type, "function": function}
        return call if self._id is None else {**call, "id": self._id}


class CompletionAssembler(_ChoicesAssembler):
    """`/v1/completions`, of one prompt or several."""

    _object = "text_completion"

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, dict[str, list[Any]]] = {}
        self._finish_reasons: dict[int, str] = {}

    def _add(self, index: int, choice: dict[str, Any]) -> None:
        self._texts.setdefault(index, []).append(choice.get("text") or "")
        if logprobs := choice.get("logprobs"):
            _extend_lists(self._logprobs.setdefault(index, {}), logprobs)
        if reason := choice.get("finish_reason"):
            self._finish_reasons[index] = reason

    def _finished_choices(self) -> list[dict[str, Any]]:
        if self._finish_reasons.keys() != self._texts.keys():
            raise EngineStreamError.cut_off()
        return [
            {
                "text": "".join(self._texts[index]),
                "index": index,
                "logprobs": self._logprobs.get(index),
                "finish_reason": self._finish_reasons[index],
            }
            for index in sorted(self._texts)
        ]


class NativeAssembler:
    """`/infill` and `/completion`, the engine's own form.

    Stream chunks always carry token ids, the unstreamed answer only on request: say so with `return_tokens`. A request
    with `response_fields` strips the final chunk of its index, so it assembles only while there is one prompt.
    """

    def __init__(self, prompts: int = 1, *, return_tokens: bool = False) -> None:
        self._expected = prompts
        self._return_tokens = return_tokens
        self._pieces: dict[int, dict[str, list[Any]]] = {}
        self._finals: dict[int, dict[str, Any]] = {}

    def feed(self, event: dict[str, Any] | None) -> None:
        """Add one payload. Raises EngineStreamError if it is an error; None does nothing."""
        if event is None:
            return
        raise_if_error(event)
        # A progress chunk names a token that was never generated.
        if "prompt_progress" in event:
            return
        index = event.get("index", 0)
        _extend_lists(
            self._pieces.setdefault(index, {}),
            {
                "content": [event.get("content") or ""],
                "tokens": event.get("tokens") or [],
                "completion_probabilities": event.get("completion_probabilities") or [],
            },
        )
        if event.get("stop") is not False:
            self._finals[index] = event

    def result(self) -> dict[str, Any] | list[dict[str, Any]]:
        """The final object, or a list of them for several prompts. Raises EngineStreamError if one is missing."""
        if len(self._finals) < self._expected or self._finals.keys() != self._pieces.keys():
            raise EngineStreamError.cut_off()
        bodies = [self._join(self._finals[index], self._pieces[index]) for index in sorted(self._finals)]
        return bodies[0] if len(bodies) == 1 else bodies

    def _join(self, final: dict[str, Any], pieces: dict[str, list[Any]]) -> dict[str, Any]:
        body = dict(final)
        if "content" in final:
            body["content"] = "".join(pieces["content"])
        if "tokens" in final:
            body["tokens"] = pieces["tokens"] if self._return_tokens else []
        if "index" in final and pieces["completion_probabilities"]:
            body["completion_probabilities"] = pieces["completion_probabilities"]
        return body


def _extend_lists(into: dict[str, list[Any]], lists: dict[str, Any]) -> None:
    for key, values in lists.items():
        if isinstance(values, list):
            into.setdefault(key, []).extend(values)


# Types and codes as OpenAI's own service sends them; seen in https://github.com/Aider-AI/aider/issues/2030 (404),
# https://github.com/acheong08/ChatGPT/issues/607 (500) and https://github.com/mckaywrigley/repo-chat/issues/13 (503).
_TYPES = {
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    504: "timeout_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def render_error(
    status: int,
    message: str,
    *,
    type: str | None = None,  # noqa: A002 - the wire's own name for it
    code: str | None = None,
    param: str | None = None,
) -> dict[str, Any]:
    """OpenAI's error body; what is not given follows from `status`."""
    default = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {"message": message, "type": type or default, "param": param, "code": code or _CODES.get(status)},
    }


def error_event(
    status: int,
    message: str,
    *,
    type: str | None = None,  # noqa: A002 - the wire's own name for it
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """The last event of a stream that broke; a client's SDK raises it. Send it without a `[DONE]` after it."""
    return format_event(orjson.dumps(render_error(status, message, type=type, code=code, param=param)))
