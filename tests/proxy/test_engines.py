"""Engines are made where something changed."""

from __future__ import annotations

from pathlib import Path

from hugind.cli.bench.standin import write_launcher
from hugind.proxy.engines import load_engines
from hugind.proxy.served_models import find_models
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.engine import Engine
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from tests.proxy.starting import NOTHING, ON_DEMAND, environment, write_config


def test_engines_on_demand(tmp_path: Path) -> None:
    """One that cannot be made is left out; what did not change stays, also one whose config is broken by now."""
    launcher = write_launcher(tmp_path / "llama-server")
    engine = {"engine": {"binary": str(launcher)}}
    write_config(tmp_path, "a", **engine)
    write_config(tmp_path, "b", engine={"binary": str(tmp_path / "gone")})
    write_config(tmp_path, "c", **engine)
    for name in "mn":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    home, stores = Home(tmp_path), Stores(Home(tmp_path))
    home.create()

    def load(current: dict[str, Engine]) -> dict[str, Engine]:
        models = find_models(ON_DEMAND, environment(tmp_path), NOTHING)
        return load_engines(models, ON_DEMAND, home, RunFolder(tmp_path, tmp_path), stores, current)

    first = load({})
    again = load(first)
    write_config(tmp_path, "a", modell={})
    broken = load(first)
    (tmp_path / "m.gguf").write_bytes(b"GGUF of another model")
    replaced = load(first)

    assert ["a", "c"] == list(first)
    assert first == again == broken
    assert (True, False) == (replaced["a"] is first["a"], replaced["c"] is first["c"])
