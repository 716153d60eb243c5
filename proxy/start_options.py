"""What `hugind serve` and `hugind server start` tell the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StartOptions:
    """What a gateway was told at its start. None: not told."""

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
