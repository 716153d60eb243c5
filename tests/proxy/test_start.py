"""Where the gateway listens, which configs it serves, and what it refuses to open to the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.start import (
    Address,
    StartOptions,
    choose_address,
    load_configs,
    require_key_beyond_loopback,
    start_gateway,
)
from hugind.supervisor.config import Config
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment, Settings

EVERYWHERE = "0.0.0.0"  # noqa: S104 - to see it refused
NOTHING = Settings.model_validate({})


def options(*configs: str, host: str | None = None, port: int | None = None) -> StartOptions:
    return StartOptions(configs, host, port, None, (), Path("gateway.log"))


def environment(folder: Path, host: str | None = None, port: int | None = None) -> Environment:
    return Environment(Home(folder), None, host, port)


def config(**server: object) -> Config:
    return Config.model_validate({"model": {"model_path": "m.gguf"}, "server": server})


def write_config(folder: Path, name: str, **sections: object) -> Path:
    path = folder / "configs" / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"model": {"model_path": "m.gguf"}, **sections}))
    return path


@pytest.mark.parametrize(
    ("flag", "variable", "configured", "setting", "expected"),
    [
        ((None, None), (None, None), (None, None), (None, None), ("127.0.0.1", 8080)),
        ((None, None), (None, None), (None, None), ("h4", 4), ("h4", 4)),
        ((None, None), (None, None), ("h3", 3), ("h4", 4), ("h3", 3)),
        ((None, None), ("h2", 2), ("h3", 3), ("h4", 4), ("h2", 2)),
        (("h1", 1), ("h2", 2), ("h3", 3), ("h4", 4), ("h1", 1)),
        ((None, 0), ("h2", 2), ("h3", 3), ("h4", 4), ("h2", 0)),
        ((None, None), (None, None), ("h3", 0), (None, 4), ("h3", 0)),
        ((None, None), (None, None), (None, None), (None, 0), ("127.0.0.1", 0)),
    ],
)
def test_the_nearest_word_wins(
    tmp_path: Path,
    flag: tuple[str | None, int | None],
    variable: tuple[str | None, int | None],
    configured: tuple[str | None, int | None],
    setting: tuple[str | None, int | None],
    expected: tuple[str, int],
) -> None:
    """Flag, environment, config, settings, default; host and port each by itself."""
    address = choose_address(
        options("a", host=flag[0], port=flag[1]),
        environment(tmp_path, *variable),
        Settings.model_validate({"host": setting[0], "port": setting[1]}),
        {"a": config(host=configured[0], port=configured[1])},
    )

    assert Address(*expected) == address


def test_configs_that_disagree_need_a_word(tmp_path: Path) -> None:
    """Two ports in two configs are a question, unless a flag answers it."""
    configs = {"a": config(port=1), "b": config(port=2), "c": config()}
    with pytest.raises(ConfigError, match=r"a :1, b :2") as refused:
        choose_address(options(), environment(tmp_path), NOTHING, configs)

    assert "--port" in (refused.value.hint or "")
    assert 3 == choose_address(options(port=3), environment(tmp_path), NOTHING, configs).port


def test_configs_that_agree_are_heard(tmp_path: Path) -> None:
    """One port in several configs is that port."""
    configs = {"a": config(port=7), "b": config(port=7), "c": config()}

    assert 7 == choose_address(options(), environment(tmp_path), NOTHING, configs).port


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.5", "example.org", ""])
def test_nothing_listens_to_the_network_without_a_key(host: str) -> None:
    """Beyond loopback a key is required; the command line's own token is none."""
    ring = Keyring()
    ring.add("token", Principal("control", scopes=ALL_SCOPES))
    with pytest.raises(HugindError, match="no API key"):
        require_key_beyond_loopback(Address(host, 1), ring)

    ring.add("key", Principal("environment"))
    require_key_beyond_loopback(Address(host, 1), ring)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    """On one's own machine one may go without."""
    require_key_beyond_loopback(Address(host, 1), Keyring())


def test_starting_beyond_loopback_without_a_key_is_refused(tmp_path: Path) -> None:
    """It is refused before anything is started or bound."""
    write_config(tmp_path, "a")
    with pytest.raises(HugindError, match="no API key"):
        start_gateway(options("a", host=EVERYWHERE, port=0), environment(tmp_path))

    assert [] == list((tmp_path / "run").iterdir())


def test_an_engine_that_nobody_could_use_is_refused(tmp_path: Path) -> None:
    """A key in one config leaves those without one to nobody."""
    write_config(tmp_path, "a", server={"api_key": "ka"})
    write_config(tmp_path, "b")
    with pytest.raises(ConfigError, match="no key opens 'b'"):
        start_gateway(options("a", "b", port=0), environment(tmp_path))


def test_an_unknown_config_is_refused(tmp_path: Path) -> None:
    """The error names the config."""
    with pytest.raises(ConfigError, match="'nope'"):
        load_configs(options("nope"), environment(tmp_path))


def test_several_configs_are_loaded_in_order(tmp_path: Path) -> None:
    """By name or by file."""
    write_config(tmp_path, "b")
    elsewhere = write_config(tmp_path / "elsewhere", "a")

    assert ["b", "a"] == list(load_configs(options("b", str(elsewhere)), environment(tmp_path)))


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


def test_keys_are_not_shown() -> None:
    """Neither a config nor the environment prints its key."""
    secret = Environment(Home(Path()), SecretStr("hidden"), None, None)

    assert "hidden" not in repr(secret) + repr(config(api_key="hidden"))
