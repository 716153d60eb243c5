"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.homes import remove_slot_folders

pytest_plugins = ["tests.databases"]

# The machine is shared: how long an example takes says nothing about the code.
settings.register_profile("hugind", deadline=None)
settings.load_profile("hugind")


# Started in the background of a shell, everything below would ignore Ctrl-C, and what is tested with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_in_memory() -> Iterator[None]:
    yield
    remove_slot_folders()
