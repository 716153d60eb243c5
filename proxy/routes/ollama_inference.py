"""What Ollama's routes that generate or embed have in common: which model, whether it can, when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.ollama import Form, Spent, Told
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange, Headers
from hugind.proxy.gateway import Gateway, Target
from hugind.proxy.routes.asking import begin, read_body
from hugind.proxy.routes.ollama_asking import find
from hugind.proxy.turn import await_engine
from hugind.supervisor.engine import Engine
from hugind.supervisor.models.capabilities import Task


@dataclass(frozen=True)
class Asked:
    """A request whose model is known. Lives as long as it."""

    exchange: Exchange
    principal: Principal
    request: dict[str, Any]
    target: Target

    @property
    def engine(self) -> Engine:
        """The one that is meant."""
        return self.target.engine

    @property
    def name(self) -> str:
        """The model, as the client wrote it."""
        model = self.request.get("model")
        return model if isinstance(model, str) else self.engine.name

    def require(self, task: Task, what: str) -> None:
        """Refuse a model that is made for something else. `what` is wanted, in Ollama's words.

        Raises:
            ApiError: 400.
        """
        if self.engine.config.model.task != task:
            raise ApiError(400, f'"{self.name}" does not support {what}', param="model")

    def told(self, form: Form, load_s: float = 0.0, context: Callable[[str], list[int]] | None = None) -> Told:
        """What all objects of the answer say."""
        return Told(self.name, form, time.time, lambda: self.spent(load_s), context)

    def spent(self, load_s: float) -> Spent:
        """Until now."""
        return Spent(self.exchange.duration_s, load_s)


async def read_asked(gateway: Gateway, exchange: Exchange, principal: Principal) -> Asked:
    """The request, and the model that it means.

    Raises:
        ApiError: 400 for a body that makes no sense, 404 for an unknown model, 413.
    """
    try:
        request = await read_body(gateway, exchange, principal)
    except ApiError as error:
        if error.status == 400 and not exchange.request_bytes:
            raise ApiError(400, "missing request body") from None
        raise
    model = request.get("model")
    target = find(gateway, principal, model) if isinstance(model, str) else gateway.target_for(model, principal)
    return Asked(exchange, principal, request, target)


async def begin_loaded(gateway: Gateway, asked: Asked, body: dict[str, Any]) -> float:
    """Admit a request, which is in the engine's words by now, and wait until its engine is loaded: so many seconds.

    Raises:
        ApiError: as `begin` and `await_engine`.
    """
    await begin(gateway, asked.exchange, asked.target, body, asked.request.get("keep_alive"))
    if asked.engine.state == "ready":
        return 0.0
    begun = time.perf_counter()
    await await_engine(gateway.leases(asked.engine), asked.exchange)
    return time.perf_counter() - begun


async def respond(exchange: Exchange, payload: dict[str, Any]) -> None:
    """The whole answer, with the content type that Ollama's has."""
    body = orjson.dumps(payload)
    headers: Headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await exchange.start(200, headers)
    await exchange.send(body, more=False)
