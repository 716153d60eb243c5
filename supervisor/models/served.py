"""Models of the library as engines: a config for each that has none."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hugind.supervisor.config import Config
from hugind.supervisor.models.capabilities import task_of
from hugind.supervisor.models.gguf import GgufError
from hugind.supervisor.models.library import Library, LibraryModel, described
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import LibrarySettings

logger = logging.getLogger(__name__)

MIN_CONTEXT = 64
"""As `context.ctx_size` allows."""


@dataclass
class Served:
    """What the library adds to the configs."""

    configs: dict[str, Config] = field(default_factory=dict)
    """By name, which is no config's of the home."""
    other_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What people may call an engine besides: also of the home's own configs, where they run a model of the library."""


def serve_library(
    home: Home, settings: LibrarySettings, configs: Mapping[str, Config], taken: Collection[str] = ()
) -> Served:
    """A config for each model of the library that no config runs. Blocks on the disk.

    `configs`: those of the home; they beat a model of the same name. `taken`: further names that none may have.
    A file that cannot be read is left out, and the log tells.
    """
    served = Served()
    known = {config.path_of(config.model.model_path, home).resolve(): name for name, config in configs.items()}
    for model in Library(home).models():
        owner = known.get(model.path.resolve())
        if owner is not None:
            served.other_names[owner] = model.other_names
        elif model.name in configs or model.name in taken:
            logger.info("%s: a config is called so: %s is served by none", model.name, model.path)
        elif (config := _config_for(model, settings)) is not None:
            served.configs[model.name] = config
            served.other_names[model.name] = model.other_names
    return served


def _config_for(model: LibraryModel, settings: LibrarySettings) -> Config | None:
    try:
        header = described(model.path).header
    except (GgufError, OSError) as error:
        logger.warning("%s is left out: %s", model.name, error)
        return None
    trained = header.context_length or settings.ctx_size
    return Config.model_validate(
        {
            "model": {
                "model_path": str(model.path),
                "mmproj_path": str(model.mmproj) if model.mmproj else None,
                "task": task_of(header),
            },
            "context": {"ctx_size": max(min(settings.ctx_size, trained), MIN_CONTEXT)},
            "server": {"max_slots": settings.max_slots},
        }
    )
