"""Which engine a request means, and which engines exist for whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from tests.proxy.serving import make_gateway, standin_config, stores_of

EVERYBODY = Principal("everybody")
ONLY_A = Principal("a", frozenset({"a"}))


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """Two engines, `a` and `b`, that do not run."""
    home, binary = Home(tmp_path), EngineBinary(("false",), "native", "", "", frozenset())
    folder, config = RunFolder(tmp_path, tmp_path), standin_config(tmp_path)
    engines = {name: Engine(name, config, binary, home, folder) for name in "ab"}
    return make_gateway(engines, Keyring(), stores_of(home, dict.fromkeys("ab", config)), home)


def test_a_name_means_that_engine(gateway: Gateway) -> None:
    """The request's `model` is the config's name."""
    assert "b" == gateway.engine_for("b", EVERYBODY).name


def test_no_name_means_the_only_engine(gateway: Gateway) -> None:
    """Who can see just one engine need not name it."""
    assert "a" == gateway.engine_for(None, ONLY_A).name


@pytest.mark.parametrize("model", [None, "", 5, ["a"], {"a": 1}])
def test_a_name_that_is_none_is_refused(gateway: Gateway, model: object) -> None:
    """400, with the names there are."""
    with pytest.raises(ApiError, match="a, b") as refused:
        gateway.engine_for(model, EVERYBODY)

    assert (400, "model") == (refused.value.status, refused.value.param)


def test_an_engine_of_others_is_as_unknown_as_none(gateway: Gateway) -> None:
    """The answer to a forbidden name does not tell that it exists."""
    messages = []
    for name in ("b", "c"):
        with pytest.raises(ApiError) as refused:
            gateway.engine_for(name, ONLY_A)
        messages.append(refused.value.message.replace(f"'{name}'", "X"))

        assert (404, "model_not_found") == (refused.value.status, refused.value.code)
    assert messages[0] == messages[1]
    assert ["a"] == [engine.name for engine in gateway.visible_engines(ONLY_A)]
