"""The models that a caller may use, in the shape that the client's headers ask for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from hugind.proxy.abilities import abilities_of, file_of
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.model_lists import (
    ListedModel,
    anthropic_model,
    anthropic_page,
    openai_list,
    openai_model,
)
from hugind.proxy.failures import dialect_of
from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.asking import refusing
from hugind.proxy.routes.callers import principal_of
from hugind.proxy.sessions.desk import ability_of
from hugind.supervisor.engine import Engine
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.library import Described

_UNREADABLE = {"chat": ("completion",), "embedding": ("embedding",)}
"""What a model is good for by its config alone."""


@dataclass(frozen=True)
class _File:
    """What the file of an engine's model says. None: it cannot be read."""

    described: Described | None
    abilities: tuple[str, ...] | None


def models_router(gateway: Gateway) -> APIRouter:
    """`/v1/models`, and one of them."""
    router = APIRouter(include_in_schema=False)
    started = time.time()

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The models that the caller may use, and the aliases of these."""
        listed = await _listed(gateway, principal_of(request), started)
        if not _is_anthropic(request):
            return openai_list(listed)
        with refusing():
            return anthropic_page(listed, request.query_params)

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One of them, by any of its names."""
        target = gateway.target_for(name, principal_of(request))
        engine = target.engine
        listed = _model(gateway, engine, (await _read([engine]))[0], started)
        if target.alias is not None:
            known = gateway.aliases.all()
            listed = ListedModel(
                name if name in known else match_name(name, known) or name,
                target.alias.created_at or started,
                listed.meta,
                engine.name,
            )
        return anthropic_model(listed) if _is_anthropic(request) else openai_model(listed)

    return router


def _is_anthropic(request: Request) -> bool:
    return dialect_of(request.scope["path"], request.scope["headers"]) == "anthropic"


async def _listed(gateway: Gateway, principal: Principal, started: float) -> list[ListedModel]:
    engines = gateway.visible_engines(principal)
    files = await _read(engines)
    models = {engine.name: _model(gateway, engine, file, started) for engine, file in zip(engines, files, strict=True)}
    aliases = [
        ListedModel(name, alias.created_at or started, models[alias.model].meta, alias.model)
        for name, alias in gateway.aliases.all().items()
        if alias.model in models and name not in models
    ]
    return [*models.values(), *aliases]


async def _read(engines: Sequence[Engine]) -> list[_File]:
    """What the files of engines say."""
    return await asyncio.to_thread(lambda: [_File(file_of(engine), abilities_of(engine)) for engine in engines])


def _model(gateway: Gateway, engine: Engine, about: _File, started: float) -> ListedModel:
    task, file = engine.config.model.task, about.described
    can = _UNREADABLE.get(task, ()) if about.abilities is None else about.abilities
    meta = {
        "state": engine.state,
        "task": task,
        "capabilities": list(can),
        "n_ctx": engine.config.context.ctx_size,
        "sessions": _sessions(gateway, engine),
    }
    if file is None:
        return ListedModel(engine.name, started, meta)
    header = file.header
    meta |= {"n_ctx_train": header.context_length, "n_params": file.parameters, "size": file.size_bytes}
    return ListedModel(engine.name, header.mtime_ns / 1e9, meta)


def _sessions(gateway: Gateway, engine: Engine) -> dict[str, str | None]:
    """What a conversation with the model is worth once it has left its slot."""
    task = engine.config.model.task
    if task != "chat":
        return {"ability": "none", "reason": f"an engine for {task} holds no sessions", "family": None}
    return ability_of(gateway.keeper(engine))
