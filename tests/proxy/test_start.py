"""What cannot be started is refused before anything is bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.proxy.served_models import find_models
from hugind.proxy.start import check_start, start_gateway
from hugind.supervisor.errors import ConfigError, HugindError
from tests.proxy.starting import EVERYWHERE, NOTHING, ON_DEMAND, environment, options, write_config


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


def test_nothing_is_enough(tmp_path: Path) -> None:
    """A home without any model can be served: one may be pulled."""
    check_start(ON_DEMAND, environment(tmp_path))

    assert {} == find_models(ON_DEMAND, environment(tmp_path), NOTHING).configs
