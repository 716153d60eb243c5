"""Where the gateway listens, which configs it serves, and what it refuses to open to the network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from hugind.cli.bench.standin import write_launcher
from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.sessions.stores import Stores
from hugind.proxy.start import (
    Address,
    StartOptions,
    check_start,
    choose_address,
    find_models,
    load_configs,
    load_engines,
    make_keyring,
    parse_listen,
    require_key_beyond_loopback,
    start_gateway,
)
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.settings import Environment, Settings
from tests.engines import DEMO_MODEL
from tools.random_gguf import make_llama_gguf

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


def test_models_of_the_library_can_be_named(tmp_path: Path) -> None:
    """By any of their names, where no config has it; the config that runs one is meant by its names, too."""
    for quant in ("Q4_K_M", "Q8_0"):
        model = tmp_path / "someone" / "tiny-GGUF" / f"tiny-{quant}.gguf"
        model.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO_MODEL, model)
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


def test_keys_are_not_shown() -> None:
    """Neither a config nor the environment prints its key."""
    secret = Environment(Home(Path()), SecretStr("hidden"), None, None)

    assert "hidden" not in repr(secret) + repr(config(api_key="hidden"))


# ---- on demand


ON_DEMAND = replace(options(), is_on_demand=True)


@pytest.mark.parametrize(
    ("flag", "ollama", "others", "configured", "expected"),
    [
        ((None, None), (None, None), (None, None), (None, None), ("127.0.0.1", 11434)),
        ((None, None), (None, None), (None, None), ("h3", 3), ("h3", 3)),
        ((None, None), (None, None), ("h2", 2), ("h3", 3), ("h2", 2)),
        ((None, None), (None, 5), ("h2", 2), ("h3", 3), ("h2", 5)),
        ((None, None), ("h1:6", 5), ("h2", 2), ("h3", 3), ("h1", 6)),
        ((None, None), ("h1", 5), ("h2", 2), ("h3", 3), ("h1", 5)),
        ((None, None), (EVERYWHERE, None), (None, None), (None, None), (EVERYWHERE, 11434)),
        (("h0", 0), ("h1:6", 5), ("h2", 2), ("h3", 3), ("h0", 0)),
    ],
)
def test_where_it_listens_on_demand(
    tmp_path: Path,
    flag: tuple[str | None, int | None],
    ollama: tuple[str | None, int | None],
    others: tuple[str | None, int | None],
    configured: tuple[str | None, int | None],
    expected: tuple[str, int],
) -> None:
    """Flag, OLLAMA_HOST, OLLAMA_LOCAL_PORT, the rest of the environment, configs, and Ollama's own port."""
    address = choose_address(
        replace(ON_DEMAND, host=flag[0], port=flag[1]),
        replace(environment(tmp_path, *others), ollama_host=ollama[0], ollama_port=ollama[1]),
        NOTHING,
        {"a": config(host=configured[0], port=configured[1])},
    )

    assert Address(*expected) == address


def test_configs_that_disagree_have_no_say_on_demand(tmp_path: Path) -> None:
    """They say where they listen when they are started alone."""
    configs = {"a": config(port=1, host="h"), "b": config(port=2, host="h")}

    assert Address("h", 11434) == choose_address(ON_DEMAND, environment(tmp_path), NOTHING, configs)


def test_ollamas_variables_are_for_on_demand(tmp_path: Path) -> None:
    """They name where clients ask, and other gateways may run beside that."""
    told = replace(environment(tmp_path), ollama_host="h1:6", ollama_port=5)

    assert Address("127.0.0.1", 8080) == choose_address(options("a"), told, NOTHING, {"a": config()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None)),
        ("h", ("h", None)),
        ("h:1", ("h", 1)),
        (":1", (None, 1)),
        ("::1", ("::1", None)),
        ("[::1]:7", ("::1", 7)),
        ("http://h:1/path", ("h", 1)),
    ],
)
def test_addresses(text: str, expected: tuple[str | None, int | None]) -> None:
    """As Ollama writes them."""
    assert expected == parse_listen(text)


@pytest.mark.parametrize("text", ["h:port", "h:99999", "[h"])
def test_no_addresses(text: str) -> None:
    """The error names the variable."""
    with pytest.raises(ConfigError, match="OLLAMA_HOST"):
        parse_listen(text)


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


def test_nothing_is_enough(tmp_path: Path) -> None:
    """A home without any model can be served: one may be pulled."""
    check_start(ON_DEMAND, environment(tmp_path))

    assert {} == find_models(ON_DEMAND, environment(tmp_path), NOTHING).configs


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


def test_engines_without_a_key_on_demand(tmp_path: Path) -> None:
    """One that nobody may use is none of those that are served to anybody: no reason not to start."""
    configs = {"a": config(api_key="ka"), "b": config()}
    keyring = make_keyring(
        configs, environment(tmp_path), Address("127.0.0.1", 1), "token", has_users=False, is_on_demand=True
    )

    assert (True, False) == (keyring.opens("a"), keyring.opens("b"))
