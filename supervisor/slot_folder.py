"""Where the llama-servers of an engine write slot files: a private folder in memory where there is one, or on disk."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import psutil

from hugind.supervisor.paths import DIRECTORY_MODE, Home

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - every level below it is ours alone, or is not used
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class SlotFolder:
    """A folder of mode 0700, made and checked."""

    path: Path
    is_memory: bool
    reason: str
    """Why there, in words."""


def choose_slot_folder(
    home: Home, name: str, memory_folder: str | None, *, mounts: str | None = None, uid: int | None = None
) -> SlotFolder:
    """Make the folder for `name`, a config name or one that begins with it. Blocks on the disk.

    In memory below `memory_folder` (none: /dev/shm), unless that is no tmpfs, or somebody else could get at what is in
    it: then in the home, with the reason. Gateways of one home share the folder of a name; two homes have two.

    `mounts` (none: /proc/mounts) and `uid` (none: ours) are for tests.

    Raises:
        OSError: there is no folder in the home either.
    """
    shared = Path(memory_folder or SHARED_MEMORY)
    try:
        owner = os.getuid() if uid is None else uid
        shared = _check_shared(shared, _read_mounts() if mounts is None else mounts, owner)
        path = shared
        for part in (f"hugind-{owner}", hashlib.sha256(str(home.root.resolve()).encode()).hexdigest()[:12], name):
            path /= part
            _make_private(path, owner)
        return SlotFolder(path, is_memory=True, reason=f"{shared} is in memory")
    except _UnfitError as unfit:
        reason = str(unfit)
    except OSError as error:
        reason = f"{error.filename or shared}: {error.strerror}"
    path = home.slots / name
    for folder in (home.slots, path):
        folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        folder.chmod(DIRECTORY_MODE)
    return SlotFolder(path, is_memory=False, reason=reason)


def look_for_memory(
    memory_folder: str | None, *, mounts: str | None = None, uid: int | None = None
) -> tuple[bool, str]:
    """Whether slot files could lie in memory below that folder, and why or why not. Makes nothing. Blocks on the disk.

    The arguments are those of `choose_slot_folder`.
    """
    shared = Path(memory_folder or SHARED_MEMORY)
    try:
        _check_shared(shared, _read_mounts() if mounts is None else mounts, os.getuid() if uid is None else uid)
    except _UnfitError as unfit:
        return False, str(unfit)
    except OSError as error:
        return False, f"{error.filename or shared}: {error.strerror}"
    return True, f"{shared} is in memory"


def free_bytes(folder: Path) -> int:
    """Bytes that we may still write there. Blocks on the disk."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize if space.f_blocks else psutil.virtual_memory().available


def total_bytes(folder: Path) -> int:
    """Bytes of its filesystem, taken or not; of memory, where that has no limit (ramfs). Blocks on the disk."""
    space = os.statvfs(folder)
    return space.f_blocks * space.f_frsize or psutil.virtual_memory().total


class _UnfitError(Exception):
    """A folder that snapshots of conversations must not be in."""


def _check_shared(folder: Path, mounts: str, owner: int) -> Path:
    """The folder by its real name: it is in memory, and nobody else can rename what we make in it."""
    real = folder.resolve(strict=True)
    kind = _filesystem(real, mounts)
    if kind not in _IN_MEMORY:
        raise _UnfitError(f"{folder} is not in memory" + (f" but on {kind}" if kind else ""))
    found = real.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise _UnfitError(f"{folder} is not a folder")
    is_open = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if is_open or found.st_uid not in (0, owner):
        raise _UnfitError(f"others may rename what is in {folder}: it needs the sticky bit, and to be ours or root's")
    return real


def _make_private(path: Path, owner: int) -> None:
    try:
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        pass  # by an earlier gateway, or by somebody who guessed the name
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _UnfitError(f"{path} is not a folder")
    if found.st_uid != owner:
        raise _UnfitError(f"{path} belongs to somebody else (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) != DIRECTORY_MODE:
        path.chmod(DIRECTORY_MODE)
        if stat.S_IMODE(path.lstat().st_mode) != DIRECTORY_MODE:
            raise _UnfitError(f"{path} cannot be closed to others")


def _filesystem(path: Path, mounts: str) -> str | None:
    """The type of the filesystem that `path` is on, by the text of /proc/mounts. None: it does not say."""
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), fields[2])
    return best[1] if best else None


def _read_mounts() -> str:
    """Empty on systems that have no such file."""
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
