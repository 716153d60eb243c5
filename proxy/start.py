"""A gateway from its options to its end: everything is read, then bound, then served."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import URL, select

from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.app import App
from hugind.proxy.books import Books, Rules, database_url
from hugind.proxy.configured_keys import make_keyring
from hugind.proxy.engines import load_engines
from hugind.proxy.gateway import Gateway
from hugind.proxy.listening import Address, choose_address
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.schema import users
from hugind.proxy.reload import Loaded, Reloader
from hugind.proxy.served_models import Models, find_models
from hugind.proxy.server import bind, run_server
from hugind.proxy.sessions.stores import Stores
from hugind.proxy.start_options import StartOptions
from hugind.supervisor.addresses import is_loopback
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import HugindError
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.hardware import Hardware, probe
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.room import Gauge, fleet_rules
from hugind.supervisor.run_folder import GatewayRecord, ProcessId, own_run_folder, sweep
from hugind.supervisor.settings import Environment, Settings, load_settings
from hugind.supervisor.watch import take_stock

logger = logging.getLogger(__name__)

DRAIN_S = 10
"""Where no config says how long running turns get to finish."""


@dataclass(frozen=True)
class _Plan:
    """What the configs, the settings and the environment say together. Read before anything is bound or started."""

    settings: Settings
    models: Models
    address: Address
    keyring: Keyring
    database: URL
    rules: Rules
    fleet: FleetRules


def check_start(options: StartOptions, environment: Environment) -> None:
    """Whether a gateway could be started so: everything but the port, which another may hold still. Starts nothing.

    Raises:
        HugindError: as `start_gateway`.
    """
    plan = _read_plan(options, environment, probe(), token="-")  # noqa: S106 - opens nothing: nothing is started
    if options.is_on_demand:
        resolve_binary(options.binary, None, plan.settings.lib)
        return
    for config in plan.models.configs.values():
        resolve_binary(options.binary, config.engine.binary, plan.settings.lib)


def start_gateway(
    options: StartOptions, environment: Environment, tell: Callable[[str, Sequence[str]], None] | None = None
) -> None:
    """Serve until told to stop. Blocks. `tell` gets the URL and the engines' names as soon as it listens.

    Raises:
        ConfigError: a config or the settings cannot be used.
        HugindError: the address cannot be listened on, or would be open to the network without a key.
    """
    if sys.platform == "win32":
        raise HugindError("Windows is not supported", hint="use Linux, macOS or WSL 2")
    home = environment.home
    home.create()
    token = secrets.token_urlsafe(32)
    hardware, stock = probe(), take_stock(home)
    plan = _read_plan(options, environment, hardware, token)
    listener = bind(plan.address.host, plan.address.port)
    for pid in sweep(home):
        logger.warning("ended a worker that an earlier gateway left behind, pid %d", pid)
    with listener, own_run_folder(home) as folder:
        host, port = listener.getsockname()[:2]
        record = GatewayRecord(
            ProcessId.of_this(), host, port, tuple(plan.models.configs), token, options.argv, str(options.log)
        )

        stores = Stores(home)
        books = Books(plan.database, home, plan.settings, plan.rules)

        def load(current: Mapping[str, Engine]) -> Loaded:
            settings = load_settings(home)
            models = find_models(options, environment, settings)
            keyring = make_keyring(
                models.configs, environment, plan.address, token,
                has_users=books.keys.has_users, is_on_demand=options.is_on_demand,
            )  # fmt: skip
            return Loaded(
                load_engines(models, options, home, folder, stores, current),
                keyring,
                Rules.of(settings, environment),
                _fleet_rules(options, environment, settings, hardware),
            )

        def publish(names: Sequence[str]) -> None:
            engines = [engine.config.engine for engine in gateway.fleet.engines.values()]
            patience_s = (
                2 * max(e.drain_s for e in engines) + max(e.save_s + e.stop_s for e in engines) if engines else 0
            )
            folder.publish(replace(record, configs=tuple(names), patience_s=patience_s))

        def on_listening() -> None:
            names = list(gateway.fleet.engines)
            publish(names)
            logger.info("listening on %s", record.url)
            if tell is not None:
                tell(record.url, names)

        engines = load_engines(plan.models, options, home, folder, stores, current={})
        doorman = Doorman(plan.keyring, books.keys, needs_key=environment.needs_key)
        gauge = Gauge(home, hardware)
        fleet = Fleet(engines, plan.fleet, measure=gauge.measure, free_memory=gauge.free)
        gateway = Gateway(fleet, doorman, stores, books, home)
        is_watching = options.is_on_demand if plan.settings.fleet.watch is None else plan.settings.fleet.watch
        reloader = Reloader(gateway, load, publish, partial(take_stock, home) if is_watching else None, stock=stock)
        app = App(gateway, reloader, is_loopback=is_loopback(plan.address.host))
        drain_s = max((engine.config.engine.drain_s for engine in engines.values()), default=DRAIN_S)
        run_server(app, listener, drain_s=drain_s, on_listening=on_listening)


def _read_plan(options: StartOptions, environment: Environment, hardware: Hardware, token: str) -> _Plan:
    settings = load_settings(environment.home)
    models = find_models(options, environment, settings)
    address = choose_address(options, environment, settings, models.configs)
    database = database_url(environment.home, settings, environment)
    keyring = make_keyring(
        models.configs, environment, address, token,
        has_users=asyncio.run(_find_users(database)), is_on_demand=options.is_on_demand,
    )  # fmt: skip
    fleet = _fleet_rules(options, environment, settings, hardware)
    return _Plan(settings, models, address, keyring, database, Rules.of(settings, environment), fleet)


def _fleet_rules(options: StartOptions, environment: Environment, settings: Settings, hardware: Hardware) -> FleetRules:
    return fleet_rules(
        settings.fleet,
        environment,
        hardware,
        is_on_demand=options.is_on_demand,
        max_resident=options.max_resident,
        model_ttl_s=options.model_ttl_s,
    )


async def _find_users(url: URL) -> bool:
    """Whether the database knows anybody, or has; one that is away may.

    Raises:
        DatabaseError: it cannot be used as it is.
    """
    database = Database(url)
    try:
        if (await database.status()).revision is None and database.kind == "sqlite":
            return False  # it is made when the gateway starts
        await database.prepare()
        async with database.read() as connection:
            return await connection.scalar(select(users.c.id).limit(1)) is not None
    except DatabaseAway as away:
        logger.warning("the database is away: %s", away.message)
        return True
    finally:
        await database.aclose()
