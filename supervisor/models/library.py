"""The models of this machine: GGUF files at `<home>/<user>/<repo>/*.gguf`, put there by a download or by hand."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from hugind.supervisor.config import Config
from hugind.supervisor.errors import HugindError
from hugind.supervisor.models.capabilities import capabilities_of
from hugind.supervisor.models.gguf import GgufHeader, read_header
from hugind.supervisor.models.local import USER as LOCAL_USER
from hugind.supervisor.models.repository import (
    SHORT_HOST,
    choose_default,
    choose_projector,
    first_parts,
    is_model_file,
    is_name,
    is_projector,
    model_stem,
    part_names,
    quant_of,
)
from hugind.supervisor.paths import CONFIG_NAME, Home

HIDDEN_FOLDER = ".download"
"""In the folder of a repository: what is not all there yet."""
_MAX_NAME = 64
_DIGEST_CHARS = 8
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_CACHED_HEADERS = 256


class LibraryError(HugindError):
    """There is no such model, or its files cannot be deleted."""


@dataclass(frozen=True)
class LibraryModel:
    """A model of the library, as its folder was when it was looked at."""

    name: str
    """Can be a config's name; no other model of the library has it."""
    path: Path
    """Its file; where it is split, the first."""
    user: str
    repo: str
    size_bytes: int
    """Of all its parts, without a projector."""
    modified_at: datetime
    mmproj: Path | None
    """The vision projector beside it."""
    other_names: tuple[str, ...]
    """What else it may be called: user/repo, user/repo:QUANT, the same behind the hub's short name, its file."""


@dataclass(frozen=True)
class Described:
    """What a model's files say of themselves."""

    header: GgufHeader
    size_bytes: int
    """Of all parts."""
    parameters: int
    """Of all parts."""
    digest: str
    """64 hexadecimal digits that tell models apart: made of their headers and of samples of their weights. Not the
    SHA-256 of the file: to read gigabytes for it at each start would take minutes."""

    def capabilities(self, *, has_mmproj: bool, task: str | None = None) -> tuple[str, ...]:
        """See `capabilities_of`."""
        return capabilities_of(self.header, has_mmproj=has_mmproj, task=task)


class Library:
    """The models of one home. Holds nothing but the home: every question looks at the disk."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def models(self) -> list[LibraryModel]:
        """All models, by name. Blocks on the disk, for folders only: no file is opened.

        A split model is there when all of its parts are. What is being downloaded is not.
        """
        found = list(self._find())
        names = _names([path for path, _ in found])
        return sorted(
            (_model(path, name, files) for (path, files), name in zip(found, names, strict=True)),
            key=lambda model: model.name,
        )

    def get(self, name: str) -> LibraryModel:
        """The model that is called exactly `name`. Blocks as `models`.

        Raises:
            LibraryError: there is none.
        """
        for model in self.models():
            if model.name == name:
                return model
        raise LibraryError(f"there is no model '{name}' in {self._home.root}")

    def at(self, path: Path) -> LibraryModel | None:
        """The model whose file, or first part, this is. Blocks as `models`."""
        return next((model for model in self.models() if model.path == path), None)

    def files_of(self, model: LibraryModel) -> list[Path]:
        """What goes with a model: its files, and the projectors beside it unless another model there needs them.

        Blocks as `models`.
        """
        folder = model.path.parent
        shared = {one.mmproj for one in self.models() if one.name != model.name and one.path.parent == folder}
        files = parts_of_file(model.path)
        if model.mmproj is not None and model.mmproj not in shared:
            files += [path for path in _inside(folder) if is_projector(path.name) and is_model_file(path.name)]
        return files

    def remove(self, name: str) -> LibraryModel:
        """Delete the files that go with it, and folders left empty.

        Blocks on the disk. Whether it is in use is the caller's question.

        Raises:
            LibraryError: there is none, or it cannot be deleted.
        """
        model = self.get(name)
        folder = model.path.parent
        try:
            for path in self.files_of(model):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise LibraryError(f"{error.filename}: {error.strerror}") from error
        for empty in (folder / HIDDEN_FOLDER, folder, folder.parent):
            remove_if_empty(empty)
        return model

    def _find(self) -> Iterator[tuple[Path, dict[str, os.stat_result]]]:
        """The first file of every model, with all GGUF files of its folder; sorted."""
        for user in _folders(self._home.root):
            if is_taken(user.name):
                continue
            for repo in _folders(user):
                files = _files(repo)
                yield from ((repo / first, files) for first in first_parts(files))


def described(path: Path) -> Described:
    """What the model at `path` says of itself: read once for every state of its files. Blocks on the disk.

    Raises:
        GgufError: it is no GGUF file, or not all of one.
    """
    parts = parts_of_file(path)
    stats = []
    for part in parts:
        try:
            stat = part.stat()
        except OSError:
            stats.append((0, 0))  # reading it will say what is wrong
        else:
            stats.append((stat.st_size, stat.st_mtime_ns))
    return _described(tuple(parts), tuple(stats))


def parts_of_file(path: Path) -> list[Path]:
    """The files of a model: itself, or all parts of a split one whose first this is."""
    return [path.with_name(name) for name in part_names(path.name)]


def extra_bytes(config: Config, home: Home) -> int:
    """Size of the files that a config's engine loads beside the model file: projector, draft, adapters, further parts.

    Blocks on the disk; a file that is not there counts as nothing.
    """
    model = config.model
    beside = [config.path_of(one, home) for one in (model.mmproj_path, model.draft_path, *model.lora_paths) if one]
    further = parts_of_file(config.path_of(model.model_path, home))[1:]
    return sum(_size(path) for path in (*beside, *further))


def is_taken(user: str) -> bool:
    """A home has a file or folder of its own by this name, so no user of the hub may have one."""
    return user.casefold() in _OWN_NAMES


def can_be_fetched(user: str, repo: str) -> bool:
    """Both can be folders here, and no other models lie in the user's: those made of files that clients sent do."""
    return is_name(user) and is_name(repo) and not is_taken(user) and user.casefold() != LOCAL_USER


def remove_if_empty(folder: Path) -> None:
    """Delete a folder with nothing in it; leave any other."""
    try:
        folder.rmdir()
    except OSError:
        pass


@lru_cache(maxsize=_CACHED_HEADERS)
def _described(parts: tuple[Path, ...], stats: tuple[tuple[int, int], ...]) -> Described:
    headers = [read_header(part, is_further_part=at > 0) for at, part in enumerate(parts)]
    seal = hashlib.sha256()
    for header in headers:
        seal.update(f"{header.digest}{header.sample_digest}".encode())
    return Described(
        header=headers[0],
        size_bytes=sum(size for size, _ in stats),
        parameters=sum(header.parameters for header in headers),
        digest=seal.hexdigest(),
    )


_OWN = Home(Path())
_OWN_NAMES = frozenset(getattr(_OWN, name).name for name, kind in vars(Home).items() if isinstance(kind, property))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in _inside(parent) if not path.name.startswith(".") and path.is_dir())


def _inside(folder: Path) -> list[Path]:
    """Nothing where it is gone, or may not be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _files(repo: Path) -> dict[str, os.stat_result]:
    found = {}
    for path in _inside(repo):
        if is_model_file(path.name) and path.is_file():
            try:
                found[path.name] = path.stat()
            except OSError:  # it went between the two questions
                continue
    return found


def _model(path: Path, name: str, files: Mapping[str, os.stat_result]) -> LibraryModel:
    stats = [files[part] for part in part_names(path.name)]
    projector = choose_projector(files)
    return LibraryModel(
        name=name,
        path=path,
        user=path.parts[-3],
        repo=path.parts[-2],
        size_bytes=sum(stat.st_size for stat in stats),
        modified_at=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        mmproj=path.with_name(projector) if projector else None,
        other_names=_other_names(path, files),
    )


def _other_names(path: Path, files: Mapping[str, os.stat_result]) -> tuple[str, ...]:
    models = first_parts(files)
    quant = quant_of(path.name)
    full = f"{path.parts[-3]}/{path.parts[-2]}"
    sizes = {one: sum(files[part].st_size for part in part_names(one)) for one in models}
    names = [full] if choose_default(sizes) == path.name else []
    if quant and sum(quant_of(name) == quant for name in models) == 1:
        names.append(f"{full}:{quant}")
    return (*names, *(f"{SHORT_HOST}/{name}" for name in names), path.name)


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each: short where it can be, and none depends on the order of the files.

    Of files with the same stem none gets the plain name: whoever knew one by it must not reach another.
    """
    names = [_plain(model_stem(path.name)) for path in paths]
    for longer in (_with_repo, _with_digest):
        names = _lengthen(names, paths, longer)
    return names


def _lengthen(names: list[str], paths: Sequence[Path], longer: Callable[[Path], str]) -> list[str]:
    count = Counter(name.casefold() for name in names)
    return [
        longer(path) if count[name.casefold()] > 1 or not CONFIG_NAME.fullmatch(name) else name
        for name, path in zip(names, paths, strict=True)
    ]


def _plain(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text).lstrip("._-")


def _with_repo(path: Path) -> str:
    return _plain(f"{path.parts[-2]}-{model_stem(path.name)}")


def _with_digest(path: Path) -> str:
    digest = hashlib.sha256("/".join(path.parts[-3:]).encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{(_plain(model_stem(path.name)) or 'model')[: _MAX_NAME - _DIGEST_CHARS - 1]}-{digest}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
