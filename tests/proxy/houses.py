"""A gateway that loads on demand, without a server: a home with a library, real routes, the stand-in for an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import APIRouter

from hugind.cli.bench.standin import write_launcher
from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.books import Rules
from hugind.proxy.engines import load_engines
from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Loaded, Reloader
from hugind.proxy.routes.records import Records
from hugind.proxy.served_models import find_models
from hugind.proxy.sessions.stores import Stores
from hugind.proxy.start_options import StartOptions
from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.run_folder import own_run_folder
from hugind.supervisor.settings import Environment, Settings
from tests.homes import note_home
from tests.proxy.routes.calling import ROOT, Asking
from tests.proxy.serving import make_books
from tools.random_gguf import make_llama_gguf

ON_DEMAND = FleetRules(is_on_demand=True)


@dataclass
class House:
    """Lives inside `keeping_house`."""

    home: Home
    gateway: Gateway
    reloader: Reloader
    records: Records

    def names(self) -> list[str]:
        """The engines that are served."""
        return sorted(self.gateway.fleet.engines)


@asynccontextmanager
async def asking(*routers: APIRouter, principal: Principal = ROOT) -> AsyncIterator[httpx.AsyncClient]:
    """Asks routes without a server, as whoever `principal` is."""
    transport = httpx.ASGITransport(Asking(*routers, principal=principal))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def add_model(home: Home, name: str, *, seed: int = 0, ctx: int = 2048, half: bool = False) -> Path:
    """Put a real model of random weights into the library: `name` is `user/repo/file.gguf`."""
    path = home.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_llama_gguf(path, seed=seed, ctx=ctx, half=half)


@asynccontextmanager
async def keeping_house(folder: Path, configs: Mapping[str, str] | None = None) -> AsyncIterator[House]:
    """A home with the model `tiny`, of `maker/tiny-GGUF`, and with `configs`, which are YAML by name."""
    folder.mkdir(parents=True, exist_ok=True)
    home = Home(folder / "home")
    home.create()
    note_home(home)
    add_model(home, "maker/tiny-GGUF/tiny.gguf")
    for name, text in (configs or {}).items():
        home.config(name).write_text(text)
    binary = str(write_launcher(folder / "llama-server"))
    options = StartOptions((), None, None, binary, (), folder / "gateway.log", is_on_demand=True)
    environment = Environment(home, None, None, None)
    with own_run_folder(home) as run_folder:
        stores, books = Stores(home), make_books(home)

        def load(current: Mapping[str, Engine]) -> Loaded:
            models = find_models(options, environment, Settings())
            engines = load_engines(models, options, home, run_folder, stores, current)
            return Loaded(engines, Keyring(), Rules(), ON_DEMAND)

        fleet = Fleet(load({}).engines, ON_DEMAND)
        gateway = Gateway(fleet, Doorman(Keyring(), books.keys, needs_key=False), stores, books, home)
        reloader = Reloader(gateway, load, lambda names: None)
        async with gateway:
            yield House(home, gateway, reloader, Records(books.database, books.accounts))
