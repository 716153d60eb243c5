"""One turn: wait for a slot, send the request pinned to it, hand the answer on, settle. Settles on every path."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from hugind.proxy.disconnect import DisconnectWatch
from hugind.proxy.errors import ApiError, StreamBroken
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import engine_error
from hugind.proxy.leases import Lease, Leases
from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

UNREAD_S = 0.25
UNREAD_S_PER_BYTE = 1e-6
"""Measured on two idle cores: 8 ms until 40 KB of chat show as a busy slot, 68 ms for 400 KB; more under load."""

Answer = Callable[[Spawn, EngineStream], Awaitable[None]]
"""Hands the engine's answer (status 200, body not yet read) to the client."""


async def take_turn(leases: Leases, exchange: Exchange, path: str, body: dict[str, Any], answer: Answer) -> None:
    """Serve one request on a slot of its own.

    The body goes out with an explicit `id_slot` of ours, whatever the client sent. A worker that cannot be reached is
    tried once more on another: nothing was sent. One that dies later is not, because it may have begun to answer.

    Raises:
        ApiError: no slot in time, the engine refused, or it died.
        ClientGone: the client left, in whatever phase; the engine has been told by closing its connection.
    """
    async with DisconnectWatch(exchange):
        for attempt in ("first", "last"):
            lease = await _acquire(leases, exchange)
            is_settled, sent = False, 0
            try:
                pinned = _encode({**body, "id_slot": lease.slot, "cache_prompt": True})
                sent = len(pinned)
                await _send_and_answer(lease, exchange, path, pinned, answer)
                is_settled = True
                return
            except WorkerUnreachable as error:
                if attempt == "last":
                    raise _unreachable(error) from error
                await leases.until_gone(lease.spawn)
            except StreamCut as error:
                await leases.until_gone(lease.spawn)  # who hears of it and asks again must not meet the dead one
                raise StreamBroken(error.message) from error
            except _Refused as refused:
                is_settled = True
                raise refused.error from None
            finally:
                leases.release(lease, aborted=not is_settled, quiet_s=0 if exchange.was_heard else _unread_s(sent))


async def pass_through(leases: Leases, exchange: Exchange, path: str, body: dict[str, Any]) -> None:
    """Serve a request that needs no slot, only the vocabulary: tokenize, detokenize, count.

    Raises:
        ApiError, ClientGone: as `take_turn`.
    """
    encoded = _encode(body)
    async with DisconnectWatch(exchange):
        for attempt in ("first", "last"):
            begun = time.perf_counter()
            spawn = await leases.ready_spawn()
            exchange.queue_s += time.perf_counter() - begun
            exchange.sent_upstream()
            try:
                async with spawn.client.post(path, encoded) as response:
                    if response.status != 200:
                        raise await engine_error(response)
                    answer = await response.read()
                    exchange.heard_upstream()
                break
            except WorkerUnreachable as error:
                if attempt == "last":
                    raise _unreachable(error) from error
                await leases.until_gone(spawn)
            except StreamCut as error:
                raise StreamBroken(error.message) from error
        await exchange.respond(200, answer)


async def _acquire(leases: Leases, exchange: Exchange) -> Lease:
    begun = time.perf_counter()
    try:
        return await leases.acquire()
    finally:
        exchange.queue_s += time.perf_counter() - begun


class _Refused(Exception):  # noqa: N818 - carries a refusal out of the exchange
    def __init__(self, error: ApiError) -> None:
        self.error = error


async def _send_and_answer(lease: Lease, exchange: Exchange, path: str, body: bytes, answer: Answer) -> None:
    exchange.sent_upstream()
    async with lease.spawn.client.post(path, body) as response:
        exchange.heard_upstream()
        if response.status != 200:
            raise _Refused(await engine_error(response))
        await answer(lease.spawn, response)


def _unread_s(size_bytes: int) -> float:
    """How long a request may lie at the engine, unread or half turned into tokens, and its slot look idle."""
    return UNREAD_S + UNREAD_S_PER_BYTE * size_bytes


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # orjson reads deeper nesting than it writes
        raise ApiError(400, "the request body is nested too deeply") from None


def _unreachable(error: WorkerUnreachable) -> ApiError:
    return ApiError(503, f"no worker can be reached: {error.message}", code="worker_unreachable", retry_after_s=1)
