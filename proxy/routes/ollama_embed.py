"""Ollama's routes that embed: `/api/embed`, and the older `/api/embeddings`."""

from __future__ import annotations

import asyncio

import orjson

from hugind.proxy.abilities import file_of
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.ollama_embeddings import (
    cut,
    may_be_too_long,
    read_dimensions,
    read_inputs,
    render_embeddings,
    vectors_of,
)
from hugind.proxy.dialects.ollama_request import take
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.forward import prompt_tokens_of
from hugind.proxy.gateway import Gateway, Handler
from hugind.proxy.routes.asking import refusing
from hugind.proxy.routes.ollama_inference import Asked, begin_loaded, read_asked, respond
from hugind.proxy.turn import asker_of, take_slot
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused
from hugind.supervisor.llama.command import MAX_POOLED_BATCH
from hugind.supervisor.llama.stream import EngineStream
from hugind.supervisor.spawn import Spawn

TOKENIZE_TIMEOUT_S = 60


async def embed(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/api/embed`: the vectors of one text or several."""
    asked = await read_asked(gateway, exchange, principal)
    asked.require("embedding", "embeddings")
    with refusing():
        texts, dimensions = read_inputs(asked.request), read_dimensions(asked.request)
        is_cut = take(asked.request, "truncate", bool) is not False
    load_s = await begin_loaded(gateway, asked, {"input": texts})
    vectors = await _embed(gateway, asked, texts, dimensions, is_cut=is_cut) if texts else []
    answer = render_embeddings(asked.name, vectors, exchange.prompt_tokens, asked.spent(load_s))
    await respond(exchange, answer)


async def embed_prompt(gateway: Gateway, exchange: Exchange, principal: Principal) -> None:
    """`/api/embeddings`, Ollama's older route: the vector of one text."""
    asked = await read_asked(gateway, exchange, principal)
    asked.require("embedding", "embeddings")
    with refusing():
        prompt = take(asked.request, "prompt", str)
    await begin_loaded(gateway, asked, {"input": prompt or ""})
    vectors = await _embed(gateway, asked, [prompt], None, is_cut=True) if prompt else [[]]
    await respond(exchange, {"embedding": vectors[0]})


async def _embed(
    gateway: Gateway, asked: Asked, texts: list[str], dimensions: int | None, *, is_cut: bool
) -> list[list[float]]:
    """The vectors of texts, by the engine.

    Raises:
        ApiError: one is too long, and not to be cut; as `take_slot`.
    """
    exchange, leases = asked.exchange, gateway.leases(asked.engine)
    inputs = await _fit(gateway, asked, texts, is_cut=is_cut)
    vectors: list[list[float]] = []

    async def answer(_: Spawn, response: EngineStream) -> None:
        body = await response.read()
        exchange.heard_upstream()
        exchange.prompt_tokens = prompt_tokens_of(body)
        try:
            vectors.extend(vectors_of(orjson.loads(body), dimensions))
        except (orjson.JSONDecodeError, ValueError) as error:
            raise ApiError(500, str(error)) from None

    await take_slot(leases, exchange, "/v1/embeddings", {"input": inputs}, answer)
    return vectors


async def _fit(gateway: Gateway, asked: Asked, texts: list[str], *, is_cut: bool) -> list[str | list[int]]:
    """The texts, those that are too long cut to as many tokens as the engine takes at once."""
    limit = await _input_limit(asked.engine)
    fitting: list[str | list[int]] = []
    for text in texts:
        tokens = await _cut_tokens(gateway, asked, text, limit) if may_be_too_long(text, limit) else None
        if tokens is not None and not is_cut:
            raise ApiError(400, "the input length exceeds the context length", param="input")
        fitting.append(text if tokens is None else tokens)
    return fitting


async def _cut_tokens(gateway: Gateway, asked: Asked, text: str, limit: int) -> list[int] | None:
    spawn = await gateway.leases(asked.engine).ready_spawn(asker_of(asked.exchange))
    plain, special = {"content": text}, {"content": text, "add_special": True}
    try:
        only, around = [
            (await spawn.client.ask("/tokenize", body, TOKENIZE_TIMEOUT_S))["tokens"] for body in (plain, special)
        ]
    except (SlotActionRefused, WorkerUnreachable) as error:
        raise ApiError(503, f"the input cannot be measured: {error.message}", retry_after_s=1) from None
    return cut(only, around, limit)


async def _input_limit(engine: Engine) -> int:
    """Tokens of one input of an embedding engine."""
    context = engine.config.context
    batch = context.batch_size or min(context.ctx_size, MAX_POOLED_BATCH)
    file = await asyncio.to_thread(file_of, engine)
    trained = (file.header.context_length if file else None) or context.ctx_size
    return min(context.ctx_size, trained, context.ubatch_size or batch, batch)


ROUTES: dict[str, Handler] = {"/api/embed": embed, "/api/embeddings": embed_prompt}
