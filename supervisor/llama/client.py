"""A typed async client of one worker: health, props, slots and what can be done to them, and a turn as a stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from hugind.supervisor.errors import HugindError, StreamCut, WorkerUnreachable
from hugind.supervisor.llama.command import Endpoint
from hugind.supervisor.llama.stream import EngineStream

SLOT_ACTION_TIMEOUT_S = 600
"""A save of many gigabytes behind another slot's long batch; a worker that hangs is ended by its supervision."""


@dataclass(frozen=True)
class SlotState:
    """What llama-server says of one slot."""

    id: int
    is_processing: bool
    tokens: int = 0
    """In its cache: of the prompt and of what was generated."""
    cached: int = 0
    """Tokens of the last prompt that it had already."""


@dataclass(frozen=True)
class Saved:
    """A slot file that llama-server says it has written."""

    tokens: int
    size_bytes: int
    seconds: float = 0.0
    """That it was writing: not those that it waited for another slot's batch. 0: it does not tell."""


class SlotActionRefused(HugindError):  # noqa: N818 - it lives, and says no
    """llama-server did not save, restore or erase. After a refused restore the slot is empty."""


@dataclass(frozen=True)
class Props:
    """Who a worker says it is."""

    model_path: str
    model_alias: str
    total_slots: int
    build: str
    template_takes: frozenset[str] | None = None
    """What the chat template in use can render (`supports_tools` ...), as the engine tried; None: it does not say."""


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
                template_takes=_names_of_true(data.get("chat_template_caps")),
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
            return [_slot_state(slot) for slot in data]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerUnreachable(f"/slots is not llama-server's: {error!r}") from error

    async def metrics_text(self, timeout_s: float) -> str:
        """What it tells Prometheus (`llama/metrics.py`). Some of it is counted from the last time that anybody asked.

        Raises:
            WorkerUnreachable: no answer in time, or none of text.
        """
        try:
            async with asyncio.timeout(timeout_s), self._exchange(self._get_request("/metrics")) as stream:
                body = await stream.read()
        except (StreamCut, TimeoutError) as error:
            raise WorkerUnreachable(f"/metrics: {type(error).__name__}: {error}") from error
        if stream.status != 200:
            raise WorkerUnreachable(f"/metrics answered {stream.status}")
        return body.decode("utf-8", "replace")

    async def save(self, slot: int, file: str) -> Saved:
        """Write a slot's cache into a file of the slot folder. Stalls every stream of the worker for its whole time.

        Nothing is written under another name, but what was there is destroyed even if it fails. An idle slot only:
        one that is busy lets this wait until it is not.

        Raises:
            SlotActionRefused: disk full, no folder.
            WorkerUnreachable: the worker is gone; half a file may be left.
        """
        done = await self._act(slot, "save", {"filename": file})
        return Saved(_number(done, "n_saved"), _number(done, "n_written"), _seconds(done, "save_ms"))

    async def restore(self, slot: int, file: str) -> int:
        """Fill a slot from a file of the slot folder, which must have been checked; returns its tokens.

        Raises:
            SlotActionRefused: the engine cannot use the file. The slot is empty then.
            WorkerUnreachable: the worker is gone.
        """
        return _number(await self._act(slot, "restore", {"filename": file}), "n_restored")

    async def erase(self, slot: int) -> None:
        """Empty a slot.

        Raises:
            SlotActionRefused, WorkerUnreachable: as `save`.
        """
        await self._act(slot, "erase", {})

    async def ask(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """A small question that is answered in one piece.

        Raises:
            SlotActionRefused: it answered with an error.
            WorkerUnreachable: no answer in time.
        """
        try:
            async with asyncio.timeout(timeout_s), self.post(path, orjson.dumps(body)) as stream:
                answer = orjson.loads(await stream.read())
        except (StreamCut, TimeoutError, orjson.JSONDecodeError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error
        if stream.status != 200 or not isinstance(answer, dict):
            raise SlotActionRefused(f"{path} answered {stream.status}: {_reason(answer)}")
        return answer

    def close(self) -> None:
        """Drop every connection, those of running turns included, and open no other. Safe to call twice."""
        self._is_closed = True
        for stream in list(self._open):
            stream.close()

    async def _act(self, slot: int, action: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.ask(f"/slots/{slot}?action={action}", body, SLOT_ACTION_TIMEOUT_S)

    def _exchange(self, request: bytes) -> EngineStream:
        if self._is_closed:
            raise WorkerUnreachable("this worker is being ended")
        return EngineStream(self._endpoint, request, self._open)

    def _get_request(self, path: str) -> bytes:
        return b"GET " + path.encode() + self._head + b"\r\n"

    async def _get(self, path: str, timeout_s: float) -> tuple[int, Any]:
        try:
            async with asyncio.timeout(timeout_s), self._exchange(self._get_request(path)) as stream:
                body = await stream.read()
                return stream.status, orjson.loads(body) if body.startswith((b"{", b"[")) else None
        except (StreamCut, TimeoutError, orjson.JSONDecodeError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error


def _slot_state(slot: dict[str, Any]) -> SlotState:
    """Older builds tell no counts."""
    return SlotState(
        int(slot["id"]),
        bool(slot["is_processing"]),
        int(slot.get("n_prompt_tokens", 0)),
        int(slot.get("n_prompt_tokens_cache", 0)),
    )


def _number(answer: dict[str, Any], key: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int):
        raise SlotActionRefused(f"no number '{key}' in {str(answer)[:200]}")
    return value


def _seconds(answer: dict[str, Any], key: str) -> float:
    timings = answer.get("timings")
    value = timings.get(key) if isinstance(timings, dict) else None
    return value / 1000 if isinstance(value, (int, float)) else 0.0


def _names_of_true(flags: Any) -> frozenset[str] | None:
    return frozenset(name for name, value in flags.items() if value is True) if isinstance(flags, dict) else None


def _reason(answer: Any) -> str:
    try:
        return str(answer["error"]["message"])
    except (KeyError, TypeError):
        return str(answer)[:200]
