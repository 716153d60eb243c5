"""An engine for each model that is served."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hugind.proxy.served_models import Models
from hugind.proxy.sessions.prompts import read_system_prompt
from hugind.proxy.sessions.stores import Stores
from hugind.proxy.start_options import StartOptions
from hugind.supervisor.config import Config, missing_files
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import Settings, load_settings
from hugind.supervisor.watch import files_of

logger = logging.getLogger(__name__)


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
    _check_system_prompt(name, config, home)
    if current:  # in a gateway that serves, a good engine is not given up for one that cannot start
        _refuse_missing_files(name, config, home)
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


def _check_system_prompt(name: str, config: Config, home: Home) -> None:
    """A system prompt that was asked for is never left out silently. Blocks.

    Raises:
        ConfigError: its file cannot be read.
    """
    try:
        read_system_prompt(config, home)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {error}", key="chat.system_prompt_file") from None


def _refuse_missing_files(name: str, config: Config, home: Home) -> None:
    """A config's files must be there.

    Raises:
        ConfigError: one is not.
    """
    for key, file in missing_files(config, home):
        raise ConfigError(f"{name}: there is no file {file}", key=key, hint="put it there, or correct the path")
