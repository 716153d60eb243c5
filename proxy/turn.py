"""One turn: wait for a slot, send the request pinned to it, hand the answer on, settle. Settles on every path."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from hugind.proxy.disconnect import DisconnectWatch
from hugind.proxy.errors import ApiError, StreamBroken
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import engine_error
from hugind.proxy.leases import Lease, Leases
from hugind.proxy.queue import Asker, Flow
from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.record import Label, Owner, Session
from hugind.proxy.sessions.transcript import Scope, Talk
from hugind.supervisor import tasks
from hugind.supervisor.errors import StreamCut, WorkerUnreachable
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

UNREAD_S = 0.25
UNREAD_S_PER_BYTE = 1e-6
"""Measured on two idle cores: 8 ms until 40 KB of chat show as a busy slot, 68 ms for 400 KB; more under load."""

Answer = Callable[[Spawn, EngineStream], Awaitable[None]]
"""Hands the engine's answer (status 200, body not yet read) to the client."""


def asker_of(exchange: Exchange) -> Asker:
    """Who asks for a turn, and how many may wait for them."""
    if exchange.asker is None:
        principal = exchange.principal
        own, of_key = principal.limits.queued, principal.key_limits.queued
        places = own if of_key is None else of_key if own is None else min(own, of_key)
        flow = Flow(principal.name, exchange.end_user)
        exchange.asker = Asker(flow, principal.priority, places, exchange.estimate_tokens, exchange.request_id)
    return exchange.asker


async def find_scope(keeper: Keeper, exchange: Exchange, owner: Owner) -> Scope:
    """Where the sessions of `owner` are. Waits while the engine loads.

    Raises:
        ApiError, ClientGone: as `take_slot`.
    """
    if keeper.is_ready:
        return await keeper.scope(owner)
    async with _watched(exchange):
        exchange.begin_wait()
        return await keeper.scope(owner, asker_of(exchange))


async def await_engine(leases: Leases, exchange: Exchange) -> None:
    """Wait until an engine is loaded, not for one of its slots.

    Raises:
        ApiError, ClientGone: as `take_slot`.
    """
    async with _watched(exchange):
        exchange.begin_wait()
        await leases.until_ready(asker_of(exchange))


async def take_turn(
    keeper: Keeper, exchange: Exchange, path: str, request: dict[str, Any], answer: Answer, talk: Talk
) -> None:
    """Serve one request of a conversation, on the slot that holds it or is made to.

    Two requests of one session are served in order. Otherwise as `take_slot`.
    """
    async with _watched(exchange):
        exchange.begin_wait()
        async with keeper.session(talk, asker_of(exchange)) as session:
            exchange.end_wait()
            if talk.is_kept:
                request = {**request, "messages": await keeper.history.whole(session, talk)}
            if keeper.history.wants_reply(talk):
                exchange.recorded = []
            await _serve(keeper.leases, exchange, path, request, answer, _Sitting(keeper, session))
            keeper.history.note_reply(session, request, exchange.recorded)


async def take_slot(leases: Leases, exchange: Exchange, path: str, request: dict[str, Any], answer: Answer) -> None:
    """Serve one request that belongs to no conversation, on a slot of its own.

    The body goes out with an explicit `id_slot` of ours, whatever the client sent. A worker that cannot be reached is
    tried once more on another, and after deaths once more than that: nothing was sent. One that dies later is not,
    because it may have begun to answer.

    Raises:
        ApiError: no slot in time, the engine refused, or it died.
        ClientGone: the client left, in whatever phase; the engine has been told by closing its connection.
    """
    async with _watched(exchange):
        await _serve(leases, exchange, path, request, answer, None)


async def pass_through(leases: Leases, exchange: Exchange, path: str, body: dict[str, Any]) -> None:
    """Serve a request that needs no slot, only the vocabulary: tokenize, detokenize, count.

    Raises:
        ApiError, ClientGone: as `take_turn`.
    """
    encoded = _encode(body)
    async with _watched(exchange):
        for attempt in ("first", "last"):
            exchange.begin_wait()
            spawn = await leases.ready_spawn(asker_of(exchange))
            exchange.end_wait()
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


def _watched(exchange: Exchange) -> AbstractAsyncContextManager[object]:
    """The client is told that it waits, if it wants to be, and the block ends when it leaves."""
    return (
        DisconnectWatch(exchange) if exchange.keep_alive is None else _watched_and_told(exchange, exchange.keep_alive)
    )


@asynccontextmanager
async def _watched_and_told(exchange: Exchange, keep_alive: AbstractAsyncContextManager[object]) -> AsyncIterator[None]:
    async with DisconnectWatch(exchange), keep_alive:
        yield


@dataclass(frozen=True)
class _Sitting:
    """A session at its turn."""

    keeper: Keeper
    session: Session


async def _serve(
    leases: Leases, exchange: Exchange, path: str, request: dict[str, Any], answer: Answer, sitting: _Sitting | None
) -> None:
    for attempt in ("first", "second", "last"):
        exchange.begin_wait()
        lease = await leases.acquire(sitting.keeper.wish(sitting.session) if sitting else None, asker_of(exchange))
        exchange.end_wait()
        is_settled, sent = False, 0
        exchange.timings, before = None, (exchange.prompt_tokens, exchange.events)
        try:
            label = await _sit_down(lease, exchange, sitting)
            pinned = _encode({**request, "id_slot": lease.slot, "cache_prompt": True})
            sent = len(pinned)
            if sitting is not None:
                sitting.keeper.began(lease, sitting.session, request)
            await _send_and_answer(lease, exchange, path, pinned, answer)
            is_settled = True
            return
        except WorkerUnreachable as error:
            sent = 0
            if sitting is not None:
                sitting.keeper.unseat(lease)
            await leases.until_gone(lease.spawn)
            if attempt == "last" or (attempt == "second" and not lease.spawn.has_exited):
                raise _unreachable(error) from error
        except StreamCut as error:
            await leases.until_gone(lease.spawn)  # who hears of it and asks again must not meet the dead one
            raise StreamBroken(error.message) from error
        except _Refused as refused:
            is_settled, sent = True, 0
            raise refused.error from None
        finally:
            if sitting is not None and sent:
                sitting.keeper.settle(lease, sitting.session, label, exchange.timings)
            tokens = _tokens(exchange, *before) if sent else 0
            quiet_s = 0 if exchange.was_heard else _unread_s(sent)
            leases.release(lease, tokens=tokens, is_all=is_settled, aborted=not is_settled, quiet_s=quiet_s)


async def _sit_down(lease: Lease, exchange: Exchange, sitting: _Sitting | None) -> Label:
    """Have the session in its slot. Not to be interrupted: half a restore would leave a slot of nobody knows what."""
    if sitting is None:
        return "new"
    begun = time.perf_counter()
    label = await tasks.finish(sitting.keeper.seat(lease, sitting.session), "seat a session")
    exchange.restore_s += time.perf_counter() - begun
    exchange.session = (label, sitting.session.id)
    return label


def _tokens(exchange: Exchange, prompt_before: int, events_before: int) -> int:
    """What the turn got: computed, not taken from the cache. Of one that was cut, what came of it."""
    if exchange.timings is not None:
        return sum(int(exchange.timings.get(key, 0)) for key in ("prompt_n", "predicted_n"))
    return exchange.prompt_tokens - prompt_before or exchange.events - events_before


class _Refused(Exception):  # noqa: N818 - carries a refusal out of the exchange
    def __init__(self, error: ApiError) -> None:
        self.error = error


async def _send_and_answer(lease: Lease, exchange: Exchange, path: str, body: bytes, answer: Answer) -> None:
    exchange.sent_upstream()
    async with lease.spawn.client.post(path, body) as response:
        exchange.heard_upstream()
        if response.status != 200:
            raise _Refused(await engine_error(response))
        if exchange.keep_alive is not None:
            await exchange.keep_alive.quiet()
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
