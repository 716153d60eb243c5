"""What every request needs at hand: the engines, their slots, and who may use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType

from hugind.proxy.access.auth import Keyring, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.leases import Leases
from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet


class Gateway:
    """Lives from start to stop; an async context manager that runs the fleet inside it."""

    def __init__(self, fleet: Fleet, keyring: Keyring) -> None:
        self.fleet = fleet
        self.keyring = keyring
        self._leases = {name: Leases(engine) for name, engine in fleet.engines.items()}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Gateway:
        await self._stack.enter_async_context(self.fleet)
        for leases in self._leases.values():
            self._stack.push_async_callback(leases.aclose)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def leases(self, engine: Engine) -> Leases:
        """The slots of an engine."""
        return self._leases[engine.name]

    def visible_engines(self, principal: Principal) -> list[Engine]:
        """The engines that exist as far as `principal` is concerned."""
        return [engine for engine in self.fleet.engines.values() if principal.may_use(engine.name)]

    def engine_for(self, model: object, principal: Principal) -> Engine:
        """The engine that a request's `model` names; a request without one means the only one there is.

        Raises:
            ApiError: 404 for an unknown name (or one that the caller may not use: it cannot tell which), 400 for none.
        """
        visible = self.visible_engines(principal)
        if model is None and len(visible) == 1:
            return visible[0]
        names = ", ".join(engine.name for engine in visible) or "none"
        if not isinstance(model, str) or not model:
            raise ApiError(400, f"'model' must name one of the models served here: {names}", param="model")
        for engine in visible:
            if engine.name == model:
                return engine
        raise ApiError(404, f"there is no model '{model}' here; models: {names}", code="model_not_found", param="model")


Handler = Callable[[Gateway, Exchange, Principal], Awaitable[None]]
"""Answers one request on raw ASGI, or raises `ApiError`."""
