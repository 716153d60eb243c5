"""The models of a home, without a server: configs, models of the library, aliases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from hugind.supervisor.aliases import Aliases
from hugind.supervisor.config import load_config
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.library import Library, LibraryModel, parts_of_file
from hugind.supervisor.paths import Home

Kind = Literal["config", "library", "alias"]

_ORDER: tuple[Kind, ...] = ("config", "library", "alias")
"""Whose name counts, where two have one."""


@dataclass(frozen=True)
class Entry:
    """Something that a request's `model` can name, once it is served."""

    name: str
    kind: Kind
    of: str | None
    """The model file of a config or a library's model; what an alias is of. None: the config cannot be read."""
    size_bytes: int | None
    """None: not known, as its file is not there."""
    modified_at: datetime | None
    problem: str | None = None
    """Why it cannot be served."""
    other_names: tuple[str, ...] = ()


def entries(home: Home) -> list[Entry]:
    """All of them, by name. Blocks on the disk, for small files and folders.

    A model of the library that a config names as its own is that config.

    Raises:
        ConfigError: aliases.json was spoiled by hand.
    """
    configs = {name: _of_config(name, home) for name in home.config_names()}
    owners = {Path(entry.of).resolve(): name for name, entry in configs.items() if entry.of is not None}
    engines = dict(configs)
    for model in Library(home).models():
        if (owner := owners.get(model.path.resolve())) is not None:
            engines[owner] = replace(configs[owner], other_names=model.other_names)
        elif model.name not in configs:
            engines[model.name] = _of_library(model)
    aliases = [
        _of_alias(name, alias.model, alias.created_at, engines.get(alias.model))
        for name, alias in Aliases(home).all().items()
    ]
    return sorted((*engines.values(), *aliases), key=lambda entry: (entry.name.casefold(), entry.kind))


def find_entry(home: Home, given: str) -> Entry:
    """What `given` names, by the rules that requests are read by.

    Raises:
        HugindError: nothing.
        ConfigError: as `entries`.
    """
    known: dict[str, Entry] = {}
    every = entries(home)
    for entry in sorted(every, key=lambda entry: _ORDER.index(entry.kind)):
        for name in (entry.name, *entry.other_names):
            known.setdefault(name, entry)
    if (found := match_name(given, known)) is None:
        raise HugindError(f"there is no model '{given}'", hint="hugind list, or hugind pull USER/REPO")
    return known[found]


def _of_config(name: str, home: Home) -> Entry:
    try:
        config = load_config(home.config(name))
    except ConfigError as error:
        return Entry(name, "config", None, None, None, error.message)
    path = config.path_of(config.model.model_path, home)
    try:
        size, modified_at = _look(path)
    except OSError:
        return Entry(name, "config", str(path), None, None, f"there is no file {path}")
    return Entry(name, "config", str(path), size, modified_at)


def _look(path: Path) -> tuple[int, datetime]:
    stats = [part.stat() for part in parts_of_file(path)]
    return sum(stat.st_size for stat in stats), datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC)


def _of_library(model: LibraryModel) -> Entry:
    return Entry(
        model.name, "library", str(model.path), model.size_bytes, model.modified_at, other_names=model.other_names
    )


def _of_alias(name: str, model: str, created_at: float, engine: Entry | None) -> Entry:
    made = datetime.fromtimestamp(created_at, UTC)
    if engine is None:
        return Entry(name, "alias", model, None, made, f"there is no model '{model}'")
    return Entry(name, "alias", model, engine.size_bytes, made, engine.problem)
