"""A server under load, and a client that costs little beside it.

A protocol over httptools, not aiohttp: beside a stand-in that answers in 50 us, a client that takes 300 would measure
itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import orjson

from hugind.supervisor.errors import HugindError

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 60


class LoadError(HugindError):
    """A target that cannot be measured: it does not answer, or not with 200."""


@dataclass(frozen=True)
class Target:
    """A server to send chat requests to."""

    name: str
    address: tuple[str, int] | str
    """Host and port, or the path of a UNIX socket."""
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    model: str = "bench"

    def request(self, **body: Any) -> bytes:
        """One chat request, ready to be written."""
        content = orjson.dumps({"model": self.model, "messages": [{"role": "user", "content": "Hello."}], **body})
        sizes = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        return self._head(f"POST {self.path}", sizes) + content

    def question(self, path: str) -> bytes:
        """A GET of `path`, ready to be written."""
        return self._head(f"GET {path}", {})

    def _head(self, start: str, more: Mapping[str, str]) -> bytes:
        host = "localhost" if isinstance(self.address, str) else "{}:{}".format(*self.address)
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": host, **self.headers, **more}.items())
        return f"{start} HTTP/1.1\r\n{lines}\r\n".encode()


async def is_answering(target: Target, path: str, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Whether a GET of `path` is answered with 200."""
    client = Client(target)
    try:
        await client.exchange(target.question(path), timeout_s)
    except LoadError:
        return False
    finally:
        client.close()
    return True


class _StaleError(LoadError):
    """The connection ended before a byte of the answer."""


@dataclass(frozen=True, slots=True)
class Exchange:
    first_ms: float
    whole_ms: float
    events: int


class Client:
    """One connection after another to a target, each used as long as the server keeps it. Closed by its maker."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: _Connection | None = None

    async def exchange(self, request: bytes, timeout_s: float = ANSWER_TIMEOUT_S) -> Exchange:
        """Send one request and read its answer. Connecting is not part of its times."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._connection is not None and not self._connection.is_closed:
                    try:
                        return await self._connection.exchange(request)
                    except _StaleError:  # closed under our hands, as llama-server does after each stream
                        pass
                self._connection = await self._connect()
                return await self._connection.exchange(request)
        except TimeoutError:
            self.close()
            raise LoadError(f"{self._target.name}: no answer within {timeout_s:g} s") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        name = self._target.name
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if isinstance(self._target.address, str):
                    made = await loop.create_unix_connection(lambda: _Connection(name), self._target.address)
                else:
                    made = await loop.create_connection(lambda: _Connection(name), *self._target.address)
        except (OSError, TimeoutError) as error:
            raise LoadError(f"{name}: cannot connect: {error}") from error
        return made[1]


class _Connection(asyncio.Protocol):
    """One socket, one exchange at a time."""

    def __init__(self, name: str) -> None:
        self.is_closed = False
        self._name = name
        self._answer: asyncio.Future[Exchange] | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._first = 0.0
        self._events = 0
        self._ended_line = False
        self._has_bytes = False

    async def exchange(self, request: bytes) -> Exchange:
        self._reset()
        self._answer = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def close(self) -> None:
        self.is_closed = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nobody asked
            return
        self._has_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        kind = LoadError if self._has_bytes else _StaleError
        self._fail(f"the connection ended before the end of the answer: {exc or 'end of file'}", kind)

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
            self._body.append(body)  # enough to tell an error by
        self._events += body.count(b"\n\n") + (self._ended_line and body.startswith(b"\n"))
        self._ended_line = body.endswith(b"\n") and not body.endswith(b"\n\n")

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if not self._parser.should_keep_alive():
            self.close()
        status = self._parser.get_status_code()
        if status != 200:
            words = b"".join(self._body)[:300].decode("utf-8", "replace")
            self._fail(f"status {status}: {words}")
        elif self._answer is not None and not self._answer.done():
            first = self._first or now
            self._answer.set_result(Exchange((first - self._began) * 1e3, (now - self._began) * 1e3, self._events))

    def _fail(self, problem: str, kind: type[LoadError] = LoadError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(kind(f"{self._name}: {problem}"))
