"""The demo."""

from __future__ import annotations

from pathlib import Path

from hugind.cli.demo import install_demo
from hugind.supervisor.config import load_config, missing_files
from hugind.supervisor.paths import Home


def test_demo_is_complete_and_never_overwrites(tmp_path: Path) -> None:
    """The demo's config is valid and finds its model; a second run changes nothing that is there."""
    home = Home(tmp_path / "home")
    first = install_demo(home)
    config = home.config("demo")
    config.write_text(config.read_text() + "# mine\n")
    second = install_demo(home)

    assert first == [home.root / "hugind" / "demo" / "demo.gguf", config]
    assert second == []
    assert config.read_text().endswith("# mine\n")
    assert not missing_files(load_config(config), home)
