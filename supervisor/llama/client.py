"""A typed async client of one worker: health, props, slots, and a turn as a stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.command import Endpoint
from hugind.supervisor.llama.stream import EngineStream


@dataclass(frozen=True)
class SlotState:
    """What llama-server says of one slot."""

    id: int
    is_processing: bool


@dataclass(frozen=True)
class Props:
    """Who a worker says it is."""

    model_path: str
    model_alias: str
    total_slots: int
    build: str


class WorkerClient:
    """Speaks to one llama-server process; lives as long as that process and is closed by its worker.

    Every exchange opens a connection of its own: llama-server closes after each stream whatever its headers promise,
    and a pool that believed them lost up to a quarter of the requests (engine facts, "Clients that leave").
    """

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        self._endpoint = endpoint
        self._head = f" HTTP/1.1\r\nHost: worker\r\nAuthorization: Bearer {api_key}\r\n".encode()
        self._open: set[EngineStream] = set()
        self._is_closed = False

    def post(self, path: str, body: bytes) -> EngineStream:
        """A POST; entered with `async with`, its status has come and its body follows.

        Raises:
            WorkerUnreachable: this worker is being ended. What entering raises: see `EngineStream`.
        """
        head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        return self._exchange(b"POST " + path.encode() + self._head + head + body)

    async def is_healthy(self, timeout_s: float) -> bool:
        """Whether `/health` says 200. A refused connection or 503 (loading) is a plain no."""
        try:
            status, _ = await self._get("/health", timeout_s)
        except WorkerUnreachable:
            return False
        return status == 200

    async def props(self, timeout_s: float) -> Props:
        """Who the worker is.

        Raises:
            WorkerUnreachable: no answer, or not llama-server's.
        """
        status, data = await self._get("/props", timeout_s)
        if status != 200 or not isinstance(data, dict):
            raise WorkerUnreachable(f"/props answered {status}")
        try:
            return Props(
                model_path=str(data.get("model_path", "")),
                model_alias=str(data.get("model_alias", "")),
                total_slots=int(data.get("total_slots", 0)),
                build=str(data.get("build_info", "")),
            )
        except (TypeError, ValueError) as error:
            raise WorkerUnreachable(f"/props is not llama-server's: {error}") from error

    async def slots(self, timeout_s: float) -> list[SlotState]:
        """The slots as the engine sees them. The pinned builds answer in a millisecond, in the middle of a batch too.

        Raises:
            WorkerUnreachable: no answer in time, or not llama-server's.
        """
        status, data = await self._get("/slots", timeout_s)
        if status != 200 or not isinstance(data, list):
            raise WorkerUnreachable(f"/slots answered {status}")
        try:
            return [SlotState(int(slot["id"]), bool(slot["is_processing"])) for slot in data]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerUnreachable(f"/slots is not llama-server's: {error!r}") from error

    def close(self) -> None:
        """Drop every connection, those of running turns included, and open no other. Safe to call twice."""
        self._is_closed = True
        for stream in list(self._open):
            stream.close()

    def _exchange(self, request: bytes) -> EngineStream:
        if self._is_closed:
            raise WorkerUnreachable("this worker is being ended")
        return EngineStream(self._endpoint, request, self._open)

    async def _get(self, path: str, timeout_s: float) -> tuple[int, Any]:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._exchange(b"GET " + path.encode() + self._head + b"\r\n") as stream,
            ):
                body = await stream.read()
                return stream.status, orjson.loads(body) if body.startswith((b"{", b"[")) else None
        except (StreamCut, TimeoutError, orjson.JSONDecodeError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error
