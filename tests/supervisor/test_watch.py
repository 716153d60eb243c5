"""What lies in a home, at a glance."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hugind.supervisor.config import Config
from hugind.supervisor.paths import Home
from hugind.supervisor.watch import files_of, take_stock


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With a config, settings and a model."""
    home = Home(tmp_path)
    home.create()
    for path in (home.config("a"), home.settings, tmp_path / "user" / "repo" / "m.gguf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    return home


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (lambda home: home.config("b").write_text(""), True),
        (lambda home: home.config("a").unlink(), True),
        (lambda home: home.config("a").write_text("longer than before"), True),
        (lambda home: os.utime(home.settings, (1, 1)), True),
        (lambda home: (home.root / "user" / "repo" / "n.gguf").write_text(""), True),
        (lambda home: (home.root / "user" / "repo" / "m.gguf").rename(home.root / "user" / "repo" / "n.gguf"), True),
        (lambda home: (home.root / "user" / "repo" / "README.md").write_text(""), False),
        (lambda home: (home.slots / "m.gguf").write_text(""), False),
        (lambda home: home.aliases.write_text("{}"), False),
        (lambda home: None, False),
    ],
)  # fmt: skip
def test_what_counts(home: Home, change: Callable[[Home], object], is_seen: bool) -> None:
    """What decides which engines there should be, and nothing else."""
    before = take_stock(home)
    change(home)

    assert is_seen == (before != take_stock(home))


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    """Has nothing in it."""
    assert frozenset() == take_stock(Home(tmp_path / "nowhere"))


def test_the_files_of_an_engine(home: Home) -> None:
    """All parts of its model and what is loaded beside it, as far as they are there."""
    repo = home.root / "user" / "repo"
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "eyes.gguf"):
        (repo / name).write_text(name)
    config = Config.model_validate(
        {
            "model": {
                "model_path": "user/repo/m-00001-of-00002.gguf",
                "mmproj_path": "user/repo/eyes.gguf",
                "lora_paths": ["user/repo/gone.gguf"],
            }
        }
    )
    before = files_of(config, home)
    (repo / "m-00002-of-00002.gguf").write_text("another")

    assert {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "eyes.gguf"} == {Path(name).name for name, _, _ in before}
    assert before != files_of(config, home)


def test_folders_that_go_while_they_are_read(home: Home) -> None:
    """Somebody removes models meanwhile: what is seen then is some of it, and no error."""
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            for number in range(20):
                (home.root / "busy" / f"r{number}").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(home.root / "busy", ignore_errors=True)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        seen = [take_stock(home) for _ in range(1500)]
    finally:
        is_over.set()
        other.join()

    assert take_stock(home) in seen
