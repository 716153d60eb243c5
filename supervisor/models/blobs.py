"""Files that clients sent for models yet to be made, each under its SHA-256: `<home>/blobs`."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import DIRECTORY_MODE, FILE_MODE, Home

DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
MAX_BYTES = 10**12
RESERVED_BYTES = 1 << 30
"""Of the disk, what no upload may take: sessions, usage and logs are written there, too."""
KEPT_S = 86400.0
"""How long a file stays that nobody asks for. The models made of it keep what they need."""

_UPLOAD = "upload-"


class BlobError(HugindError):
    """What was sent is not what it was said to be, or there is no such thing."""


class Blobs:
    """The files of a home. Everything blocks on the disk."""

    def __init__(self, home: Home) -> None:
        self._folder = home.blobs

    def find(self, digest: str) -> Path | None:
        """The file of a digest, `sha256:` and 64 hex digits; None where it is not there. It is kept from now on.

        Raises:
            BlobError: it is no digest.
        """
        path = self._path(digest)
        try:
            # Its time of reading only: models share the file, and are known again by when it was written.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except FileNotFoundError:
            return None
        return path

    def room_bytes(self) -> int:
        """How large a file may be that comes now."""
        self._make_folder()
        return max(0, min(MAX_BYTES, shutil.disk_usage(self._folder).free - RESERVED_BYTES))

    def upload(self, digest: str) -> Upload:
        """Take in a file, which must have this digest in the end.

        Raises:
            BlobError: it is no digest.
        """
        path = self._path(digest)
        self._make_folder()
        return Upload(self._folder / f"{_UPLOAD}{secrets.token_hex(8)}", path)

    def forget(self, files: Iterable[Path]) -> None:
        """The models that these files belong to are to be removed: nothing is kept of what they were made of."""
        if not self._folder.is_dir():
            return
        doomed = {(stat.st_dev, stat.st_ino) for stat in map(_stat, files) if stat is not None}
        for path in self._folder.iterdir():
            stat = _stat(path)
            if stat is not None and (stat.st_dev, stat.st_ino) in doomed:
                path.unlink(missing_ok=True)

    def prune(self, kept_s: float = KEPT_S) -> None:
        """Remove what nobody has asked for in `kept_s` seconds, and what was left of uploads as long ago."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if (stat := _stat(path)) is None:
                continue
            last = stat.st_mtime if path.name.startswith(_UPLOAD) else max(stat.st_atime, stat.st_mtime)
            if time.time() - last > kept_s:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        found = DIGEST.fullmatch(digest)
        if found is None:
            raise BlobError(f"invalid digest {digest!r}: sha256: and 64 hex digits are expected")
        return self._folder / f"sha256-{found[1]}"

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


class Upload:
    """One file on its way in. A context manager: what is not finished in it is gone behind it."""

    def __init__(self, temporary: Path, path: Path) -> None:
        self._temporary = temporary
        self._path = path
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def __enter__(self) -> Upload:
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """The next part. Blocks."""
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._digest.update(data)

    def finish(self) -> None:
        """It is whole: from now on it can be found. Blocks until it is on the disk.

        Raises:
            BlobError: it is not what it was said to be.
        """
        assert self._file is not None
        found = f"sha256-{self._digest.hexdigest()}"
        if found != self._path.name:
            raise BlobError(f"digest mismatch: the file has {found.replace('-', ':')}")
        os.fsync(self._file.fileno())
        if not self._path.exists():  # one that came meanwhile may have been made a model of
            self._temporary.rename(self._path)


def _stat(path: Path) -> os.stat_result | None:
    """None: it is not there; another gateway of this home may have been faster."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
