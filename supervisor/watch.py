"""Files at a glance: has anything changed that decides which engines there should be, or what one of them is?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hugind.supervisor.config import Config
from hugind.supervisor.models.library import is_taken, parts_of_file
from hugind.supervisor.paths import Home

Stock = frozenset[tuple[str, int, int]]
"""Files: name, size in bytes, time of the last change in nanoseconds."""


def take_stock(home: Home) -> Stock:
    """The configs, the settings and the models of the library. Blocks on the disk; opens no file."""
    return frozenset(_look([home.settings, *_glob(home.configs, "*.yml"), *_models(home)]))


def files_of(config: Config, home: Home) -> Stock:
    """The files that an engine with this config reads. Blocks as `take_stock`."""
    model = config.model
    named = [model.mmproj_path, model.draft_path, *model.lora_paths, config.chat.template_file]
    paths = [config.path_of(one, home) for one in named if one]
    return frozenset(_look([*parts_of_file(config.path_of(model.model_path, home)), *paths]))


def _models(home: Home) -> Iterator[Path]:
    for user in _glob(home.root, "[!.]*"):
        if not is_taken(user.name) and user.is_dir():
            yield from _glob(user, "[!.]*/*.gguf")


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:  # a folder went while it was read
        return []


def _look(paths: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # it went between the two questions, or was never there
            continue
        yield str(path), status.st_size, status.st_mtime_ns
