"""Stream one exchange to a worker and back: as it comes, or put together into one answer."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson

from hugind.proxy.dialects.choices import Choices
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

TAIL_CHUNKS = 4
"""The last event with figures, one with usage behind it, and the end mark may come one by one."""

_TIMINGS = "timings"
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
        last.append(chunk)
        if recorded is not None:
            recorded.append(chunk)
        if part or not chunk.endswith(b"\n\n"):
            whole, end, part = (part + chunk).rpartition(b"\n\n")
            chunk = whole + end
        if _NULL_EVENT in chunk:
            chunk = chunk.replace(_NULL_EVENT, b"")
        await send(chunk)
    exchange.timings = timings_at_end(b"".join(last))
    await send(part, more=False)


async def relay_translated(
    exchange: Exchange, spawn: Spawn, response: EngineStream, translator: StreamTranslator
) -> None:
    """Events in another dialect, each as soon as it is known.

    Raises:
        StreamCut: the worker ended before its answer did.
        ApiError: the engine reported an error in the stream.
    """
    await exchange.start(200, STREAM_HEADERS)
    try:
        async for event in events_of(exchange, spawn, response):
            if data := translator.feed(event):
                await exchange.send(data)
        last = translator.finish()
    except EngineStreamError as error:
        raise ApiError(error.status, error.message, kind=error.type) from error
    await exchange.send(last, more=False)


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
    async for chunk in response.chunks():
        spawn.bytes_relayed += len(chunk)
        if exchange.recorded is not None:
            exchange.recorded.append(chunk)
        for event in parser.feed(chunk):
            if not event.is_done:
                payload = orjson.loads(event.data)
                if payload and _TIMINGS in payload:
                    exchange.timings = payload[_TIMINGS]
                yield payload


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


async def engine_error(response: EngineStream) -> ApiError:
    """What llama-server refused, as ours: its status, message and type."""
    body = await response.read()
    try:
        error = orjson.loads(body)["error"]
        return ApiError(response.status, str(error["message"]), kind=str(error.get("type")))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ApiError(response.status, body.decode("utf-8", "replace")[:500] or "the engine refused the request")
