"""Where a gateway listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hugind.proxy.start_options import StartOptions
from hugind.supervisor.addresses import OLLAMA_PORT, split_address
from hugind.supervisor.config import Config
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.settings import Environment, Settings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int


def choose_address(
    options: StartOptions, environment: Environment, settings: Settings, configs: Mapping[str, Config]
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
        ollama_host, ollama_port = _read_ollama_host(environment.ollama_host or "")
        ollama_port = environment.ollama_port if ollama_port is None else ollama_port
        host, port = ollama_host or host, port if ollama_port is None else ollama_port
        hosts, ports = hosts if len(hosts) == 1 else set(), ports if len(ports) == 1 else set()
        default_port = OLLAMA_PORT
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


def _read_ollama_host(text: str) -> tuple[str | None, int | None]:
    """Host and port; scheme and path of a URL have no say."""
    try:
        parts = split_address(text)
    except ValueError:
        raise ConfigError(f"OLLAMA_HOST is no address to listen on: {text!r}", hint="as 127.0.0.1:11434") from None
    return parts.host, parts.port
