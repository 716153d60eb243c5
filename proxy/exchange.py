"""One HTTP request and its answer, on raw ASGI: a bounded body in, clock marks, and the headers of every answer."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Receive, Scope, Send

from hugind.proxy.access.principal import ANONYMOUS
from hugind.proxy.errors import ApiError, ClientGone

if TYPE_CHECKING:
    from hugind.proxy.admission import Admitted
    from hugind.proxy.keepalive import KeepAlive
    from hugind.proxy.queue import Asker
    from hugind.supervisor.fleet import Use

OVERSIZE_DRAIN = 8
"""A body over its limit is read and dropped up to this many times the limit, so that the answer can arrive."""

Headers = list[tuple[bytes, bytes]]

_REQUEST_PREFIX = f"req_{secrets.token_hex(8)}"
_request_numbers = itertools.count(1)


class Exchange:
    """Lives as long as one request. The answer is started once, by `respond` or `start`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = f"{_REQUEST_PREFIX}{next(_request_numbers):08x}"
        self.principal = ANONYMOUS
        """Who asks; `app` has authenticated them."""
        self.end_user: str | None = None
        """On whose behalf, where the key may say so."""
        self.path_key: bytes | None = None
        """A key that came in the path, where that is allowed."""
        self.admitted: Admitted | None = None
        """What the caller was granted, and what will be on record of it; None: nothing yet."""
        self.estimate_tokens = 0
        """What the turn will cost at most, as far as can be told before it: prompt and answer."""
        self.asker: Asker | None = None
        """As whom it waits for a turn (`turn.asker_of`)."""
        self.events = 0
        """Events of the engine's stream that have come: about as many as tokens."""
        self.paid_events: float = math.inf
        """So many are reserved; beyond, more must be."""
        self.finish_reason: str | None = None
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        """By the engine's count, of all answers to the request."""
        self.request_bytes = self.response_bytes = 0
        self.history_bytes = 0
        """Of what is known here already, and put before what the request says."""
        self.status: int | None = None
        """Of the answer, once it has started."""
        self.ttft_s: float | None = None
        """From the request's head to the engine's first byte."""
        self.queue_s = 0.0
        """Time spent waiting for a slot, or for an engine to load."""
        self.upstream_s = 0.0
        """Time that the engine took: to the first byte of a stream, to the last of an answer put together from one."""
        self.restore_s = 0.0
        """Time spent making the slot ready: saving what was in it, bringing back what belongs there."""
        self.session: tuple[str, str] | None = None
        """Where the session's KV came from, and its id: known before the answer starts."""
        self.timings: dict[str, Any] | None = None
        """The engine's own figures of the turn, once it ended."""
        self.recorded: list[bytes] | None = None
        """The engine's stream, where somebody wants to read the answer afterwards."""
        self.copy: list[bytes] | None = None
        """What was answered, where it is kept (`usage.record_content`)."""
        self.body = b""
        """What was asked, where it is kept."""
        self.keep_alive: KeepAlive | None = None
        """What tells the client of a stream that it waits."""
        self.page_headers: Headers = []
        """What a web page needs to read the answer, where one asks (`origins.py`)."""
        self.uses: list[Use] = []
        """The engines that it needs: ended when the request is (`Gateway.left`)."""
        self._sent = 0.0
        self._waits_since: float | None = None
        self.is_plain = False
        """The answer is no stream of events: if it breaks off, only its missing end can tell."""
        self.is_started = False
        self.is_complete = False
        self.cut_by: ApiError | None = None
        """Why somebody else has ended it."""
        self._send = send
        self._begun = time.perf_counter()
        self.task: asyncio.Task[Any] | None = None
        """Who serves it, where it may be cut."""

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
        now = time.perf_counter()
        queue_s, upstream_s = self.queue_s, self.upstream_s
        if self._waits_since is not None:  # a stream that is kept alive
            queue_s += now - self._waits_since
        elif self.was_sent and not self.was_heard:
            upstream_s = now - self._sent
        overhead_s = now - self._begun - queue_s - self.restore_s - upstream_s
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"x-hugind-queue-ms", b"%.3f" % (queue_s * 1000)),
            (b"x-hugind-overhead-ms", b"%.3f" % (overhead_s * 1000)),
        ]
        if self.session is not None:
            label, session_id = self.session
            headers += [
                (b"x-hugind-session", label.encode()),
                (b"x-hugind-session-id", session_id.encode()),
                (b"x-hugind-restore-ms", b"%.3f" % (self.restore_s * 1000)),
            ]
        if self.admitted is not None:
            headers += self.admitted.headers()
        return headers + self.page_headers if self.page_headers else headers

    def begin_wait(self) -> None:
        """The turn waits from now on, until `end_wait`."""
        self._waits_since = time.perf_counter()

    def end_wait(self) -> None:
        """It goes on, or ends."""
        if self._waits_since is not None:
            self.queue_s += time.perf_counter() - self._waits_since
            self._waits_since = None

    def sent_upstream(self) -> None:
        """The request goes out to the engine now."""
        self._sent = time.perf_counter()

    def heard_upstream(self) -> None:
        """The engine has said what there was to wait for; the last call counts."""
        now = time.perf_counter()
        self.upstream_s = now - self._sent
        if self.ttft_s is None:
            self.ttft_s = now - self._begun

    @property
    def was_sent(self) -> bool:
        """The engine has got the request, perhaps more than once."""
        return self._sent > 0

    @property
    def was_heard(self) -> bool:
        """The engine has begun to answer."""
        return self.upstream_s > 0

    @property
    def duration_s(self) -> float:
        """Since the request's head came."""
        return time.perf_counter() - self._begun

    @property
    def client_ip(self) -> str | None:
        """Where the connection comes from; None for a UNIX socket."""
        client = self.scope.get("client")
        return client[0] if client else None

    def note_timings(self, timings: dict[str, Any] | None) -> None:
        """The engine's figures at the end of a turn, of which a request may take several."""
        self.timings = timings
        if timings is not None:
            cached = int(timings.get("cache_n", 0))
            self.cached_tokens += cached
            self.prompt_tokens += cached + int(timings.get("prompt_n", 0))
            self.completion_tokens += int(timings.get("predicted_n", 0))

    def cut(self, error: ApiError) -> None:
        """End the request from outside, with this answer: another task serves it."""
        if not self.is_complete and self.cut_by is None and self.task is not None:
            self.cut_by = error
            self.task.cancel()

    async def read_json(self, limit: int) -> dict[str, Any]:
        """The request body as a JSON object, whatever its content type says.

        Raises:
            ApiError: 400 not a JSON object, 413 larger than `limit` bytes.
            ClientGone: the client left before the body was complete, or was cut by `server.py` for taking too long.
        """
        body = await self._read_body(limit)
        self.request_bytes = len(body)
        if self.copy is not None:
            self.body = body
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
        """Status and headers; `send` follows, until `more=False`. Does nothing once the answer was kept alive."""
        if self.is_started and self.keep_alive is not None:
            return
        self.is_started = True
        self.status = status
        message = {"type": "http.response.start", "status": status, "headers": headers + self.own_headers()}
        await self._send(message)

    async def send(self, body: bytes, *, more: bool = True) -> None:
        """Some of the body. Blocks while the client's side is full; `server.py` cuts one that stays so."""
        self.is_complete = not more
        self.response_bytes += len(body)
        if self.copy is not None:
            self.copy.append(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _read_body(self, limit: int) -> bytes:
        declared = self.header(b"content-length")
        if declared and declared.isdigit() and int(declared) > limit * OVERSIZE_DRAIN:
            raise _too_large(limit)
        chunks: list[bytes] = []
        received, more = 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            received += len(message["body"])
            if received <= limit:
                chunks.append(message["body"])
            elif received > limit * OVERSIZE_DRAIN:
                raise _too_large(limit)
            more = message.get("more_body", False)
        if received > limit:
            raise _too_large(limit)
        return b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request body is larger than {limit / 1048576:g} MB", code="request_too_large")
