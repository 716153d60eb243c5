"""The demo: a model small enough to ship, and a config for it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from hugind.supervisor.paths import Home


def install_demo(home: Home) -> list[Path]:
    """Copy the demo model and its config into the home. Returns what was made; what is there already stays."""
    home.create()
    shipped = files("hugind.configs") / "demo"
    wanted = {home.root / "hugind" / "demo" / "demo.gguf": "demo.gguf", home.config("demo"): "demo.yml"}
    made = []
    for path, name in wanted.items():
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes((shipped / name).read_bytes())
        temporary.replace(path)
        made.append(path)
    return made
