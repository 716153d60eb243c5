"""Where things are, and that what is private is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hugind.supervisor.paths import Home, write_private


def test_create(tmp_path: Path) -> None:
    """The folders of a home are for this user alone, also where they were open before."""
    home = Home(tmp_path / "a" / "home")
    home.logs.mkdir(parents=True, mode=0o755)
    home.create()
    home.create()

    private = (home.logs, home.run, home.slots)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in private] == [0o700] * 3


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Asking for a path touches nothing."""
    home = Home(tmp_path / "home")
    paths = [home.configs, home.settings, home.logs, home.run, home.slots, home.config("a"), home.worker_log("a", 0)]

    assert all(path.is_relative_to(home.root) for path in paths)
    assert home.config_names() == []
    assert not home.root.exists()


@pytest.mark.parametrize("name", ["a", "Qwen3-8B.Q4_K_M", "0", "x" * 64])
def test_config_name(tmp_path: Path, name: str) -> None:
    """A plain word names a config."""
    assert Home(tmp_path).config(name) == tmp_path / "configs" / f"{name}.yml"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-flag", "a b", "x" * 65, "a\n", "ä"])
def test_no_config_name(tmp_path: Path, name: str) -> None:
    """A name that could leave the folder, or would do as no model id, is refused."""
    with pytest.raises(ValueError, match="is not a config name"):
        Home(tmp_path).config(name)


def test_config_names(tmp_path: Path) -> None:
    """The configs of a home, sorted; other files are none."""
    home = Home(tmp_path)
    home.create()
    for name in ("b.yml", "a.yml", "c.txt", ".d.yml", "e f.yml"):
        (home.configs / name).touch()

    assert home.config_names() == ["a", "b"]


def test_write_private(tmp_path: Path) -> None:
    """A private file has mode 0600, replaces what was there, and leaves no other behind."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new ä")

    assert path.read_text(encoding="utf-8") == "new ä"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_write_that_fails(tmp_path: Path) -> None:
    """A write that fails leaves what was there, and nothing beside it."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
