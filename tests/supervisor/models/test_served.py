"""Models of the library that are served without a config of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.supervisor.config import Config
from hugind.supervisor.models.served import serve_library
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import LibrarySettings
from tools.random_gguf import make_llama_gguf

SETTINGS = LibrarySettings(ctx_size=1000, max_slots=3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With one model of its own, which was trained for 512 tokens."""
    repo = tmp_path / "user" / "repo"
    repo.mkdir(parents=True)
    make_llama_gguf(repo / "tiny-Q4_K_M.gguf", ctx=512)
    return Home(tmp_path)


def test_a_config_for_each(home: Home) -> None:
    """As the settings of the library say; with no more context than the model was made for."""
    make_llama_gguf(home.root / "user" / "repo" / "large.gguf", ctx=4096)
    served = serve_library(home, SETTINGS, {})
    tiny, large = served.configs["tiny-Q4_K_M"], served.configs["large"]

    assert str(home.root / "user" / "repo" / "tiny-Q4_K_M.gguf") == tiny.model.model_path
    assert (512, 1000) == (tiny.context.ctx_size, large.context.ctx_size)
    assert ("chat", 3, None) == (tiny.model.task, tiny.server.max_slots, tiny.model.mmproj_path)
    assert "hf.co/user/repo:Q4_K_M" in served.other_names["tiny-Q4_K_M"]


def test_a_projector_belongs_to_it(home: Home) -> None:
    """What makes it see is loaded with it."""
    (home.root / "user" / "repo" / "mmproj-model-f16.gguf").write_bytes(b"GGUF")
    served = serve_library(home, SETTINGS, {})

    assert ["tiny-Q4_K_M"] == list(served.configs)
    assert str(served.configs["tiny-Q4_K_M"].model.mmproj_path).endswith("mmproj-model-f16.gguf")


def test_a_config_beats_the_library(home: Home) -> None:
    """The one that runs its file has its names, too; one of its name has its own."""
    runs = Config.model_validate({"model": {"model_path": "user/repo/tiny-Q4_K_M.gguf"}})
    other = Config.model_validate({"model": {"model_path": "elsewhere.gguf"}})
    by_file = serve_library(home, SETTINGS, {"mine": runs})
    by_name = serve_library(home, SETTINGS, {"tiny-Q4_K_M": other})
    broken = serve_library(home, SETTINGS, {}, {"tiny-Q4_K_M"})

    assert ({}, ["mine"]) == (by_file.configs, list(by_file.other_names))
    assert "user/repo" in by_file.other_names["mine"]
    assert ({}, {}) == (by_name.configs, by_name.other_names) == (broken.configs, broken.other_names)


def test_what_cannot_be_read_is_left_out(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """And told."""
    (home.root / "user" / "repo" / "bad.gguf").write_bytes(b"no model")
    served = serve_library(home, SETTINGS, {})

    assert ["tiny-Q4_K_M"] == list(served.configs)
    assert "bad is left out" in caplog.text


def test_an_empty_library(tmp_path: Path) -> None:
    """Adds nothing."""
    assert {} == serve_library(Home(tmp_path), SETTINGS, {}).configs
