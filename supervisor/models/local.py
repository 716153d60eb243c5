"""Models made of files that clients sent: `<home>/local/<name>/<name>.gguf`, where the library finds them.

Adapters for a model lie in a folder of their own below that, where the library does not look.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from hugind.supervisor.errors import HugindError
from hugind.supervisor.models.gguf import GgufHeader, read_header
from hugind.supervisor.models.repository import first_parts
from hugind.supervisor.paths import CONFIG_NAME, DIRECTORY_MODE, FILE_MODE, Home

USER = "local"
"""Whose models they are, where others have the name of a user of the hub."""
_ADAPTERS = "adapters"
_PROJECTOR = "clip"
_PROJECTOR_PREFIX = "mmproj"
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class LocalModelError(HugindError):
    """Files that make no model."""


class LocalModels:
    """Those of a home. Everything blocks on the disk."""

    def __init__(self, home: Home) -> None:
        self._root = home.root / USER

    def folder(self, name: str) -> Path:
        """Where a model of this name is, or would be.

        Raises:
            ValueError: it could not be a config's name either.
        """
        if not CONFIG_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a folder")
        return self._root / name

    def place(
        self, name: str, files: Sequence[Path], adapters: Sequence[Path] = (), architecture: str | None = None
    ) -> tuple[Path | None, list[Path]]:
        """Make a model of GGUF files: itself or all its parts, a vision projector, and LoRA adapters.

        It takes the place of an older one of this name. Files are linked, not copied, where the disk can. Returns the
        path of the model's first file, and those of the adapters.

        Args:
            architecture: of the model that lies elsewhere, where `files` has none but `adapters` are for it.

        Raises:
            GgufError: one is no GGUF file.
            LocalModelError: they make no model.
        """
        named = _name_all(name, files) if files else {}
        first = min((file for file in named if not file.startswith(_PROJECTOR_PREFIX)), default=None)
        wanted = architecture if first is None else read_header(named[first]).architecture
        for adapter in adapters:
            _check_adapter(read_header(adapter), wanted)
        beside = {f"{_ADAPTERS}/{at}.gguf": file for at, file in enumerate(adapters)}
        folder = self.folder(name)
        _put(folder, named | beside)
        return (folder / first if first else None), [folder / file for file in beside]

    def has_adapters(self, name: str) -> bool:
        """Whether a model of this name was made with adapters."""
        return (self.folder(name) / _ADAPTERS).is_dir()

    def remove(self, name: str) -> None:
        """Delete all that was made under this name."""
        shutil.rmtree(self.folder(name), ignore_errors=True)
        try:
            self._root.rmdir()
        except OSError:
            pass  # there are others


def _put(folder: Path, named: dict[str, Path]) -> None:
    """Have exactly these files in a folder: all of them, or the older ones."""
    fresh = folder.parent / f".{secrets.token_hex(8)}"
    old = folder.parent / f".{secrets.token_hex(8)}"
    fresh.mkdir(mode=DIRECTORY_MODE, parents=True)
    try:
        for name, file in named.items():
            (fresh / name).parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            _link(file, fresh / name)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        for rest in (fresh, old):
            shutil.rmtree(rest, ignore_errors=True)


def _name_all(name: str, files: Sequence[Path]) -> dict[str, Path]:
    """What each file will be called."""
    named: dict[str, Path] = {}
    parts: dict[int, int] = {}
    for file in files:
        header = read_header(file)
        kind = header.values.get("general.type")
        if header.architecture == _PROJECTOR or kind == "mmproj":
            own = f"{_PROJECTOR_PREFIX}-{name}.gguf"
        elif kind == "adapter":
            raise LocalModelError("a LoRA adapter is no model: send it as one of 'adapters'")
        else:
            at, of = _part(header)
            parts[at] = of
            own = f"{name}.gguf" if of == 1 else f"{name}-{at:05}-of-{of:05}.gguf"
        if own in named:
            raise LocalModelError("two of the files are the same part of a model")
        named[own] = file
    if not parts:
        raise LocalModelError("there is no model among the files")
    count = next(iter(parts.values()))
    if len(parts) != count or set(parts.values()) != {count}:  # which they are, `_part` has seen to
        raise LocalModelError(f"of a model in {count} parts, {len(parts)} came")
    if not first_parts(named):
        raise LocalModelError(f"a file called '{name}.gguf' would not be taken for a model: choose another name")
    return named


def _check_adapter(header: GgufHeader, architecture: str | None) -> None:
    if header.values.get("general.type") != "adapter":
        raise LocalModelError("an adapter must be a LoRA adapter in GGUF form")
    if header.architecture != architecture:
        raise LocalModelError(f"the adapter is for {header.architecture}, and the model is {architecture}")


def _part(header: GgufHeader) -> tuple[int, int]:
    """Which part of a split model it is, and of how many."""
    at, of = header.values.get("split.no", 0), header.values.get("split.count", 1)
    if isinstance(at, int) and isinstance(of, int) and 0 <= at < of:
        return at + 1, of
    return 1, 1


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(file, target)
        target.chmod(FILE_MODE)
