"""One HTTP request and its answer, on raw ASGI: a bounded body in, clock marks, and the headers of every answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from hugind.proxy.errors import ApiError, ClientGone

BODY_TIMEOUT_S = 30
"""A body that trickles is cut after this."""
BODY_STALL_S = 10
"""So is one that stops coming."""
OVERSIZE_DRAIN = 8
"""A body over its limit is read and dropped up to this many times the limit, so that the answer can arrive."""

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """Lives as long as one request. The answer is started once, by `respond` or `start`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = f"req_{secrets.token_hex(12)}"
        self.queue_s = 0.0
        """Time spent waiting for a slot, or for an engine to load."""
        self.upstream_s = 0.0
        """Time that the engine took: to the first byte of a stream, to the last of an answer put together from one."""
        self._sent = 0.0
        self.is_started = False
        self.is_complete = False
        self._send = send
        self._begun = time.perf_counter()

    def header(self, name: bytes) -> bytes | None:
        """The only value of a request header.

        Raises:
            ApiError: 400 when it is given twice; which one counts would be a guess.
        """
        values = [value for key, value in self.scope["headers"] if key == name]
        if len(values) > 1:
            raise ApiError(400, f"the header {name.decode()} is given {len(values)} times")
        return values[0] if values else None

    def own_headers(self) -> Headers:
        """What every answer carries."""
        overhead_s = time.perf_counter() - self._begun - self.queue_s - self.upstream_s
        return [
            (b"x-request-id", self.request_id.encode()),
            (b"x-hugind-queue-ms", b"%.3f" % (self.queue_s * 1000)),
            (b"x-hugind-overhead-ms", b"%.3f" % (overhead_s * 1000)),
        ]

    def sent_upstream(self) -> None:
        """The request goes out to the engine now."""
        self._sent = time.perf_counter()

    def heard_upstream(self) -> None:
        """The engine has said what there was to wait for; the last call counts."""
        self.upstream_s = time.perf_counter() - self._sent

    async def read_json(self, limit: int) -> dict[str, Any]:
        """The request body as a JSON object, whatever its content type says.

        Raises:
            ApiError: 400 not a JSON object, 408 too slow, 413 larger than `limit` bytes.
            ClientGone: the client left before the body was complete.
        """
        body = await self._read_body(limit)
        if not body:
            raise ApiError(400, "the request body is empty; a JSON object is expected")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, f"the request body is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise ApiError(400, "the request body must be a JSON object")
        return value

    async def respond(self, status: int, payload: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The whole answer, as JSON."""
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.start(status, [*fixed, *headers])
        await self.send(body, more=False)

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers; `send` follows, until `more=False`."""
        self.is_started = True
        message = {"type": "http.response.start", "status": status, "headers": headers + self.own_headers()}
        await self._send(message)

    async def send(self, body: bytes, *, more: bool = True) -> None:
        """Some of the body. Blocks while the client's side is full; `server.py` cuts one that stays so."""
        self.is_complete = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _read_body(self, limit: int) -> bytes:
        declared = self.header(b"content-length")
        too_large = ApiError(413, f"the request body is larger than {limit / 1048576:g} MB", code="request_too_large")
        size = int(declared) if declared and declared.isdigit() else 0
        if size > limit * OVERSIZE_DRAIN:
            raise too_large
        chunks: list[bytes] = []
        received = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    async with asyncio.timeout(BODY_STALL_S):
                        message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    received += len(message["body"])
                    if received <= limit:
                        chunks.append(message["body"])
                    elif received > limit * OVERSIZE_DRAIN:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(408, "the request body came too slowly", code="request_timeout") from None
        if received > limit:
            raise too_large
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
