"""The nearest word about where to listen wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hugind.proxy.listening import Address, choose_address
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.settings import Settings
from tests.proxy.starting import EVERYWHERE, NOTHING, ON_DEMAND, config, environment, options


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


@pytest.mark.parametrize("text", ["h:port", "h:99999", "[h"])
def test_no_addresses(tmp_path: Path, text: str) -> None:
    """The error names the variable."""
    told = replace(environment(tmp_path), ollama_host=text)
    with pytest.raises(ConfigError, match="OLLAMA_HOST"):
        choose_address(ON_DEMAND, told, NOTHING, {})
