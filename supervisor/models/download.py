"""Fetch a model from the hub into the library: all of it, or nothing that anybody sees.

All of it blocks, on the network and the disk, for as long as gigabytes take: use a thread.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub.errors import HfHubHTTPError

from hugind.supervisor.models.download_plan import DownloadError, Plan, RemoteFile
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.library import HIDDEN_FOLDER, can_be_fetched, remove_if_empty
from hugind.supervisor.paths import Home, sync_folder

Progress = Callable[[str, str | None, int, int], None]
"""Told of a file: its name, its SHA-256 where the hub says it, bytes done, bytes in all. May raise, which cancels."""

_CHUNK_BYTES = 1 << 20
_PROGRESS_S = 0.1
_ATTEMPTS = 6
"""In a row without a byte; then it is given up."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0
_PART = ".part"
_KEY_CHARS = 16
_SPARE_BYTES = 64 << 20
"""Left free on the disk."""


def download(
    plan: Plan,
    home: Home,
    hub: Hub,
    on_progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> list[Path]:
    """Fetch the files of `plan` that are not here yet. Where they lie, the model's first file last.

    What was fetched before goes on where it ended; another download of the same file, in this process or another, is
    waited for and shared. A file takes its name when its length and checksum are right.

    Args:
        cancelled: set it to end soon, within the time that the network may be silent.

    Raises:
        DownloadError: also where it was cancelled. What `on_progress` raises passes through.
    """
    if not can_be_fetched(plan.user, plan.repo):
        raise DownloadError(f"{plan.user}/{plan.repo} cannot be a folder here", "not_found")
    folder = plan.folder(home)
    hidden = folder / HIDDEN_FOLDER
    caller = _Caller(on_progress, cancelled or threading.Event())
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        _check_space(plan, folder, hidden)
        return [_fetch(_File(plan, file, folder, hidden), hub, caller) for file in plan.files]
    except OSError as error:
        if error is caller.raised:
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room and try again: what is there is kept" if is_full else None
        raise DownloadError(f"cannot write to {folder}: {error.strerror or error}", "disk", hint=hint) from error
    finally:
        for empty in (hidden, folder, folder.parent):
            remove_if_empty(empty)


class _Caller:
    """Who waits for a download: is told how far it is, and may end it."""

    def __init__(self, progress: Progress | None, cancelled: threading.Event) -> None:
        self.raised: BaseException | None = None
        """What its progress raised: no failure of ours."""
        self._progress = progress
        self._cancelled = cancelled

    def tell(self, file: _File, done: int) -> None:
        if self._progress is None:
            return
        try:
            self._progress(
                file.remote.name, file.remote.sha256, min(done, file.remote.size_bytes), file.remote.size_bytes
            )
        except BaseException as error:
            self.raised = error
            raise

    def check(self) -> None:
        """Raise if it was cancelled."""
        if self._cancelled.is_set():
            raise DownloadError("the download was cancelled", "cancelled", hint="what is there is kept")

    def pause(self, seconds: float) -> None:
        """Wait, or until it is cancelled."""
        self._cancelled.wait(seconds)
        self.check()


@dataclass(frozen=True)
class _File:
    """One file on its way."""

    plan: Plan
    remote: RemoteFile
    folder: Path
    hidden: Path

    @property
    def target(self) -> Path:
        return self.folder / self.remote.name

    @property
    def part(self) -> Path:
        """What is there of this state of the file."""
        key = (self.remote.sha256 or self.plan.revision)[:_KEY_CHARS]
        return self.hidden / f"{self.remote.name}.{key}{_PART}"

    @property
    def lock(self) -> Path:
        return self.hidden / f"{self.remote.name}.lock"


def _fetch(file: _File, hub: Hub, caller: _Caller) -> Path:
    with _turn(file, caller):
        if not _is_here(file, caller):
            _fill(file, hub, caller)
            file.part.replace(file.target)
            sync_folder(file.folder)
            for stale in file.hidden.glob(f"{glob.escape(file.remote.name)}.*{_PART}"):
                stale.unlink(missing_ok=True)
        caller.tell(file, file.remote.size_bytes)
    return file.target


@contextmanager
def _turn(file: _File, caller: _Caller) -> Iterator[None]:
    """Wait for others who fetch the same file, and tell how far they are."""
    lock = FileLock(file.lock)
    while not lock.is_locked:
        caller.check()
        try:
            file.hidden.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PROGRESS_S)
        except Timeout:
            caller.tell(file, _size(file.part) or 0)
        except FileNotFoundError:
            continue  # another download was ready and has tidied up
    try:
        yield
    finally:
        if _size(file.part) == 0:
            file.part.unlink(missing_ok=True)
        file.lock.unlink(missing_ok=True)  # while it is held: a lock without a name is not taken by those who wait
        lock.release()


def _is_here(file: _File, caller: _Caller) -> bool:
    """The file is there, and is what the hub has."""
    if _size(file.target) != file.remote.size_bytes:
        return False
    if file.remote.sha256 is None:
        return True
    with file.target.open("rb") as stream:
        return _hash(stream, caller).hexdigest() == file.remote.sha256


def _fill(file: _File, hub: Hub, caller: _Caller) -> None:
    """Fetch until the part is the whole file."""
    with file.part.open("a+b") as stream:
        writing = _Writing(file, stream, caller)
        failures = 0
        while writing.done < file.remote.size_bytes:
            before = writing.done
            try:
                writing.fetch_rest(hub)
            except (httpx2.TransportError, HfHubHTTPError, _Cut) as error:
                failures = 0 if writing.done > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise DownloadError(
                        f"{file.remote.name}: no more comes from {hub.endpoint}: {error}",
                        "unreachable",
                        hint="try again later: what is there is kept",
                    ) from error
                caller.pause(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**failures) if failures else 0)
        if file.remote.sha256 not in (None, writing.digest):
            stream.truncate(0)
            raise DownloadError(
                f"{file.remote.name}: what came is not what the hub promised (its SHA-256 is {writing.digest})",
                "damaged",
                hint="try again: it was thrown away",
            )
        stream.flush()
        os.fsync(stream.fileno())


class _Cut(Exception):  # noqa: N818 - what happened
    """The hub sent less than it said, or more."""


class _Writing:
    """A part that grows. Its hash grows with it, so that nothing is read twice."""

    def __init__(self, file: _File, stream: BinaryIO, caller: _Caller) -> None:
        """Reads what is there."""
        self._file = file
        self._stream = stream
        self._caller = caller
        self._told_at = 0.0
        stream.seek(0)
        self._hash = _hash(stream, caller)
        self.done = stream.tell()
        if self.done > file.remote.size_bytes:
            self._start_again()
        caller.tell(file, self.done)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def fetch_rest(self, hub: Hub) -> None:
        """Ask once for what is missing.

        Raises:
            _Cut: less came, or more.
        """
        total = self._file.remote.size_bytes
        with hub.read(self._file.plan, self._file.remote, self.done) as (start, chunks):
            if start != self.done:
                self._start_again()
            for chunk in chunks:
                self._caller.check()
                self.done += len(chunk)
                if self.done > total:
                    self._start_again()
                    raise _Cut(f"more than {total} bytes came")
                self._stream.write(chunk)
                self._hash.update(chunk)
                if (now := time.monotonic()) >= self._told_at + _PROGRESS_S:
                    self._told_at = now
                    self._caller.tell(self._file, self.done)
        if self.done < total:
            raise _Cut(f"{self.done} of {total} bytes came")

    def _start_again(self) -> None:
        self._stream.truncate(0)
        self._hash, self.done = hashlib.sha256(), 0


def _check_space(plan: Plan, folder: Path, hidden: Path) -> None:
    files = [_File(plan, remote, folder, hidden) for remote in plan.files]
    needed = sum(
        file.remote.size_bytes - (_size(file.part) or 0)
        for file in files
        if _size(file.target) != file.remote.size_bytes
    )
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise DownloadError(
            f"{plan.user}/{plan.repo} needs {_gigabytes(needed)} more on the disk of {folder}, "
            f"where {_gigabytes(free)} are free",
            "disk",
            hint="make room, or choose a smaller quant",
        )


def _hash(stream: BinaryIO, caller: _Caller) -> hashlib._Hash:
    """Of all that follows."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        caller.check()
        digest.update(chunk)
    return digest


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
