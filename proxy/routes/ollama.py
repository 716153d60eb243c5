"""Ollama's routes that generate or embed. A chat is translated to the engine's own, and its stream to lines of JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hugind.proxy.abilities import abilities_of
from hugind.proxy.access.auth import believed_header
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects import ollama_request as translate
from hugind.proxy.dialects.defaults import add_parameters
from hugind.proxy.dialects.engine_refusals import TOO_LONG
from hugind.proxy.dialects.ollama import ChatReader, Form, Lines, NativeReader, Reader, Whole, as_message, as_response
from hugind.proxy.dialects.ollama_context import read_context, write_context
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import NDJSON_HEADERS, assemble, relay_translated
from hugind.proxy.gateway import Gateway, Handler
from hugind.proxy.routes import ollama_embed
from hugind.proxy.routes.asking import begin, fit_template, put_before, refusing
from hugind.proxy.routes.ollama_inference import Asked, begin_loaded, read_asked, respond
from hugind.proxy.sessions.talks import bare_talk, chat_talk, owner_of, text_talk
from hugind.proxy.sessions.transcript import Scope, Talk
from hugind.proxy.turn import find_scope, take_turn
from hugind.supervisor.keep_alive import parse_keep_alive
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

CHAT_PATH, RAW_PATH, INFILL_PATH = "/v1/chat/completions", "/completion", "/infill"
ANSWER_SHARE = 8
"""Of a context that a conversation has outgrown, one part in so many is left to the answer."""
_TOO_LONG_BY = re.compile(r"\((\d+) tokens\).*?\((\d+) tokens\)")


@dataclass(frozen=True)
class Plan:
    """How the engine is asked, and its answer told."""

    path: str
    body: dict[str, Any]
    form: Form
    context: Callable[[str], list[int]] | None = None

    def reader(self, request: dict[str, Any]) -> Reader:
        top = request.get("top_logprobs") or 0
        return ChatReader(top) if self.path == CHAT_PATH else NativeReader(top)


async def chat(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/api/chat`: a conversation; without messages, only the model is loaded or unloaded."""
    asked = await read_asked(gateway, exchange, principal)
    if translate.asks_nothing(asked.request, "messages"):
        await _load_or_unload(gateway, asked, as_message)
        return
    asked.require("chat", "chat")
    with refusing():
        body = translate.to_chat(asked.request)
    await _answer(gateway, asked, Plan(CHAT_PATH, body, as_message))


async def generate(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/api/generate`: one prompt, with the model's template around it, or raw, or with something to fill in."""
    asked = await read_asked(gateway, exchange, principal)
    if translate.asks_nothing(asked.request, "prompt", "suffix", "images"):
        await _load_or_unload(gateway, asked, as_response)
        return
    asked.require("chat", "generate")
    request = asked.request
    with refusing():
        if request.get("raw") is True:
            plan = Plan(RAW_PATH, translate.prompt_to_completion(request), as_response)
        elif request.get("suffix"):
            plan = Plan(INFILL_PATH, translate.prompt_to_infill(request), as_response)
        else:
            body = translate.prompt_to_chat(request, read_context(request.get("context")))
            plan = Plan(CHAT_PATH, body, as_response, partial(write_context, body["messages"]))
    await _answer(gateway, asked, plan)


async def _load_or_unload(gateway: Gateway, asked: Asked, form: Form) -> None:
    """A model of any task. Who still uses one that is to be unloaded is served first; the answer does not wait."""
    try:
        is_unload = parse_keep_alive(asked.request.get("keep_alive")) == 0
    except ValueError as error:
        raise ApiError(400, str(error), param="keep_alive") from None
    told = asked.told(form)
    if is_unload:
        if gateway.fleet.residency(asked.engine).is_loaded:
            await begin(gateway, asked.exchange, asked.target, {}, 0)
        await respond(asked.exchange, told.bare("unload"))
        return
    await begin_loaded(gateway, asked, {})
    await respond(asked.exchange, told.bare("load"))


async def _answer(gateway: Gateway, asked: Asked, plan: Plan) -> None:
    exchange, engine, body = asked.exchange, asked.engine, plan.body
    await _refuse_what_it_cannot(asked, plan)
    _add_what_is_not_said(asked, body)
    load_s = await begin_loaded(gateway, asked, body)
    keeper = gateway.keeper(engine)
    scope = await find_scope(keeper, exchange, owner_of(asked.principal.name, exchange.end_user, body))
    if plan.path == CHAT_PATH:
        fit_template(engine, body)
        body["messages"] = keeper.system_prompt.put_before(body["messages"])
        body["stream_options"] = {"include_usage": True}
    is_stream = body["stream"]
    body["stream"] = True
    told = asked.told(plan.form, load_s, plan.context)

    async def answer(spawn: Spawn, response: EngineStream) -> None:
        reader = plan.reader(asked.request)
        if is_stream:
            await relay_translated(exchange, spawn, response, Lines(told, reader), NDJSON_HEADERS)
        else:
            await respond(exchange, await assemble(exchange, spawn, response, Whole(told, reader)))

    while True:
        talk = _talk(asked, plan, scope)
        try:
            await take_turn(keeper, exchange, plan.path, body, answer, talk)
        except ApiError as error:
            shorter = None if exchange.is_started or talk.is_kept else _shorter(error, asked.request, body)
            if shorter is None:
                raise
            body["messages"] = shorter
        else:
            return


def _add_what_is_not_said(asked: Asked, body: dict[str, Any]) -> None:
    """First what the alias says, then what the config does by itself, then what Ollama's clients expect."""
    alias, sampling = asked.target.alias, asked.engine.config.sampling
    if alias is not None:
        add_parameters(body, alias.parameters)
    translate.add_defaults(body, {"top_p": sampling.top_p, "min_p": sampling.min_p})
    if "messages" in body:
        body["messages"] = put_before(asked.target, body["messages"])


def _talk(asked: Asked, plan: Plan, scope: Scope) -> Talk:
    header = partial(believed_header, asked.exchange)
    if plan.path == RAW_PATH:
        return text_talk(scope, header, plan.body)
    if plan.path == INFILL_PATH:
        return bare_talk(scope, header, plan.body)
    return chat_talk(scope, header, plan.body, history=asked.engine.config.chat.history)


def _shorter(error: ApiError, request: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What is left of a conversation that is too long for its context, as Ollama has it unless `truncate` is false."""
    sizes = _TOO_LONG_BY.search(error.message) if error.kind == TOO_LONG else None
    if sizes is None or request.get("truncate") is False or "messages" not in body:
        return None
    tokens, context = int(sizes[1]), int(sizes[2])
    return translate.drop_oldest(body["messages"], (context - context // ANSWER_SHARE) / max(tokens, 1))


async def _refuse_what_it_cannot(asked: Asked, plan: Plan) -> None:
    body, is_infill = plan.body, plan.path == INFILL_PATH
    tools, images, thinks = body.get("tools"), translate.has_images(body), translate.thinks(body)
    if not (is_infill or tools or images or thinks):
        return
    can = await asyncio.to_thread(abilities_of, asked.engine)
    if can is None:  # the engine will say what is wrong with its file
        return
    if is_infill and "insert" not in can:
        raise ApiError(400, f'"{asked.name}" does not support insert', param="suffix")
    if tools and "tools" not in can:
        raise ApiError(400, f"{asked.name} does not support tools", param="tools")
    if images and "vision" not in can:
        raise ApiError(400, f"{asked.name} does not support vision: it takes no images", param="images")
    if thinks and "thinking" not in can:
        raise ApiError(400, f'"{asked.name}" does not support thinking', param="think")


ROUTES: dict[str, Handler] = {"/api/chat": chat, "/api/generate": generate, **ollama_embed.ROUTES}
