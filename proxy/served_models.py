"""Which models a gateway serves: the configs that were named, or everything of the home."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hugind.proxy.start_options import StartOptions
from hugind.supervisor.config import Config, find_config, load_config
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.served import serve_library
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment, Settings, load_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What is to be served: configs, and models of the library that have none."""

    configs: dict[str, Config]
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    """Configs that cannot be used, and why, where the others are served all the same."""


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
