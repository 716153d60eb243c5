"""From configs to a gateway that serves: where it listens, which keys open it, which engines it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import URL, select

from hugind.proxy.access.auth import LOOPBACK_NAMES, Doorman, Keyring
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
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, ProcessId, RunFolder, own_run_folder, sweep
from hugind.supervisor.settings import Environment, Settings, load_settings

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
class _Plan:
    """What the configs, the settings and the environment say together. Read before anything is bound or started."""

    settings: Settings
    configs: dict[str, Config]
    address: Address
    keyring: Keyring
    database: URL
    rules: Rules


def check_start(options: StartOptions, environment: Environment) -> None:
    """Whether a gateway could be started so: everything but the port, which another may hold still. Starts nothing.

    Raises:
        HugindError: as `start_gateway`.
    """
    plan = _read_plan(options, environment, token="-")  # noqa: S106 - opens nothing: nothing is started
    for config in plan.configs.values():
        resolve_binary(options.binary, config.engine.binary, plan.settings.lib)


def start_gateway(options: StartOptions, environment: Environment) -> None:
    """Serve until told to stop. Blocks.

    Raises:
        ConfigError: a config or the settings cannot be used.
        HugindError: the address cannot be listened on, or would be open to the network without a key.
    """
    if sys.platform == "win32":
        raise HugindError("Windows is not supported", hint="use Linux, macOS or WSL 2")
    home = environment.home
    home.create()
    token = secrets.token_urlsafe(32)
    plan = _read_plan(options, environment, token)
    listener = bind(plan.address.host, plan.address.port)
    for pid in sweep(home):
        logger.warning("ended a worker that an earlier gateway left behind, pid %d", pid)
    with listener, own_run_folder(home) as folder:
        host, port = listener.getsockname()[:2]
        record = GatewayRecord(
            ProcessId.of_this(), host, port, tuple(plan.configs), token, options.argv, str(options.log)
        )

        stores = Stores(home)
        books = Books(plan.database, home, plan.settings, plan.rules)

        def load(current: Mapping[str, Engine]) -> Loaded:
            configs = load_configs(options, environment)
            keyring = make_keyring(configs, environment, plan.address, token, has_users=books.keys.has_users)
            rules = Rules.of(load_settings(home), environment)
            return Loaded(load_engines(configs, options, home, folder, stores, current), keyring, rules)

        def publish(names: Sequence[str]) -> None:
            engines = [engine.config.engine for engine in gateway.fleet.engines.values()]
            patience_s = (
                2 * max(e.drain_s for e in engines) + max(e.save_s + e.stop_s for e in engines) if engines else 0
            )
            folder.publish(replace(record, configs=tuple(names), patience_s=patience_s))

        def on_listening() -> None:
            publish(list(gateway.fleet.engines))
            logger.info("listening on %s", record.url)

        engines = load_engines(plan.configs, options, home, folder, stores, current={})
        doorman = Doorman(plan.keyring, books.keys, needs_key=environment.needs_key)
        gateway = Gateway(Fleet(engines), doorman, stores, books, home)
        app = App(gateway, Reloader(gateway, load, publish))
        drain_s = max((config.engine.drain_s for config in plan.configs.values()), default=DRAIN_S)
        run_server(app, listener, drain_s=drain_s, on_listening=on_listening)


def _read_plan(options: StartOptions, environment: Environment, token: str) -> _Plan:
    settings = load_settings(environment.home)
    configs = load_configs(options, environment)
    address = choose_address(options, environment, settings, configs)
    database = database_url(environment.home, settings, environment)
    has_users = asyncio.run(find_users(database))
    keyring = make_keyring(configs, environment, address, token, has_users=has_users)
    return _Plan(settings, configs, address, keyring, database, Rules.of(settings, environment))


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


def load_engines(
    configs: Mapping[str, Config],
    options: StartOptions,
    home: Home,
    folder: RunFolder,
    stores: Stores,
    current: Mapping[str, Engine],
) -> dict[str, Engine]:
    """An engine for each config: the current one where config and binary are still the same. Blocks.

    Raises:
        BinaryError: there is no usable llama-server for one of them.
        ConfigError: as `open_slot_folder`.
    """
    settings = load_settings(home)
    engines = {}
    for name, config in configs.items():
        binary = resolve_binary(options.binary, config.engine.binary, settings.lib)
        known = current.get(name)
        if known is not None and known.config == config and known.binary == binary:
            engines[name] = known
        else:
            check_system_prompt(name, config, home)
            if current:  # in a gateway that serves, a good engine is not given up for one that cannot start
                refuse_missing_files(name, config, home)
            logger.info("%s runs on %s (%s: %s)", name, binary.build, binary.kind, binary.reason)
            engines[name] = Engine(name, config, binary, home, folder, open_slot_folder(name, config, stores))
    return engines


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
    configs: dict[str, Config], environment: Environment, address: Address, token: str, *, has_users: bool
) -> Keyring:
    """The keys of the environment, the configs, and of the commands on this machine (`token`).

    `has_users`: there are people with keys of their own.

    Raises:
        HugindError: the network could reach an engine without a key, or nobody could reach it with one.
    """
    keyring = _configured_keys(configs, environment)
    if not has_users and not environment.needs_key:
        require_key_beyond_loopback(address, keyring)
        require_key_for_each(configs, keyring)
    keyring.add(token, Principal(CONTROL_NAME, scopes=ALL_SCOPES))
    return keyring


def load_configs(options: StartOptions, environment: Environment) -> dict[str, Config]:
    """The configs that were named, by name, in order; with `autoload` every other of the home behind them.

    Raises:
        ConfigError: one cannot be used, none was named, or two have one name.
    """
    home_names = environment.home.config_names()
    is_all = options.autoload or options.is_on_demand
    names = list(dict.fromkeys([*options.configs, *(home_names if is_all else [])]))
    if not names and not options.is_on_demand:
        known = ", ".join(home_names) or "none yet; 'hugind config demo' makes one"
        raise ConfigError("no config was named", hint=f"configs: {known}; or use --autoload")
    configs: dict[str, Config] = {}
    for given in names:
        name, path = find_config(given, environment.home)
        if name in configs:
            raise ConfigError(f"two configs are called '{name}'", hint="rename one of the files")
        configs[name] = load_config(path)
    return configs


def choose_address(
    options: StartOptions, environment: Environment, settings: Settings, configs: dict[str, Config]
) -> Address:
    """Flag, else environment, else the configs' own where they agree, else settings, else 127.0.0.1:8080.

    Raises:
        ConfigError: configs that are started together name different addresses.
    """
    hosts = {config.server.host for config in configs.values()} - {None}
    ports = {config.server.port for config in configs.values()} - {None}
    host = options.host or environment.host
    port = options.port if options.port is not None else environment.port
    if (host is None and len(hosts) > 1) or (port is None and len(ports) > 1):
        named = ", ".join(f"{name} {c.server.host or ''}:{c.server.port or ''}" for name, c in configs.items())
        raise ConfigError(f"the configs name different addresses ({named})", hint="say which: --host and --port")
    if host is None:
        host = next(iter(hosts), None) or settings.host or DEFAULT_HOST
    if port is None:
        port = next(iter(ports), None)
    if port is None:
        port = settings.port
    if port is None:
        port = ON_DEMAND_PORT if options.is_on_demand else DEFAULT_PORT
    return Address(host, port)


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
        return host in LOOPBACK_NAMES


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
