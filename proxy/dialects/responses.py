"""The Responses dialect's answers: a chat completion's chunks as a response object, and as its events. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.errors import EngineStreamError, raise_if_error
from hugind.proxy.dialects.responses_items import Ids, Item, text_part
from hugind.proxy.sse import format_event

Event = dict[str, Any]


class ResponseBuilder:
    """Builds one response out of the engine's chunks; lives as long as their stream.

    Feed every chunk, then `finish` once the stream has ended; after that `final` gives the last event. Ask the engine
    for `stream_options.include_usage`.
    """

    def __init__(self, about: dict[str, Any], ids: Ids, model: str, created_at: int) -> None:
        """`about`: what the response says of its request (`responses_request.describe`), and where it belongs."""
        self._ids = ids
        self.response: dict[str, Any] = {
            "id": ids.response,
            "object": "response",
            "created_at": created_at,
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **about,
        }
        self._events = 0
        self._open: _Open | None = None
        self._calls = 0
        self._finish_reason: str | None = None

    @property
    def output(self) -> list[Item]:
        """The items that are complete."""
        items: list[Item] = self.response["output"]
        return items

    def feed(self, chunk: dict[str, Any] | None) -> list[Event]:
        """The events that a chunk causes. Raises EngineStreamError if it is an error."""
        if chunk is None:
            return []
        raise_if_error(chunk)
        events = [] if self._events else self._start()
        if usage := chunk.get("usage"):
            self.response["usage"] = _usage(usage)
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content"):
                events += self._add_text(_Thought, thought, [])
            if text := delta.get("content"):
                events += self._add_text(_Message, text, (choice.get("logprobs") or {}).get("content") or [])
            for fragment in delta.get("tool_calls") or ():
                events += self._add_call(fragment)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def finish(self) -> list[Event]:
        """The events that close what is open. Raises EngineStreamError if the answer had not ended."""
        if self._finish_reason is None:
            raise EngineStreamError.cut_off()
        events = [] if self._open or self.output else self._begin(_Message(self._ids))
        return events + self._close("incomplete" if self._is_cut else "completed")

    def final(self, now: int) -> Event:
        """The last event, which holds the whole response."""
        if self._is_cut:
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            self.response |= {"status": "completed", "completed_at": now}
        return self._event(f"response.{self.response['status']}", response=self.response)

    @property
    def _is_cut(self) -> bool:
        return self._finish_reason == "length"

    def _start(self) -> list[Event]:
        begun = {**self.response, "output": []}
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def _add_text(self, kind: type[_Message] | type[_Thought], text: str, logprobs: list[Any]) -> list[Event]:
        events = [] if isinstance(self._open, kind) else self._close() + self._begin(kind(self._ids))
        assert isinstance(self._open, kind)
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        more = {"logprobs": logprobs} if kind is _Message else {}
        return [*events, self._item_event(f"{kind.event}.delta", content_index=0, delta=text, **more)]

    def _add_call(self, fragment: dict[str, Any]) -> list[Event]:
        index, function = fragment.get("index", 0), fragment.get("function") or {}
        events: list[Event] = []
        if not isinstance(self._open, _Call) or self._open.index != index:
            if index < self._calls:
                raise EngineStreamError({"code": 502, "message": "The engine went back to a tool call it had left."})
            self._calls = index + 1
            call = _Call(self._ids, index, fragment.get("id"), function.get("name") or "")
            events = self._close() + self._begin(call)
        assert isinstance(self._open, _Call)
        if arguments := function.get("arguments"):
            self._open.pieces.append(arguments)
            events.append(self._item_event("response.function_call_arguments.delta", delta=arguments))
        return events

    def _begin(self, item: _Open) -> list[Event]:
        self._open = item
        added = self._event(
            "response.output_item.added", output_index=len(self.output), item=item.item("in_progress", is_begun=False)
        )
        part = item.part("")
        if part is None:
            return [added]
        return [added, self._item_event("response.content_part.added", content_index=0, part=part)]

    def _close(self, status: str = "completed") -> list[Event]:
        open_item = self._open
        if open_item is None:
            return []
        text, events = open_item.text, []
        if (part := open_item.part(text)) is None:
            done = {"arguments": text, "name": open_item.item(status)["name"]}
            events.append(self._item_event(f"{open_item.event}.done", **done))
        else:
            more = {"logprobs": open_item.logprobs} if isinstance(open_item, _Message) else {}
            events.append(self._item_event(f"{open_item.event}.done", content_index=0, text=text, **more))
            events.append(self._item_event("response.content_part.done", content_index=0, part=part))
        item = open_item.item(status)
        events.append(self._event("response.output_item.done", output_index=len(self.output), item=item))
        self.output.append(item)
        self._open = None
        return events

    def _item_event(self, kind: str, **said: Any) -> Event:
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=len(self.output), **said)

    def _event(self, kind: str, **said: Any) -> Event:
        event = {"type": kind, "sequence_number": self._events, **said}
        self._events += 1
        return event


class ResponseStream:
    """The same as a stream's bytes; its last event is left to be sent by who made it."""

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder

    def feed(self, event: dict[str, Any] | None) -> bytes:
        """The events that a chunk causes."""
        return b"".join(map(render_event, self._builder.feed(event)))

    def finish(self) -> bytes:
        """All but the last event."""
        return b"".join(map(render_event, self._builder.finish()))


class ResponseAssembler:
    """The same for an answer in one piece."""

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder

    def feed(self, event: dict[str, Any] | None) -> None:
        """One chunk."""
        self._builder.feed(event)

    def result(self) -> None:
        """The response is whole, but for `ResponseBuilder.final`."""
        self._builder.finish()


def render_event(event: Event) -> bytes:
    """An event as it is sent."""
    return format_event(orjson.dumps(event), event["type"])


class _Open:
    """An item that the model is at."""

    event: str
    """What its events are called."""
    _prefix: str

    def __init__(self, ids: Ids) -> None:
        self.id = ids.item(self._prefix)
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []

    @property
    def text(self) -> str:
        """What there is of it."""
        return "".join(self.pieces)

    def part(self, text: str) -> Item | None:
        """Its only part; None: it has none."""
        raise NotImplementedError

    def item(self, status: str, *, is_begun: bool = True) -> Item:
        """The whole of it."""
        raise NotImplementedError


class _Message(_Open):
    event, _prefix = "response.output_text", "msg"

    def part(self, text: str) -> Item:
        return {**text_part(text), "logprobs": self.logprobs}

    def item(self, status: str, *, is_begun: bool = True) -> Item:
        content = [self.part(self.text)] if is_begun else []
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class _Thought(_Open):
    event, _prefix = "response.reasoning_text", "rs"

    def part(self, text: str) -> Item:
        return {"type": "reasoning_text", "text": text}

    def item(self, status: str, *, is_begun: bool = True) -> Item:
        content = [self.part(self.text)] if is_begun else []
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}


class _Call(_Open):
    event, _prefix = "response.function_call_arguments", "fc"

    def __init__(self, ids: Ids, index: int, call_id: str | None, name: str) -> None:
        super().__init__(ids)
        self.index = index
        self._call_id = call_id or self.id.replace("fc_", "call_", 1)
        self._name = name

    def part(self, text: str) -> None:
        return None

    def item(self, status: str, *, is_begun: bool = True) -> Item:
        said = {"call_id": self._call_id, "name": self._name, "arguments": self.text}
        return {"id": self.id, "type": "function_call", "status": status, **said}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": prompt - cached},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": prompt + completion,
    }
