"""What every request needs at hand: the engines, their slots, and who may use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.books import Books, Rules
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.leases import Leases
from hugind.proxy.served_aliases import ServedAliases
from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.aliases import Alias
from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.model_names import match_name
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules


@dataclass(frozen=True)
class Target:
    """What a request's `model` means."""

    engine: Engine
    alias: Alias | None = None
    """With settings of its own, which the request may override."""


class Gateway:
    """Lives from start to stop; an async context manager that runs the fleet inside it."""

    def __init__(self, fleet: Fleet, doorman: Doorman, stores: Stores, books: Books, home: Home) -> None:
        self.home = home
        self.aliases = ServedAliases(home)
        self.fleet = fleet
        self.doorman = doorman
        self.stores = stores
        self.books = books
        self._served: dict[str, set[Exchange]] = {}
        """Requests that are being served, by the key of a user."""
        books.keys.on_ended(self._end_requests)
        self._leases: dict[Engine, Leases] = {}
        self._keepers: dict[Engine, Keeper] = {}
        for engine in fleet.engines.values():
            self._open(engine)

    async def __aenter__(self) -> Gateway:
        async with AsyncExitStack() as stack:
            for part in (self.books, self.stores, self.fleet):
                await stack.enter_async_context(part)
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for leases in [*self._leases.values()]:  # a reload may still be at it
                await leases.aclose()
        finally:
            try:
                await self.fleet.__aexit__(kind, error, trace)  # workers that end save what they hold
            finally:
                for keeper in [*self._keepers.values()]:
                    await keeper.aclose()
                await self.stores.__aexit__(kind, error, trace)
                await self.books.__aexit__(kind, error, trace)

    def came(self, exchange: Exchange) -> None:
        """A request was let in."""
        if exchange.principal.key_id is not None:
            self._served.setdefault(exchange.principal.key_id, set()).add(exchange)

    def left(self, exchange: Exchange) -> None:
        """A request has ended. Unknown ones are ignored."""
        for use in exchange.uses:
            use.end()
        key_id = exchange.principal.key_id
        if key_id is not None and (served := self._served.get(key_id)):
            served.discard(exchange)
            if not served:
                del self._served[key_id]

    def _end_requests(self, key_ids: Collection[str]) -> None:
        """Keys are good no more: what they are used for just now ends, too."""
        for key_id in key_ids:
            for exchange in list(self._served.get(key_id, ())):
                exchange.cut(ApiError(401, "this API key has just been revoked", code="key_revoked"))

    def use(self, engine: Engine, exchange: Exchange, keep_alive_s: float | None = None) -> None:
        """A request needs an engine until it ends. `keep_alive_s`: as `Fleet.use`."""
        exchange.uses.append(self.fleet.use(engine, keep_alive_s))

    def leases(self, engine: Engine) -> Leases:
        """The slots of an engine.

        Raises:
            ApiError: 503, a reload has just ended it.
        """
        try:
            return self._leases[engine]
        except KeyError:
            raise _stopped(engine) from None

    def keeper(self, engine: Engine) -> Keeper:
        """The sessions of an engine made for chat.

        Raises:
            ApiError: 503, a reload has just ended it.
        """
        try:
            return self._keepers[engine]
        except KeyError:
            raise _stopped(engine) from None

    @property
    def keepers(self) -> list[Keeper]:
        """Those of all engines that hold sessions."""
        return list(self._keepers.values())

    async def exchange(
        self, engines: Mapping[str, Engine], keyring: Keyring, rules: Rules, fleet_rules: FleetRules | None = None
    ) -> None:
        """Serve `engines` with the keys of `keyring`; those that are there already go on undisturbed.

        Blocks until what leaves has ended. Who waits for a slot there gets 503 and may ask again. `fleet_rules`: none,
        and they stay as they are.
        """
        self.doorman.keyring = keyring
        self.books.apply(rules)
        for engine in engines.values():
            if engine not in self._leases:
                self._open(engine)
        await self.fleet.exchange(engines, fleet_rules)
        for engine in [engine for engine in self._leases if engine not in engines.values()]:
            await self._leases.pop(engine).aclose()
            if keeper := self._keepers.pop(engine, None):
                await keeper.aclose()

    def _open(self, engine: Engine) -> None:
        if engine.config.model.task == "chat":
            keeper = self._keepers[engine] = Keeper(engine, self.stores.shelf(engine.name))
            self._leases[engine] = keeper.leases
        else:
            self._leases[engine] = Leases(engine)

    def visible_engines(self, principal: Principal) -> list[Engine]:
        """The engines that exist as far as `principal` is concerned."""
        return [engine for engine in self.fleet.engines.values() if principal.may_use(engine.name)]

    def engine_for(self, model: object, principal: Principal) -> Engine:
        """The engine that a request's `model` names, as `target_for`."""
        return self.target_for(model, principal).engine

    def target_for(self, model: object, principal: Principal) -> Target:
        """What a request's `model` names: an engine or an alias; without one it means the only engine there is.

        Raises:
            ApiError: 404 for an unknown name (or one that the caller may not use: it cannot tell which), 400 for none.
        """
        if isinstance(model, str) and (known := self.fleet.engines.get(model)) and principal.may_use(model):
            return Target(known)
        visible = {engine.name: engine for engine in self.visible_engines(principal)}
        if model is None and len(visible) == 1:
            return Target(next(iter(visible.values())))
        names = ", ".join(visible) or "none"
        if not isinstance(model, str) or not model:
            raise ApiError(400, f"'model' must name one of the models served here: {names}", param="model")
        aliases = {name: alias for name, alias in self.aliases.all().items() if alias.model in visible}
        if (alias := aliases.get(model)) is not None:
            return Target(visible[alias.model], alias)
        others = {name: engine for engine in visible.values() for name in (engine.name, *engine.other_names)}
        if (name := match_name(model, others)) is not None:
            return Target(others[name])
        if (name := match_name(model, aliases)) is not None:
            return Target(visible[aliases[name].model], aliases[name])
        raise ApiError(404, f"there is no model '{model}' here; models: {names}", code="model_not_found", param="model")


def _stopped(engine: Engine) -> ApiError:
    return ApiError(503, f"'{engine.name}' has just been stopped", code="engine_stopped", retry_after_s=1)


Handler = Callable[[Gateway, Exchange, Principal], Awaitable[None]]
"""Answers one request on raw ASGI, or raises `ApiError`."""
