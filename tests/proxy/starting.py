"""What a gateway is told at its start, made short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from hugind.proxy.start_options import StartOptions
from hugind.supervisor.config import Config
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment, Settings

EVERYWHERE = "0.0.0.0"  # noqa: S104 - to see it refused
NOTHING = Settings.model_validate({})


def options(*configs: str, host: str | None = None, port: int | None = None) -> StartOptions:
    return StartOptions(configs, host, port, None, (), Path("gateway.log"))


ON_DEMAND = replace(options(), is_on_demand=True)


def environment(folder: Path, host: str | None = None, port: int | None = None) -> Environment:
    return Environment(Home(folder), None, host, port)


def config(**server: object) -> Config:
    return Config.model_validate({"model": {"model_path": "m.gguf"}, "server": server})


def write_config(folder: Path, name: str, **sections: object) -> Path:
    path = folder / "configs" / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"model": {"model_path": "m.gguf"}, **sections}))
    return path
