"""Homes that tests used: what their gateways keep in memory for the next start is removed in the end."""

from __future__ import annotations

import shutil
from pathlib import Path

from hugind.supervisor.paths import Home
from hugind.supervisor.slot_folder import choose_slot_folder

_used: set[Path] = set()


def note_home(home: Home) -> None:
    """A gateway runs in this home."""
    _used.add(home.root)


def remove_slot_folders() -> None:
    """Remove the slot folders of all homes that were noted."""
    for root in _used:
        folder = choose_slot_folder(Home(root), "any", None)
        if folder.is_memory:
            shutil.rmtree(folder.path.parent)
    _used.clear()
