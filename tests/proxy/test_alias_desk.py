"""Aliases of what is served, within what the caller may see."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.alias_desk import base_alias, drop_alias, find_alias, put_alias
from hugind.proxy.errors import ApiError
from hugind.supervisor.aliases import Alias
from tests.proxy.houses import add_model, keeping_house

ALL = Principal("tester", scopes=ALL_SCOPES)
RESTRICTED = Principal("other", engines=frozenset({"other"}))


def refusal(status: int) -> AbstractContextManager[pytest.ExceptionInfo[ApiError]]:
    """What a block must be refused with."""
    return pytest.raises(ApiError, check=lambda error: error.status == status)


async def test_what_an_alias_begins_with(tmp_path: Path) -> None:
    """A model, by any of its names; of an alias, what that one says."""
    async with keeping_house(tmp_path) as house:
        house.gateway.aliases.put("mario", Alias(model="tiny", system="hi"))

        assert Alias(model="tiny") == base_alias(house.gateway, ALL, "maker/tiny-GGUF")
        assert "hi" == base_alias(house.gateway, ALL, "Mario:latest").system
        with refusal(404):
            base_alias(house.gateway, RESTRICTED, "mario")


async def test_the_file_with_so_many_bits(tmp_path: Path) -> None:
    """It lies beside the model, and must be served and visible."""
    async with keeping_house(tmp_path) as house:
        with refusal(404) as refused:
            base_alias(house.gateway, ALL, "tiny", "8bit")
        add_model(house.home, "maker/tiny-GGUF/tiny-Q8_0.gguf", seed=1)
        with refusal(404):
            base_alias(house.gateway, ALL, "tiny", "8bit")
        await house.reloader.reload()
        alias = base_alias(house.gateway, ALL, "tiny", "8bit")

        assert "hugind pull maker/tiny-GGUF:Q8_0" in str(refused.value)
        assert ("tiny-Q8_0", "8bit") == (alias.model, alias.quantization)
        with refusal(404):
            base_alias(house.gateway, Principal("x", engines=frozenset({"tiny"})), "tiny", "8bit")


async def test_names_that_are_taken(tmp_path: Path) -> None:
    """A model of this name would be found first, served or not; somebody else's alias is not overwritten."""
    async with keeping_house(tmp_path) as house:
        house.home.config("later").write_text("")
        add_model(house.home, "maker/new-GGUF/new.gguf", seed=1)
        put_alias(house.gateway, ALL, "mario", Alias(model="tiny"))
        for name in ("tiny", "TINY:latest", "maker/tiny-GGUF", "later", "new"):
            with refusal(409):
                put_alias(house.gateway, ALL, name, Alias(model="tiny"))
        with refusal(409):
            put_alias(house.gateway, RESTRICTED, "mario", Alias(model="other"))
        with refusal(400):
            put_alias(house.gateway, ALL, "../x", Alias(model="tiny"))

        assert ["mario"] == list(house.gateway.aliases.all())


async def test_put_find_drop(tmp_path: Path) -> None:
    """Names are the same whatever their case, and with `:latest` or without."""
    async with keeping_house(tmp_path) as house:
        first = put_alias(house.gateway, ALL, "Mario:latest", Alias(model="tiny"))
        again = put_alias(house.gateway, ALL, "mario", Alias(model="tiny", system="hi"))

        assert ("Mario", "Mario") == (first, again)
        assert "Mario" == find_alias(house.gateway, ALL, "MARIO")
        assert find_alias(house.gateway, RESTRICTED, "mario") is None
        drop_alias(house.gateway, "Mario")
        with refusal(404):
            drop_alias(house.gateway, "Mario")


async def test_a_spoiled_file(tmp_path: Path) -> None:
    """The log says what is wrong with it; who asks is told where to look."""
    async with keeping_house(tmp_path) as house:
        house.home.aliases.write_text("{")
        with refusal(500):
            put_alias(house.gateway, ALL, "mario", Alias(model="tiny"))
        with refusal(500):
            drop_alias(house.gateway, "mario")
