"""A typed async client of one worker: health, props, slots, and a turn as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint

CONNECT_TIMEOUT_S = 5


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
        connector: aiohttp.BaseConnector
        match endpoint:
            case UnixEndpoint(path):
                connector = aiohttp.UnixConnector(path=str(path), limit=0, force_close=True)
                self._base = "http://worker"
            case TcpEndpoint(port):
                connector = aiohttp.TCPConnector(limit=0, force_close=True)
                self._base = f"http://127.0.0.1:{port}"
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    def post(self, path: str, body: bytes) -> Any:
        """Start a POST: an async context manager around the response, as `aiohttp.ClientSession.post`.

        Leaving it early closes the connection, which is how llama-server learns that nobody wants the rest.
        """
        return self._session.post(self._base + path, data=body)

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
        return Props(
            model_path=str(data.get("model_path", "")),
            model_alias=str(data.get("model_alias", "")),
            total_slots=int(data.get("total_slots", 0)),
            build=str(data.get("build_info", "")),
        )

    async def slots(self, timeout_s: float) -> list[SlotState]:
        """The slots as the engine sees them. Answered by the loop that computes, so silence means trouble.

        Raises:
            WorkerUnreachable: no answer in time, or not llama-server's.
        """
        status, data = await self._get("/slots", timeout_s)
        if status != 200 or not isinstance(data, list):
            raise WorkerUnreachable(f"/slots answered {status}")
        return [SlotState(int(slot["id"]), bool(slot["is_processing"])) for slot in data]

    async def aclose(self) -> None:
        """Close every connection, running turns included. Safe to call twice."""
        await self._session.close()

    async def _get(self, path: str, timeout_s: float) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(self._base + path, timeout=timeout) as response:
                body = await response.read()
                return response.status, orjson.loads(body) if body.startswith((b"{", b"[")) else None
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error
        except RuntimeError as error:  # aiohttp's word for "the session is closed"
            raise WorkerUnreachable(f"{path}: {error}") from error
