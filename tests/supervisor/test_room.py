"""How much may be loaded, and for how long: who says so, and what a machine and a model say of themselves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.hardware import Gpu, Hardware
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules, Group
from hugind.supervisor.room import Gauge, fleet_rules
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import Environment, FleetSettings
from tools.random_gguf import make_llama_gguf

PLAIN = Hardware("cpu", 10_000, 1_000, 4, ())
GPUS = Hardware("cuda", 10_000, 1_000, 4, (Gpu("one", 900, 500), Gpu("two", 900, 300)))


def environment(keep_alive: str | None = None, max_loaded: int | None = None) -> Environment:
    return Environment(Home(Path()), None, None, None, keep_alive=keep_alive, max_loaded=max_loaded)


@pytest.mark.parametrize(
    ("flag", "variable", "setting", "expected"),
    [(None, None, 0, 0), (None, None, 3, 3), (None, 2, 3, 2), (0, 2, 3, 0), (1, None, 3, 1)],
)
def test_how_many(flag: int | None, variable: int | None, setting: int, expected: int) -> None:
    """The flag, else the environment, else the settings; 0 is as many as fit."""
    settings = FleetSettings(max_resident_models=setting)
    rules = fleet_rules(settings, environment(max_loaded=variable), PLAIN, is_on_demand=True, max_resident=flag)

    assert expected == rules.max_resident


@pytest.mark.parametrize(
    ("flag", "variable", "setting", "is_on_demand", "expected"),
    [
        (None, None, None, True, 300),
        (None, None, None, False, math.inf),
        (None, None, 60, False, 60),
        (None, None, -1, True, math.inf),
        (None, "15m", 60, True, 900),
        (None, "30", 60, True, 30),
        (None, "-1", 60, True, math.inf),
        (5, "15m", 60, True, 5),
        (-1, "15m", 60, True, math.inf),
        (0, None, None, True, 0),
    ],
)
def test_how_long(
    flag: float | None, variable: str | None, setting: float | None, is_on_demand: bool, expected: float
) -> None:
    """In the same order; where nobody says anything, five minutes on demand, and else for ever."""
    rules = fleet_rules(
        FleetSettings(model_ttl_s=setting),
        environment(keep_alive=variable),
        PLAIN,
        is_on_demand=is_on_demand,
        model_ttl_s=flag,
    )

    assert (expected, is_on_demand) == (rules.keep_alive_s, rules.is_on_demand)


def test_a_duration_that_is_none() -> None:
    """It is told by the name of the variable."""
    with pytest.raises(ConfigError, match="OLLAMA_KEEP_ALIVE"):
        fleet_rules(FleetSettings(), environment(keep_alive="soon"), PLAIN, is_on_demand=True)


def test_how_much_memory() -> None:
    """Nine tenths of what is free, where the settings say nothing; without GPUs there is no budget for them."""
    told = FleetSettings(memory_gb=2, vram_gb=0.5)
    rules = [fleet_rules(said, environment(), machine, is_on_demand=True) for said, machine in (
        (FleetSettings(), PLAIN), (FleetSettings(), GPUS), (told, GPUS), (told, PLAIN),
    )]  # fmt: skip

    assert [(900, None), (900, 720), (2 * 10**9, 5 * 10**8), (2 * 10**9, None)] == [
        (rule.ram_bytes, rule.vram_bytes) for rule in rules
    ]


def test_the_rest_is_as_the_settings_say() -> None:
    """Groups, and who comes first and stays."""
    settings = FleetSettings.model_validate(
        {"preload": ["a"], "pinned": ["b"], "groups": {"big": {"members": ["a", "b"], "at_most": 2, "alone": True}}}
    )
    rules = fleet_rules(settings, environment(), PLAIN, is_on_demand=False)

    assert (("a",), frozenset("b")) == (rules.preload, rules.pinned)
    assert (Group("big", frozenset("ab"), 2, is_alone=True),) == rules.groups
    assert FleetRules(ram_bytes=900) == fleet_rules(FleetSettings(), environment(), PLAIN, is_on_demand=False)


@pytest.mark.parametrize(
    ("machine", "kind", "is_on_gpu"), [(PLAIN, True, False), (GPUS, False, False), (GPUS, True, True)]
)
def test_what_an_engine_takes(tmp_path: Path, machine: Hardware, kind: bool, is_on_gpu: bool) -> None:
    """Of GPUs only where there are some, and its llama-server computes on them."""
    home, model = Home(tmp_path), make_llama_gguf(tmp_path / "m.gguf")
    config = Config.model_validate({"model": {"model_path": str(model)}, "device": {"gpu_layers": "all"}})
    launcher = tmp_path / "llama-server"
    launcher.write_text("#!/bin/sh\necho '  CUDA0: H100 (81079 MiB)'\n")
    launcher.chmod(0o700)
    flags = frozenset({"--list-devices"})
    binary = EngineBinary((str(launcher),), "native" if kind else "embedded", "", "", flags)
    gauge = Gauge(home, machine)
    footprint = gauge.measure(Engine("m", config, binary, home, RunFolder(tmp_path, tmp_path)))

    assert footprint.ram_bytes > 0
    assert is_on_gpu == (footprint.vram_bytes > model.stat().st_size)
    assert gauge.free().ram_bytes > 0
