"""Configs that are named, and everything there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.proxy.served_models import find_models, load_configs
from hugind.supervisor.errors import ConfigError
from tests.model_files import add_two_quants
from tests.proxy.starting import NOTHING, ON_DEMAND, environment, options, write_config
from tools.random_gguf import make_llama_gguf


def test_an_unknown_config_is_refused(tmp_path: Path) -> None:
    """The error names the config."""
    with pytest.raises(ConfigError, match="'nope'"):
        load_configs(options("nope"), environment(tmp_path))


def test_several_configs_are_loaded_in_order(tmp_path: Path) -> None:
    """By name or by file."""
    write_config(tmp_path, "b")
    elsewhere = write_config(tmp_path / "elsewhere", "a")

    assert ["b", "a"] == list(load_configs(options("b", str(elsewhere)), environment(tmp_path)))


def test_models_of_the_library_can_be_named(tmp_path: Path) -> None:
    """By any of their names, where no config has it; the config that runs one is meant by its names, too."""
    add_two_quants(tmp_path)
    write_config(tmp_path, "mine", model={"model_path": str(tmp_path / "someone/tiny-GGUF/tiny-Q4_K_M.gguf")})
    (tmp_path / "configs" / "odd.yml").write_text("modle: x")

    for given, name in (("Mine.gguf", "mine"), ("someone/tiny-GGUF", "mine"), ("tiny-q8_0.gguf", "tiny-Q8_0")):
        assert [name] == list(load_configs(options(given), environment(tmp_path)))
    with pytest.raises(ConfigError, match="there is no config 'someone/else'"):
        load_configs(options("someone/else"), environment(tmp_path))


def test_two_configs_of_one_name_are_refused(tmp_path: Path) -> None:
    """A name is a model id: it can mean only one thing."""
    write_config(tmp_path, "a")
    elsewhere = write_config(tmp_path / "elsewhere", "a")
    with pytest.raises(ConfigError, match="two configs are called 'a'"):
        load_configs(options("a", str(elsewhere)), environment(tmp_path))


def test_no_config_is_refused_with_what_there_is(tmp_path: Path) -> None:
    """The hint names the configs that could be meant."""
    write_config(tmp_path, "one")
    with pytest.raises(ConfigError) as refused:
        load_configs(options(), environment(tmp_path))

    assert "one" in (refused.value.hint or "")


def test_everything_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every config of the home and every model of its library; what cannot be used is left out, and told."""
    write_config(tmp_path, "a")
    write_config(tmp_path, "broken", modell={})
    repo = tmp_path / "user" / "repo"
    repo.mkdir(parents=True)
    for name in ("tiny", "broken", "a"):
        make_llama_gguf(repo / f"{name}.gguf", ctx=512)
    models = find_models(ON_DEMAND, environment(tmp_path), NOTHING)

    assert ["a", "tiny"] == list(models.configs)
    assert "m.gguf" == models.configs["a"].model.model_path
    assert ["broken"] == list(models.broken)
    assert "broken is left out" in caplog.text
