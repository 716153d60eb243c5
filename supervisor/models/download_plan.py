"""Which files of a repository make the model that is meant. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hugind.supervisor.errors import HugindError
from hugind.supervisor.models.repository import (
    Reference,
    base_name,
    choose_default,
    choose_projector,
    first_parts,
    is_quant,
    part_names,
    quant_of,
)
from hugind.supervisor.paths import Home

Problem = Literal["not_found", "forbidden", "not_gguf", "no_quant", "unreachable", "disk", "damaged", "cancelled"]


class DownloadError(HugindError):
    """A model that was not fetched. What is there of it stays for the next attempt."""

    def __init__(self, message: str, problem: Problem, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problem = problem


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    size_bytes: int
    sha256: str | None

    @property
    def name(self) -> str:
        """What it is called here: folders of the repository are left out."""
        return base_name(self.path)


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit."""

    user: str
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Plan:
    """What will be fetched."""

    user: str
    repo: str
    revision: str
    """The commit: what is fetched is of one state."""
    files: tuple[RemoteFile, ...]
    """In the order in which they come; the one that makes the model appear is the last."""
    model: str
    """Name of the model's file; where it is split, of the first."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def folder(self, home: Home) -> Path:
        """Where it will lie."""
        return home.root / self.user / self.repo


def make_plan(reference: Reference, found: Repository) -> Plan:
    """Which files make the model that is meant: all its parts, and the projector beside it.

    Raises:
        DownloadError: there is no such file or quant.
    """
    by_path = {file.path: file for file in found.files}
    first = _choose(reference, by_path)
    folder = first.rpartition("/")[0]
    beside = [path for path in by_path if path.rpartition("/")[0] in (folder, "")]
    projector = choose_projector(beside)
    parts = [by_path[path] for path in part_names(first)]
    wanted = [*([by_path[projector]] if projector else []), *parts[1:], parts[0]]
    return Plan(found.user, found.repo, found.revision, tuple(wanted), base_name(first))


def _choose(reference: Reference, files: dict[str, RemoteFile]) -> str:
    """The path of the model's first file."""
    models = {path: sum(files[part].size_bytes for part in part_names(path)) for path in first_parts(files)}
    if not models:
        raise DownloadError(
            f"{reference.user}/{reference.repo} has no GGUF file",
            "not_gguf",
            hint="look for a repository with the same name and -GGUF",
        )
    if reference.file:
        if reference.file in models:
            return reference.file
        names = ", ".join(sorted(models))
        raise DownloadError(f"there is no model {reference}", "not_found", hint=f"there are: {names}")
    asked = reference.quant
    fitting = {path: size for path, size in models.items() if asked is None or is_quant(path, asked)}
    chosen = choose_default(fitting)
    if chosen is None:
        quants = ", ".join(sorted({quant_of(path) or base_name(path) for path in models}))
        raise DownloadError(
            f"{reference.user}/{reference.repo} has no '{asked}'", "no_quant", hint=f"there are: {quants}"
        )
    return chosen
