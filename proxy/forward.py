"""Stream one exchange to a worker and back: as it comes, or put together into one answer."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson

from hugind.proxy.dialects.choices import Choices
from hugind.proxy.dialects.engine_refusals import true_status
from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange, Headers
from hugind.proxy.sse import EventParser
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

NDJSON_HEADERS: Headers = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]
"""Of Ollama's streams: one JSON object to a line."""

TAIL_CHUNKS = 4
"""The last event with figures, one with usage behind it, and the end mark may come one by one."""

_TIMINGS = "timings"
_PROGRESS = "prompt_progress"
_REASON_MARKS = (b'"finish_reason":"', b'"stop_type":"')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d{1,9})')
MAX_REASON = 32
_NULL_EVENT = b"data: null\n\n"
"""Sent where a token was only the first half of a character; clients trip over it."""


class Assembler(Protocol):
    """Puts the events of a stream together into the answer that would have come unstreamed."""

    def feed(self, event: dict[str, Any] | None) -> None:
        """One event."""

    def result(self) -> Any:
        """The whole answer, once the stream ended."""


class StreamTranslator(Protocol):
    """Turns the engine's events into those of another dialect."""

    def feed(self, event: dict[str, Any] | None) -> bytes:
        """Bytes for the client; may be none."""

    def finish(self) -> bytes:
        """The last bytes, once the stream ended."""


async def relay_stream(exchange: Exchange, spawn: Spawn, response: EngineStream) -> None:
    """Whole events as they come, as bytes. This is the hot path: nothing is parsed.

    An event of which only a part has come is held back: if the worker dies, what follows must be a well-formed error.

    Raises:
        StreamCut: the worker ended before its answer did.
    """
    await exchange.start(200, STREAM_HEADERS)
    send, part, recorded = exchange.send, b"", exchange.recorded
    last: deque[bytes] = deque(maxlen=TAIL_CHUNKS)
    async for chunk in response.chunks():
        spawn.bytes_relayed += len(chunk)
        exchange.events += chunk.count(b"\n\n")
        if exchange.events > exchange.paid_events:
            await pay_on(exchange)
        last.append(chunk)
        if recorded is not None:
            recorded.append(chunk)
        if part or not chunk.endswith(b"\n\n"):
            whole, end, part = (part + chunk).rpartition(b"\n\n")
            chunk = whole + end
        if _NULL_EVENT in chunk:
            chunk = chunk.replace(_NULL_EVENT, b"")
        await send(chunk)
    tail = b"".join(last)
    exchange.note_timings(timings_at_end(tail))
    exchange.finish_reason = finish_reason_at_end(tail)
    await send(part, more=False)


async def relay_translated(
    exchange: Exchange,
    spawn: Spawn,
    response: EngineStream,
    translator: StreamTranslator,
    headers: Headers = STREAM_HEADERS,
    *,
    is_all: bool = True,
) -> None:
    """Events in another dialect, each as soon as it is known. `headers`: say what kind of stream it is.

    `is_all`: with the translator's last bytes the answer ends; else something follows, and the caller sends it.

    Raises:
        StreamCut: the worker ended before its answer did.
        ApiError: the engine reported an error in the stream.
    """
    await exchange.start(200, headers)
    try:
        async for event in events_of(exchange, spawn, response):
            if data := translator.feed(event):
                await exchange.send(data)
        last = translator.finish()
    except EngineStreamError as error:
        raise ApiError(error.status, error.message, kind=error.type) from error
    await exchange.send(last, more=not is_all)


async def relay_choice(exchange: Exchange, spawn: Spawn, response: EngineStream, choices: Choices) -> None:
    """One of several answers to a request, as it comes; the last one ends the stream.

    Raises:
        StreamCut: the worker ended before its answer did.
        ApiError: the engine reported an error in the stream.
    """
    if not exchange.is_started:
        await exchange.start(200, STREAM_HEADERS)
    try:
        async for event in events_of(exchange, spawn, response):
            if data := choices.feed(event):
                await exchange.send(data)
    except EngineStreamError as error:
        raise ApiError(error.status, error.message, kind=error.type) from error
    if choices.is_last:
        await exchange.send(b"data: [DONE]\n\n", more=False)


async def assemble(exchange: Exchange, spawn: Spawn, response: EngineStream, assembler: Assembler) -> Any:
    """The whole answer, put together from the stream that it was asked for as.

    Raises:
        StreamCut: the worker ended before its answer did.
        ApiError: the engine reported an error in the stream.
    """
    try:
        async for event in events_of(exchange, spawn, response):
            assembler.feed(event)
        exchange.heard_upstream()
        return assembler.result()
    except EngineStreamError as error:
        raise ApiError(error.status, error.message, kind=error.type) from error


async def events_of(exchange: Exchange, spawn: Spawn, response: EngineStream) -> AsyncIterator[dict[str, Any] | None]:
    """The JSON payloads of a stream; the engine's timings are kept for the exchange.

    Raises:
        StreamCut: the worker ended before its answer did.
    """
    parser = EventParser()
    last: deque[bytes] = deque(maxlen=TAIL_CHUNKS)
    timings: dict[str, Any] | None = None
    async for chunk in response.chunks():
        spawn.bytes_relayed += len(chunk)
        last.append(chunk)
        if exchange.recorded is not None:
            exchange.recorded.append(chunk)
        for event in parser.feed(chunk):
            if not event.is_done:
                payload = orjson.loads(event.data)
                if payload:
                    exchange.events += _PROGRESS not in payload
                    timings = payload.get(_TIMINGS, timings)
                if exchange.events > exchange.paid_events:
                    await pay_on(exchange)
                yield payload
    exchange.note_timings(timings)
    exchange.finish_reason = finish_reason_at_end(b"".join(last))


async def pay_on(exchange: Exchange) -> None:
    """A turn has used up the tokens that were reserved for it, because it did not say how many it wants.

    Raises:
        ApiError: 429, there are no more.
    """
    assert exchange.admitted is not None
    while exchange.events > exchange.paid_events:
        await exchange.admitted.extend(exchange)


def timings_at_end(tail: bytes) -> dict[str, Any] | None:
    """The engine's figures of a turn, from the last bytes of its stream: one event is parsed, not all."""
    at = tail.rfind(b'"%s":{' % _TIMINGS.encode())
    begin = tail.rfind(b"data: ", 0, at) if at >= 0 else -1
    if begin < 0:
        return None
    line = tail[begin + len(b"data: ") :].partition(b"\n")[0]
    try:
        timings = orjson.loads(line)[_TIMINGS]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return timings if isinstance(timings, dict) else None


def finish_reason_at_end(tail: bytes) -> str | None:
    """Why an answer ended, from the last bytes of its stream."""
    for mark in _REASON_MARKS:
        at = tail.rfind(mark)
        if at >= 0:
            return tail[at + len(mark) :].partition(b'"')[0].decode("ascii", "replace")[:MAX_REASON]
    return None


def prompt_tokens_of(body: bytes) -> int:
    """The size of what an embedding or rerank engine read, by its own count."""
    found = _PROMPT_TOKENS.search(body)
    return int(found[1]) if found else 0


async def engine_error(response: EngineStream) -> ApiError:
    """What llama-server refused, as ours: its status, message and type."""
    body = await response.read()
    try:
        error = orjson.loads(body)["error"]
        message = str(error["message"])
        status = true_status(response.status, message)
        return ApiError(status, message, kind=str(error.get("type")) if status == response.status else None)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ApiError(response.status, body.decode("utf-8", "replace")[:500] or "the engine refused the request")
