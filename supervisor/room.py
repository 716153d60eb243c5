"""Room for models: how many may be loaded and for how long, what the machine has, what an engine will take of it."""

from __future__ import annotations

import math

from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.hardware import Hardware, free_memory
from hugind.supervisor.keep_alive import FOREVER, parse_environment
from hugind.supervisor.llama.devices import has_gpu
from hugind.supervisor.models.library import described, extra_bytes
from hugind.supervisor.models.sizing import Footprint, footprint_of
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules, Group
from hugind.supervisor.settings import Environment, FleetSettings

GB = 1_000_000_000
SHARE = 0.9
"""Of the memory that was free at the start: the rest is for sessions, for us, and for what the estimate overlooks."""
ON_DEMAND_KEEP_ALIVE_S = 300.0
"""As Ollama has it."""


def fleet_rules(
    settings: FleetSettings,
    environment: Environment,
    hardware: Hardware,
    *,
    is_on_demand: bool,
    max_resident: int | None = None,
    model_ttl_s: float | None = None,
) -> FleetRules:
    """What a flag says (`max_resident`, `model_ttl_s`: negative for ever), else the environment, else the settings.

    Raises:
        ConfigError: OLLAMA_KEEP_ALIVE is no duration.
    """
    if max_resident is None:
        max_resident = settings.max_resident_models if environment.max_loaded is None else environment.max_loaded
    gpu_bytes = sum(gpu.free_bytes for gpu in hardware.gpus)
    return FleetRules(
        max_resident=max_resident,
        keep_alive_s=_keep_alive_s(settings, environment, model_ttl_s, is_on_demand=is_on_demand),
        is_on_demand=is_on_demand,
        preload=settings.preload,
        pinned=frozenset(settings.pinned),
        groups=tuple(
            Group(name, frozenset(group.members), group.at_most, group.alone) for name, group in settings.groups.items()
        ),
        ram_bytes=_budget(settings.memory_gb, hardware.ram_available_bytes),
        vram_bytes=_budget(settings.vram_gb, gpu_bytes) if hardware.gpus else None,
    )


class Gauge:
    """What engines take, and what is free. Lives as long as the gateway."""

    def __init__(self, home: Home, hardware: Hardware) -> None:
        self._home = home
        self._hardware = hardware

    def measure(self, engine: Engine) -> Footprint:
        """What an engine will take, by estimate. Blocks on the disk; what was read of a file is remembered.

        Raises:
            GgufError, OSError: the model's file cannot be read.
        """
        config = engine.config
        model = described(config.path_of(config.model.model_path, self._home))
        gpu = bool(self._hardware.gpus) and has_gpu(engine.binary)
        return footprint_of(model.header, config, gpu=gpu, extra_bytes=extra_bytes(config, self._home))

    def free(self) -> Footprint:
        """What the machine has free now. Blocks for some milliseconds."""
        return Footprint(*free_memory())


def _keep_alive_s(
    settings: FleetSettings, environment: Environment, flag_s: float | None, *, is_on_demand: bool
) -> float:
    if flag_s is None and environment.keep_alive is not None:
        try:
            return parse_environment(environment.keep_alive)
        except ValueError as error:
            raise ConfigError(f"OLLAMA_KEEP_ALIVE: {error}") from None
    said = settings.model_ttl_s if flag_s is None else flag_s
    if said is None:
        return ON_DEMAND_KEEP_ALIVE_S if is_on_demand else math.inf
    return FOREVER if said < 0 else said


def _budget(said_gb: float | None, free_bytes: int) -> int:
    return int(free_bytes * SHARE) if said_gb is None else int(said_gb * GB)
