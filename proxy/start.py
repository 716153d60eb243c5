"""From configs to a gateway that serves: where it listens, which keys open it, which engines it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import URL, select

from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.access.principal import ALL_SCOPES, CONTROL_NAME, ENVIRONMENT_NAME, Principal
from hugind.proxy.app import App
from hugind.proxy.books import Books, Rules, database_url
from hugind.proxy.gateway import Gateway
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.schema import users
from hugind.proxy.reload import Loaded, Reloader
from hugind.proxy.server import bind, run_server
from hugind.proxy.sessions.prompts import read_system_prompt
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.config import Config, find_config, load_config, missing_files
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.hardware import Hardware, probe
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.served import serve_library
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.room import Gauge, fleet_rules
from hugind.supervisor.run_folder import GatewayRecord, ProcessId, RunFolder, own_run_folder, sweep
from hugind.supervisor.settings import Environment, Settings, load_settings
from hugind.supervisor.watch import files_of, take_stock

logger = logging.getLogger(__name__)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
ON_DEMAND_PORT = 11434
"""Where Ollama's clients ask."""
DRAIN_S = 10
"""Where no config says how long running turns get to finish."""


@dataclass(frozen=True)
class StartOptions:
    """What `hugind server start` was told. None: not told."""

    configs: tuple[str, ...]
    host: str | None
    port: int | None
    binary: str | None
    argv: tuple[str, ...]
    """The arguments of the command, kept for `server restart`."""
    log: Path
    """Where the gateway's own log goes."""
    autoload: bool = False
    """Every config of the home, too."""
    is_on_demand: bool = False
    """`hugind serve`: models are loaded when somebody asks for them, those of the library, too. There may be none."""
    max_resident: int | None = None
    """So many models at the same time; 0: what fits. Beats environment and settings."""
    model_ttl_s: float | None = None
    """Idle seconds until a model is unloaded; negative: never. Beats environment and settings."""


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int


@dataclass(frozen=True)
class Models:
    """What is to be served: configs, and models of the library that have none."""

    configs: dict[str, Config]
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    """Configs that cannot be used, and why, where the others are served all the same."""


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
        app = App(gateway, reloader, is_loopback=_is_loopback(plan.address.host))
        drain_s = max((engine.config.engine.drain_s for engine in engines.values()), default=DRAIN_S)
        run_server(app, listener, drain_s=drain_s, on_listening=on_listening)


def _read_plan(options: StartOptions, environment: Environment, hardware: Hardware, token: str) -> _Plan:
    settings = load_settings(environment.home)
    models = find_models(options, environment, settings)
    address = choose_address(options, environment, settings, models.configs)
    database = database_url(environment.home, settings, environment)
    keyring = make_keyring(
        models.configs, environment, address, token,
        has_users=asyncio.run(find_users(database)), is_on_demand=options.is_on_demand,
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


async def find_users(url: URL) -> bool:
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


def find_models(options: StartOptions, environment: Environment, settings: Settings) -> Models:
    """The configs that were named; on demand every one of the home, and the library. Blocks on the disk.

    Raises:
        ConfigError: as `load_configs`; on demand a config that cannot be used is left out instead, and the log tells.
    """
    if not options.is_on_demand:
        return Models(load_configs(options, environment))
    models = _find_all(environment.home, settings)
    for name, problem in models.broken.items():
        logger.warning("%s is left out: %s", name, problem)
    return models


def _find_all(home: Home, settings: Settings) -> Models:
    configs: dict[str, Config] = {}
    broken: dict[str, str] = {}
    for name in home.config_names():
        try:
            configs[name] = load_config(home.config(name))
        except ConfigError as error:
            broken[name] = error.message
    library = serve_library(home, settings.library, configs, broken)
    return Models({**configs, **library.configs}, library.other_names, broken)


def load_engines(
    models: Models,
    options: StartOptions,
    home: Home,
    folder: RunFolder,
    stores: Stores,
    current: Mapping[str, Engine],
) -> dict[str, Engine]:
    """An engine for each config: the current one where config, files and binary are still the same. Blocks.

    On demand one that cannot be made is left out, and one whose config is broken now goes on as it was.

    Raises:
        BinaryError: there is no usable llama-server for one of them.
        ConfigError: as `open_slot_folder`.
    """
    settings = load_settings(home)
    engines = {name: current[name] for name in models.broken if name in current}
    for name, config in models.configs.items():
        try:
            engine = _load_engine(name, config, options, settings, home, folder, stores, current)
        except HugindError as error:
            if not options.is_on_demand:
                raise
            logger.warning("%s is left out: %s", name, error.message)
            continue
        engine.other_names = models.other_names.get(name, ())
        engines[name] = engine
    return engines


def _load_engine(
    name: str,
    config: Config,
    options: StartOptions,
    settings: Settings,
    home: Home,
    folder: RunFolder,
    stores: Stores,
    current: Mapping[str, Engine],
) -> Engine:
    binary, files = resolve_binary(options.binary, config.engine.binary, settings.lib), files_of(config, home)
    known = current.get(name)
    if known is not None and (known.config, known.binary, known.files) == (config, binary, files):
        return known
    check_system_prompt(name, config, home)
    if current:  # in a gateway that serves, a good engine is not given up for one that cannot start
        refuse_missing_files(name, config, home)
    logger.info("%s runs on %s (%s: %s)", name, binary.build, binary.kind, binary.reason)
    engine = Engine(name, config, binary, home, folder, open_slot_folder(name, config, stores))
    engine.files = files
    return engine


def open_slot_folder(name: str, config: Config, stores: Stores) -> Path | None:
    """Where the workers of a config write slot files; None where they hold no sessions. Blocks on the disk.

    Raises:
        ConfigError: the sessions cannot be kept as the config wants it.
    """
    if config.model.task != "chat":
        return None
    return stores.open(name, config.sessions).store.slots.path


def check_system_prompt(name: str, config: Config, home: Home) -> None:
    """A system prompt that was asked for is never left out silently. Blocks.

    Raises:
        ConfigError: its file cannot be read.
    """
    try:
        read_system_prompt(config, home)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {error}", key="chat.system_prompt_file") from None


def refuse_missing_files(name: str, config: Config, home: Home) -> None:
    """A config's files must be there.

    Raises:
        ConfigError: one is not.
    """
    for key, file in missing_files(config, home):
        raise ConfigError(f"{name}: there is no file {file}", key=key, hint="put it there, or correct the path")


def make_keyring(
    configs: dict[str, Config],
    environment: Environment,
    address: Address,
    token: str,
    *,
    has_users: bool,
    is_on_demand: bool = False,
) -> Keyring:
    """The keys of the environment, the configs, and of the commands on this machine (`token`).

    `has_users`: there are people with keys of their own. `is_on_demand`: an engine that nobody could use is no mistake.

    Raises:
        HugindError: the network could reach an engine without a key, or nobody could reach it with one.
    """
    keyring = _configured_keys(configs, environment)
    if not has_users and not environment.needs_key:
        require_key_beyond_loopback(address, keyring)
        if not is_on_demand:
            require_key_for_each(configs, keyring)
    keyring.add(token, Principal(CONTROL_NAME, scopes=ALL_SCOPES))
    return keyring


def load_configs(options: StartOptions, environment: Environment) -> dict[str, Config]:
    """The configs that were named, by name, in order; with `autoload` every other of the home behind them.

    A name that no config has may be that of a model of the library.

    Raises:
        ConfigError: one cannot be used, none was named, or two have one name.
    """
    home_names = environment.home.config_names()
    names = list(dict.fromkeys([*options.configs, *(home_names if options.autoload else [])]))
    if not names:
        known = ", ".join(home_names) or "none yet; 'hugind config demo' makes one"
        raise ConfigError("no config was named", hint=f"configs: {known}; or use --autoload")
    configs: dict[str, Config] = {}
    for given in names:
        name, config = _find_model(given, environment.home)
        if name in configs:
            raise ConfigError(f"two configs are called '{name}'", hint="rename one of the files")
        configs[name] = config
    return configs


def _find_model(given: str, home: Home) -> tuple[str, Config]:
    """A config by its file or its name, `NAME.gguf` too; else a model of the library by any of its names."""
    if not given.endswith((".yml", ".yaml")) and not ("/" in given and Path(given).expanduser().is_file()):
        if (known := match_name(given, home.config_names())) is not None:
            return known, load_config(home.config(known))
        models = _find_all(home, load_settings(home))
        names = {other: name for name, others in models.other_names.items() for other in (name, *others)}
        if (found := match_name(given, names)) is not None:
            return names[found], models.configs[names[found]]
    name, path = find_config(given, home)
    return name, load_config(path)


def choose_address(
    options: StartOptions, environment: Environment, settings: Settings, configs: dict[str, Config]
) -> Address:
    """Flag, else environment, else the configs' own where they agree, else settings, else 127.0.0.1:8080.

    On demand OLLAMA_HOST and OLLAMA_LOCAL_PORT come before the rest of the environment, the port is 11434 where nobody
    says, and configs that disagree have no say: they say where they listen when they are started alone.

    Raises:
        ConfigError: configs that are started together name different addresses; OLLAMA_HOST is no address.
    """
    hosts = {config.server.host for config in configs.values()} - {None}
    ports = {config.server.port for config in configs.values()} - {None}
    host, port, default_port = environment.host, environment.port, DEFAULT_PORT
    if options.is_on_demand:
        ollama_host, ollama_port = parse_listen(environment.ollama_host or "")
        ollama_port = environment.ollama_port if ollama_port is None else ollama_port
        host, port = ollama_host or host, port if ollama_port is None else ollama_port
        hosts, ports = hosts if len(hosts) == 1 else set(), ports if len(ports) == 1 else set()
        default_port = ON_DEMAND_PORT
    host = options.host or host
    port = options.port if options.port is not None else port
    if (host is None and len(hosts) > 1) or (port is None and len(ports) > 1):
        named = ", ".join(f"{name} {c.server.host or ''}:{c.server.port or ''}" for name, c in configs.items())
        raise ConfigError(f"the configs name different addresses ({named})", hint="say which: --host and --port")
    if host is None:
        host = next(iter(hosts), None) or settings.host or DEFAULT_HOST
    if port is None:
        port = next(iter(ports), None)
    if port is None:
        port = settings.port
    return Address(host, default_port if port is None else port)


def parse_listen(text: str) -> tuple[str | None, int | None]:
    """Host and port of OLLAMA_HOST: `host`, `host:port`, `:port` or a URL, whose path has no say. None: not said.

    Raises:
        ConfigError: it is none of these.
    """
    rest = text.rpartition("://")[2]
    try:
        ipaddress.IPv6Address(rest)
    except ValueError:
        pass
    else:
        return rest, None
    try:
        parts = urlsplit(f"//{rest}")
        return parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"OLLAMA_HOST is no address to listen on: {text!r}", hint="as 127.0.0.1:11434") from None


def require_key_beyond_loopback(address: Address, keyring: Keyring) -> None:
    """Nothing listens to the network without a key.

    Raises:
        HugindError: it would.
    """
    if keyring.is_open and not _is_loopback(address.host):
        raise HugindError(
            f"{address.host} can be reached from the network, and no API key is configured",
            hint="hugind user create NAME, or set LLAMA_API_KEY or server.api_key, or listen on 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_key_for_each(configs: Iterable[str], keyring: Keyring) -> None:
    """No engine is started that nobody could use.

    Raises:
        ConfigError: one config has a key, another has none, and there is none for all.
    """
    for name in configs:
        if not keyring.opens(name):
            raise ConfigError(
                f"no key opens '{name}', but another config has one",
                hint=f"set server.api_key in '{name}' as well, or LLAMA_API_KEY for all",
            )


def _configured_keys(configs: dict[str, Config], environment: Environment) -> Keyring:
    keyring = Keyring()
    if environment.api_key:
        keyring.add(environment.api_key.get_secret_value(), Principal(ENVIRONMENT_NAME))
    for name, config in configs.items():
        if config.server.api_key:
            # With a colon, as no config has it: one called "environment" must not have that key's sessions.
            keyring.add(config.server.api_key.get_secret_value(), Principal(f"config:{name}", frozenset({name})))
    return keyring
