"""OpenAI's routes, and those of llama-server's own that name a model the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hugind.proxy.access.auth import believed_header
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.choices import Choices
from hugind.proxy.dialects.embeddings import EmbeddingForm
from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.forms import Form, FormStream, PlainForm
from hugind.proxy.dialects.openai import ChatAssembler, CompletionAssembler, NativeAssembler
from hugind.proxy.dialects.openai_chat import ChatForm
from hugind.proxy.dialects.openai_completion import CompletionForm
from hugind.proxy.dialects.rerank import RerankForm
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import Assembler, assemble, prompt_tokens_of, relay_choice, relay_stream, relay_translated
from hugind.proxy.gateway import Gateway, Handler, Target
from hugind.proxy.keepalive import keep_alive
from hugind.proxy.routes.asking import fit_template, put_before, read_request, refusing
from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.talks import Header, bare_talk, chat_talk, owner_of, text_talk
from hugind.proxy.sessions.transcript import Scope, Talk
from hugind.proxy.turn import find_scope, pass_through, take_slot, take_turn
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.models.capabilities import Task
from hugind.supervisor.spawn import Spawn

MANY_CHOICES = ("/v1/chat/completions", "/v1/completions")
MAX_CHOICES = 16

MakeTalk = Callable[[Scope, Header, dict[str, Any]], Talk]
"""What a request of a route says about its conversation."""
Prepare = Callable[[Target, dict[str, Any]], None]
"""Puts what an alias says before the request of a route."""


async def generate(
    gateway: Gateway,
    exchange: Exchange,
    principal: Principal,
    *,
    assembler: Callable[[dict[str, Any]], Assembler],
    make_talk: MakeTalk,
    prepare: Prepare | None = None,
    make_form: Callable[[], Form] = PlainForm,
) -> None:
    """A request that generates: `stream` decides only how the client gets the answer.

    The engine is always asked for a stream, because one that does not stream cannot be cancelled while another slot
    is busy (engine facts, "Clients that leave").
    """
    form = make_form()
    target, request = await read_request(gateway, exchange, principal, task="chat", take=form.take)
    engine = target.engine
    if prepare is not None:
        prepare(target, request)
    wanted = take_choices(request, exchange.scope["path"])
    keeper = gateway.keeper(engine)
    keep_alive(exchange, request, engine.config.limits.keepalive_s)
    scope = await find_scope(keeper, exchange, owner_of(principal.name, exchange.end_user, request))
    talk = make_talk(scope, partial(believed_header, exchange), request)
    is_stream = request.get("stream") is True
    if not is_stream:
        request["stream"] = True
        request["stream_options"] = {"include_usage": True}
    if wanted > 1:
        await _generate_choices(keeper, exchange, request, talk, wanted, form, None if is_stream else assembler)
        return

    async def answer(spawn: Spawn, response: EngineStream) -> None:
        if not is_stream:
            await exchange.respond(200, _shaped(form, await assemble(exchange, spawn, response, assembler(request))))
        elif form.is_plain:
            await relay_stream(exchange, spawn, response)
        else:
            await relay_translated(exchange, spawn, response, FormStream(form))

    await take_turn(keeper, exchange, exchange.scope["path"], request, answer, talk)


async def _generate_choices(
    keeper: Keeper,
    exchange: Exchange,
    request: dict[str, Any],
    talk: Talk,
    wanted: int,
    form: Form,
    assembler: Callable[[dict[str, Any]], Assembler] | None,
) -> None:
    """Several answers to one request, each a turn of its own: streamed as they come, or joined by an assembler."""
    if talk.is_kept:
        raise ApiError(400, "a history that is kept here goes on with one answer: leave n out", param="n")
    choices = Choices(wanted, form.event)

    async def answer(spawn: Spawn, response: EngineStream) -> None:
        if assembler is None:
            await relay_choice(exchange, spawn, response, choices)
        else:
            choices.add(_shaped(form, await assemble(exchange, spawn, response, assembler(request))))

    session = None
    for _ in range(wanted):
        seed = request.get("seed")
        index = choices.begin()
        varied = {**request, "seed": seed + index} if isinstance(seed, int) else request
        await take_turn(keeper, exchange, exchange.scope["path"], varied, answer, talk)
        session = session or exchange.session
    if assembler is not None:
        exchange.session = session
        await exchange.respond(200, choices.result())


def _shaped(form: Form, body: Any) -> Any:
    try:
        return form.body(body)
    except EngineStreamError as error:
        raise ApiError(error.status, error.message, code=error.type) from None


async def chat(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/v1/chat/completions`."""

    def make_talk(scope: Scope, header: Header, request: dict[str, Any]) -> Talk:
        keeper = gateway.keeper(gateway.fleet.engines[scope.engine])
        fit_template(keeper.engine, request)
        request["messages"] = keeper.system_prompt.put_before(request.get("messages"))
        return chat_talk(scope, header, request, history=keeper.engine.config.chat.history)

    await generate(
        gateway,
        exchange,
        principal,
        assembler=lambda _: ChatAssembler(),
        make_talk=make_talk,
        prepare=prepare_chat,
        make_form=ChatForm,
    )


def prepare_chat(target: Target, request: dict[str, Any]) -> None:
    """An alias's messages come first."""
    request["messages"] = put_before(target, request.get("messages"))


async def compute(
    gateway: Gateway,
    exchange: Exchange,
    principal: Principal,
    *,
    task: Task,
    make_form: Callable[[], EmbeddingForm | RerankForm],
) -> None:
    """A request that is answered in one piece by an engine made for it."""
    form = make_form()
    target, request = await read_request(gateway, exchange, principal, task=task, take=form.take)

    async def answer(_: Spawn, response: EngineStream) -> None:
        body = await response.read()
        exchange.heard_upstream()
        exchange.prompt_tokens = prompt_tokens_of(body)
        if not form.is_plain:
            with refusing():
                body = await asyncio.to_thread(form.answer, body)  # thousands of vectors take seconds
        await exchange.respond(200, body)

    await take_slot(gateway.leases(target.engine), exchange, exchange.scope["path"], request, answer)


async def count(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """A request that only needs the vocabulary."""
    target, request = await read_request(gateway, exchange, principal, task=None)
    await pass_through(gateway.leases(target.engine), exchange, exchange.scope["path"], request)


def take_choices(request: dict[str, Any], path: str) -> int:
    """How many answers are wanted; taken out of the request, because the engine would use other people's slots.

    Raises:
        ApiError: 400 for what is no number of answers, or where the route has one.
    """
    wanted = request.get("n")
    if path not in MANY_CHOICES or wanted is None or request.get("n_cmpl") is not None or count_prompts(request) > 1:
        refuse_many_choices(request)
        return 1
    del request["n"]
    if type(wanted) is not int or not 1 <= wanted <= MAX_CHOICES:
        raise ApiError(400, f"n: a number from 1 to {MAX_CHOICES}", param="n", code="unsupported_value")
    return wanted


def refuse_many_choices(request: dict[str, Any]) -> None:
    """The engine would take further slots for them, whoever they belong to, and wipe those.

    Raises:
        ApiError: 400 when more than one choice is wanted.
    """
    for key in ("n", "n_cmpl"):
        wanted = request.pop(key, None)
        if wanted not in (None, 1):
            raise ApiError(400, f"{key}: only 1 is supported", param=key, code="unsupported_value")


def count_prompts(request: dict[str, Any]) -> int:
    """How many prompts the engine sees: a list is one prompt as soon as it holds a token, else one for each entry."""
    prompt = request.get("prompt")
    if not isinstance(prompt, list) or any(isinstance(entry, int) for entry in prompt):
        return 1
    return len(prompt)


ROUTES: dict[str, Handler] = {
    "/v1/chat/completions": chat,
    "/v1/completions": partial(
        generate,
        assembler=lambda request: CompletionAssembler(count_prompts(request)),
        make_talk=text_talk,
        make_form=CompletionForm,
    ),
    "/infill": partial(generate, assembler=lambda _: NativeAssembler(), make_talk=bare_talk),
    "/v1/embeddings": partial(compute, task="embedding", make_form=EmbeddingForm),
    "/v1/rerank": partial(compute, task="rerank", make_form=RerankForm),
    "/tokenize": count,
    "/detokenize": count,
}
