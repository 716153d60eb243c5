"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.homes import remove_slot_folders

# The machine is shared: how long an example takes says nothing about the code.
settings.register_profile("hugind", deadline=None)
settings.load_profile("hugind")


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_in_memory() -> Iterator[None]:
    yield
    remove_slot_folders()
