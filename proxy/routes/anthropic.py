"""Anthropic's routes. Messages are translated to chat: the engine's own `/v1/messages` drops `id_slot`."""

from __future__ import annotations

from functools import partial

from hugind.proxy.access.auth import believed_header
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.anthropic import MessageStream, from_chat, ping_event
from hugind.proxy.dialects.anthropic_request import to_chat
from hugind.proxy.dialects.defaults import add_parameters
from hugind.proxy.dialects.openai import ChatAssembler
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import assemble, relay_translated
from hugind.proxy.gateway import Gateway, Handler
from hugind.proxy.keepalive import keep_alive
from hugind.proxy.routes.asking import begin, find_target, fit_template, put_before, read_body, refusing
from hugind.proxy.routes.openai import refuse_many_choices
from hugind.proxy.sessions.talks import chat_talk, owner_of
from hugind.proxy.turn import find_scope, pass_through, take_turn
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn


async def messages(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/v1/messages`, streamed or not."""
    request = await read_body(gateway, exchange, principal)
    target = find_target(gateway, exchange, principal, request.get("model"), "chat")
    refuse_many_choices(request)
    with refusing():
        chat = to_chat(request)
    keep_loaded = chat.pop("keep_alive", None)
    if target.alias is not None:
        add_parameters(chat, target.alias.parameters)
    chat["messages"] = put_before(target, chat["messages"])
    await begin(gateway, exchange, target, chat, keep_loaded)
    engine = target.engine
    keeper = gateway.keeper(engine)
    keep_alive(exchange, request, engine.config.limits.keepalive_s, ping_event())
    scope = await find_scope(keeper, exchange, owner_of(principal.name, exchange.end_user, request))
    fit_template(engine, chat)
    chat["messages"] = keeper.system_prompt.put_before(chat["messages"])
    talk = chat_talk(scope, partial(believed_header, exchange), chat, history=engine.config.chat.history)
    chat["stream"] = True
    chat["stream_options"] = {"include_usage": True}
    if request.get("stream") is True:
        chat["return_progress"] = True  # only so does `message_start` know the size of the input

    async def answer(spawn: Spawn, response: EngineStream) -> None:
        if request.get("stream") is True:
            await relay_translated(exchange, spawn, response, MessageStream(engine.name))
        else:
            completion = await assemble(exchange, spawn, response, ChatAssembler())
            await exchange.respond(200, from_chat(completion, engine.name))

    await take_turn(keeper, exchange, "/v1/chat/completions", chat, answer, talk)


async def count_tokens(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/v1/messages/count_tokens`: of the chat that the engine would be asked for, without asking it."""
    request = await read_body(gateway, exchange, principal)
    target = find_target(gateway, exchange, principal, request.get("model"), "chat")
    with refusing():
        chat = to_chat({**request, "max_tokens": request.get("max_tokens", 1)})
    chat["messages"] = put_before(target, chat["messages"])
    await begin(gateway, exchange, target, chat, chat.pop("keep_alive", None))
    keeper = gateway.keeper(target.engine)
    await find_scope(keeper, exchange, owner_of(principal.name, exchange.end_user, request))
    fit_template(target.engine, chat)
    chat["messages"] = keeper.system_prompt.put_before(chat["messages"])
    await pass_through(keeper.leases, exchange, "/v1/chat/completions/input_tokens", chat)


ROUTES: dict[str, Handler] = {"/v1/messages": messages, "/v1/messages/count_tokens": count_tokens}
