"""OpenAI's Responses: histories kept by the gateway. Every answer is a point to go on from.

A request is asked of the engine as a chat (`responses_request.py` says why). What was said before it comes from the
database, and goes before what it says itself; its KV is then found as any chat's is.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from hugind.proxy.access.auth import believed_header
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.defaults import add_parameters
from hugind.proxy.dialects.engine_refusals import TOO_LONG
from hugind.proxy.dialects.responses import ResponseAssembler, ResponseBuilder, ResponseStream, render_event
from hugind.proxy.dialects.responses_items import Ids, Item, drop_oldest, keep_items, references, to_messages
from hugind.proxy.dialects.responses_request import describe, to_chat
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.failures import database_error
from hugind.proxy.forward import assemble, relay_translated
from hugind.proxy.gateway import Gateway, Handler, Target
from hugind.proxy.keepalive import keep_alive
from hugind.proxy.records.conversations import PREFIX, ConversationLockedError, TooLargeError
from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.owned import Reader
from hugind.proxy.records.responses import Past
from hugind.proxy.routes.asking import (
    BYTES_OF_MB,
    begin,
    find_target,
    fit_template,
    put_before,
    read_body,
    refusing,
)
from hugind.proxy.routes.openai import refuse_many_choices
from hugind.proxy.sessions.record import Owner
from hugind.proxy.sessions.talks import owner_of, responses_talk
from hugind.proxy.sessions.transcript import count_head
from hugind.proxy.turn import find_scope, pass_through, take_turn
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

logger = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
LOCKED_RETRY_S = 1


@dataclass
class _Asked:
    """A request for a response, understood."""

    request: dict[str, Any]
    target: Target
    owner: Owner
    ids: Ids
    past: Past
    given: list[Item]
    """What came with the request."""
    chat: dict[str, Any]
    """The same as the engine is asked it, with what was said before."""
    is_stored: bool


async def respond(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/v1/responses`, streamed or not."""
    request = await read_body(gateway, exchange, principal)
    async with _held(gateway, exchange, request):
        asked = await _understand(gateway, exchange, principal, request)
        await begin(gateway, exchange, asked.target, asked.chat, asked.chat.pop("keep_alive", None))
        builder = _builder(asked)
        is_stream = request.get("stream") is True
        await _take_turn(gateway, exchange, asked, builder, is_stream=is_stream)
        final = builder.final(int(time.time()))
        await _keep(gateway, asked, builder)
    if is_stream:
        await exchange.send(render_event(final), more=False)
    else:
        await exchange.respond(200, builder.response)


async def count_input(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/v1/responses/input_tokens`: how many the prompt of such a request would have."""
    request = await read_body(gateway, exchange, principal)
    asked = await _understand(gateway, exchange, principal, {**request, "store": False})
    await begin(gateway, exchange, asked.target, asked.chat, asked.chat.pop("keep_alive", None))
    keeper = gateway.keeper(asked.target.engine)
    await find_scope(keeper, exchange, asked.owner)
    fit_template(asked.target.engine, asked.chat)
    asked.chat["messages"] = keeper.system_prompt.put_before(asked.chat["messages"])
    await pass_through(keeper.leases, exchange, f"{CHAT}/input_tokens", asked.chat)


def conversation_of(request: dict[str, Any]) -> str | None:
    """The conversation that a request goes on with, of those that are kept here; other words name sessions."""
    given = request.get("conversation")
    given = given.get("id") if isinstance(given, dict) else given
    return given if isinstance(given, str) and given.startswith(PREFIX) else None


def no_conversation(conversation_id: str) -> ApiError:
    """There is none, for who asks."""
    return ApiError(404, f"Conversation with id '{conversation_id}' not found.", code="conversation_not_found")


def too_large(error: TooLargeError, limit: int) -> ApiError:
    """More was said than a request may hold."""
    said, room = error.size_bytes / BYTES_OF_MB, limit / BYTES_OF_MB
    return ApiError(400, f"what was said has {said:.1f} MB, and {room:g} are allowed", code="history_too_large")


def _builder(asked: _Asked) -> ResponseBuilder:
    request, past = asked.request, asked.past
    about = {
        **describe(request, asked.chat),
        "conversation": None if past.conversation_id is None else {"id": past.conversation_id},
        "store": asked.is_stored,
    }
    try:
        orjson.dumps(about)
    except TypeError:  # orjson reads deeper nesting than it writes
        raise ApiError(400, "the request body is nested too deeply") from None
    return ResponseBuilder(about, asked.ids, request.get("model") or asked.target.engine.name, int(time.time()))


async def _take_turn(
    gateway: Gateway, exchange: Exchange, asked: _Asked, builder: ResponseBuilder, *, is_stream: bool
) -> None:
    engine, chat = asked.target.engine, asked.chat
    keeper = gateway.keeper(engine)
    keep_alive(exchange, asked.request, engine.config.limits.keepalive_s)
    scope = await find_scope(keeper, exchange, asked.owner)
    fit_template(engine, chat)
    chat["messages"] = keeper.system_prompt.put_before(chat["messages"])
    chat["stream"] = True
    chat["stream_options"] = {"include_usage": True}

    async def answer(spawn: Spawn, response: EngineStream) -> None:
        if is_stream:
            await relay_translated(exchange, spawn, response, ResponseStream(builder), is_all=False)
        else:
            await assemble(exchange, spawn, response, ResponseAssembler(builder))

    while True:
        talk = responses_talk(scope, partial(believed_header, exchange), asked.request, chat["messages"])
        try:
            await take_turn(keeper, exchange, CHAT, chat, answer, talk)
            return
        except ApiError as error:
            fewer = drop_oldest(chat["messages"], count_head(chat["messages"]))
            if error.kind != TOO_LONG or asked.request.get("truncation") != "auto" or fewer is None:
                raise
            chat["messages"] = fewer


async def _understand(gateway: Gateway, exchange: Exchange, principal: Principal, request: dict[str, Any]) -> _Asked:
    """What is asked, with what was said before.

    Raises:
        ApiError: it cannot be done, or goes on from what is not there; 503 where only the database knows that.
    """
    target = find_target(gateway, exchange, principal, request.get("model"), "chat")
    refuse_many_choices(request)
    reader = _reader(exchange, request)
    limit = int(target.engine.config.limits.max_body_mb * BYTES_OF_MB)
    ids = Ids(secrets.token_hex(16))
    with refusing():
        chat = to_chat(request)
        past = await _past(gateway, reader, request, limit)
        wanted = references(request.get("input"))
        known = await _items(gateway, reader, wanted) if wanted else {}
        given = keep_items(request.get("input"), ids, known)
    exchange.history_bytes = past.size_bytes
    said = to_messages([*past.items, *given])
    if not said:
        raise ApiError(400, "input: say something", param="input")
    if target.alias is not None:
        add_parameters(chat, target.alias.parameters)
    instructions = request.get("instructions")
    head = [{"role": "system", "content": instructions}] if instructions else []
    chat["messages"] = put_before(target, [*head, *said])
    return _Asked(request, target, reader.owner, ids, past, given, chat, _is_to_be_stored(gateway, request))


async def _past(gateway: Gateway, reader: Reader, request: dict[str, Any], limit: int) -> Past:
    """What was said before.

    Raises:
        ApiError: there is no such thing for who asks, or it cannot be looked up.
    """
    responses, conversation_id = gateway.books.responses, conversation_of(request)
    try:
        if (previous := request.get("previous_response_id")) is not None:
            past = await responses.past(reader, previous, limit)
            if past is None:
                raise ApiError(
                    400, f"Previous response with id '{previous}' not found.", code="previous_response_not_found",
                    param="previous_response_id",
                )  # fmt: skip
            return past
        if conversation_id is None:
            return Past()
        found = await responses.conversations.find(reader, conversation_id)
        if found is None:
            raise no_conversation(conversation_id)
        items = await responses.conversations.items(found, limit)
        return Past(items, found.size_bytes, None, conversation_id, found.end)
    except TooLargeError as error:
        raise too_large(error, limit) from None
    except DatabaseError as error:
        raise database_error(error) from error


async def _items(gateway: Gateway, reader: Reader, wanted: list[str]) -> dict[str, Item]:
    try:
        return await gateway.books.responses.items(reader, wanted)
    except DatabaseError as error:
        raise database_error(error) from error


async def _keep(gateway: Gateway, asked: _Asked, builder: ResponseBuilder) -> None:
    """Have it on record before the client can name it.

    Raises:
        ApiError: 503, it is not, and the client relies on it.
    """
    if not asked.is_stored and asked.past.conversation_id is None:
        return
    try:
        is_kept = await gateway.books.responses.add(
            asked.owner, builder.response, asked.given, asked.past, is_stored=asked.is_stored
        )
    except DatabaseError as error:
        if _relies_on_it(asked.request):
            raise database_error(error) from error
        logger.warning("%s is not kept: %s", asked.ids.response, error.message)
        builder.response["store"] = False
        return
    if not is_kept:
        raise no_conversation(str(asked.past.conversation_id))


def _is_to_be_stored(gateway: Gateway, request: dict[str, Any]) -> bool:
    """Raises ApiError: 503, the database is away, and the client wants it stored."""
    if request.get("store") is False:
        return False
    if gateway.books.usage.status.is_away:
        if _relies_on_it(request):
            raise database_error(DatabaseAway("usage waits for it"))
        return False
    return True


def _relies_on_it(request: dict[str, Any]) -> bool:
    """It says itself that it uses what is kept: many clients never look at what is kept unasked."""
    return (
        request.get("store") is True
        or request.get("previous_response_id") is not None
        or conversation_of(request) is not None
    )


@asynccontextmanager
async def _held(gateway: Gateway, exchange: Exchange, request: dict[str, Any]) -> AsyncIterator[None]:
    """One response at a time is made in a conversation.

    Raises:
        ApiError: 400, another is. 404 first for who cannot see it: they shall not even know that.
    """
    conversation_id = conversation_of(request)
    if conversation_id is None or request.get("previous_response_id") is not None:  # both: refused, and told why
        yield
        return
    conversations = gateway.books.responses.conversations
    try:
        found = await conversations.find(_reader(exchange, request), conversation_id)
    except DatabaseError as error:
        raise database_error(error) from error
    if found is None:
        raise no_conversation(conversation_id)
    try:
        with conversations.hold(conversation_id):
            yield
    except ConversationLockedError:
        raise ApiError(
            400, "Another process is currently operating on this conversation. Please retry in a few seconds.",
            code="conversation_locked", param="conversation", retry_after_s=LOCKED_RETRY_S,
            headers={"x-should-retry": "true"},
        ) from None  # fmt: skip


def _reader(exchange: Exchange, request: dict[str, Any]) -> Reader:
    owner = owner_of(exchange.principal.name, exchange.end_user, request)
    return Reader(owner, is_delegated=exchange.end_user is not None)


ROUTES: dict[str, Handler] = {"/v1/responses": respond, "/v1/responses/input_tokens": count_input}
