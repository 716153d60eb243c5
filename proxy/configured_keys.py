"""The keys that the environment and the configs give, and what is not started without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import ALL_SCOPES, CONTROL_NAME, ENVIRONMENT_NAME, Principal
from hugind.proxy.listening import Address
from hugind.supervisor.addresses import is_loopback
from hugind.supervisor.config import Config
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.settings import Environment


def make_keyring(
    configs: Mapping[str, Config],
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
            _require_key_for_each(configs, keyring)
    keyring.add(token, Principal(CONTROL_NAME, scopes=ALL_SCOPES))
    return keyring


def _configured_keys(configs: Mapping[str, Config], environment: Environment) -> Keyring:
    keyring = Keyring()
    if environment.api_key:
        keyring.add(environment.api_key.get_secret_value(), Principal(ENVIRONMENT_NAME))
    for name, config in configs.items():
        if config.server.api_key:
            # With a colon, as no config has it: one called "environment" must not have that key's sessions.
            keyring.add(config.server.api_key.get_secret_value(), Principal(f"config:{name}", frozenset({name})))
    return keyring


def require_key_beyond_loopback(address: Address, keyring: Keyring) -> None:
    """Nothing listens to the network without a key.

    Raises:
        HugindError: it would.
    """
    if keyring.is_open and not is_loopback(address.host):
        raise HugindError(
            f"{address.host} can be reached from the network, and no API key is configured",
            hint="hugind user create NAME, or set LLAMA_API_KEY or server.api_key, or listen on 127.0.0.1",
        )


def _require_key_for_each(configs: Iterable[str], keyring: Keyring) -> None:
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
