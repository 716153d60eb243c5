"""Aliases of a gateway, whatever happens to their file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hugind.proxy.served_aliases import ServedAliases
from hugind.supervisor.aliases import Alias, Aliases
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home


def test_a_spoiled_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What there was goes on, the log says once what is wrong, and nothing is written over it."""
    home = Home(tmp_path)
    aliases = ServedAliases(home)
    Aliases(home).put("mario", Alias(model="demo"))
    before = aliases.all()
    home.aliases.write_text("{")
    with caplog.at_level(logging.ERROR):
        during = [aliases.all(), aliases.all()]
    with pytest.raises(ConfigError):
        aliases.put("luigi", Alias(model="demo"))
    home.aliases.write_text('{"luigi": {"model": "demo"}}')

    assert ["mario"] == list(before)
    assert [before, before] == during
    assert 1 == len(caplog.records)
    assert "aliases.json:1" in caplog.text
    assert ["luigi"] == list(aliases.all())
