"""Fetch a model from the hub into the library: all of it, or nothing that anybody sees.

Which hub: `HF_ENDPOINT`, as `huggingface_hub` reads it. Who asks: the token that the caller gives; none that lies
about on this machine. All of it blocks, on the network and the disk, for as long as gigabytes take: use a thread.
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
from typing import BinaryIO, Literal

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hugind.supervisor.errors import HugindError
from hugind.supervisor.models.library import HIDDEN_FOLDER, is_taken, remove_if_empty
from hugind.supervisor.models.repository import (
    Reference,
    base_name,
    choose_default,
    choose_projector,
    first_parts,
    is_model_file,
    is_name,
    is_quant,
    part_names,
    quant_of,
)
from hugind.supervisor.paths import Home

Progress = Callable[[str, str | None, int, int], None]
"""Told of a file: its name, its SHA-256 where the hub says it, bytes done, bytes in all. May raise, which cancels."""

Problem = Literal["not_found", "forbidden", "not_gguf", "no_quant", "unreachable", "disk", "damaged", "cancelled"]

_AGENT = "hugind"
_CHUNK_BYTES = 1 << 20
_PROGRESS_S = 0.1
_ATTEMPTS = 6
"""In a row without a byte; then it is given up."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0
_RETRIED = (408, 429, 500, 502, 503, 504)
_PART = ".part"
_KEY_CHARS = 16
_SPARE_BYTES = 64 << 20
"""Left free on the disk."""


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


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit."""

    user: str
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


class Hub:
    """The hub as somebody sees it. Blocks on the network."""

    def __init__(self, *, token: str | None = None, endpoint: str | None = None) -> None:
        """`endpoint`: the URL of a hub; None: `HF_ENDPOINT`, else the library's own."""
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token or False
        self._api = HfApi(endpoint=self.endpoint, token=self._token, library_name=_AGENT)

    def repository(self, reference: Reference) -> Repository:
        """What is there of `reference`, under the names that the hub itself uses.

        Raises:
            DownloadError: no such repository, it may not be seen, or the hub cannot be reached.
        """
        asked = f"{reference.user}/{reference.repo}"
        with self._explaining(reference):
            info = self._api.model_info(
                asked, revision=reference.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        user, _, repo = info.id.partition("/")
        if not (is_name(user) and is_name(repo)) or is_taken(user):
            raise DownloadError(f"{info.id!r} cannot be the name of a folder here", "not_found")
        files = (
            RemoteFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
            if is_model_file(one.rfilename)
        )
        return Repository(user, repo, info.sha or reference.revision or constants.DEFAULT_REVISION, tuple(files))

    @contextmanager
    def read(self, plan: Plan, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The file from byte `start` on: where it really begins (0 if the hub does not resume), and its bytes.

        Raises:
            DownloadError: it may not be had.
            httpx2.TransportError: the connection failed, here or while the bytes are read.
            HfHubHTTPError: the hub may answer better later.
        """
        repo_id = f"{plan.user}/{plan.repo}"
        url = hf_hub_url(repo_id, file.path, revision=plan.revision, endpoint=self.endpoint)
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._explaining(Reference(plan.user, plan.repo, file=file.path), passes=_RETRIED),
            get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
        ):
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            yield (
                (start if response.status_code == httpx2.codes.PARTIAL_CONTENT else 0),
                response.iter_raw(),
            )

    @contextmanager
    def _explaining(self, reference: Reference, passes: tuple[int, ...] = ()) -> Iterator[None]:
        """Turn what the hub's client raises into what a person can act on."""
        page = f"{self.endpoint}/{reference.user}/{reference.repo}"
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise DownloadError("the hub is switched off by HF_HUB_OFFLINE", "unreachable", hint="unset it") from error
        except GatedRepoError as error:
            hint = f"ask for access at {page}" if self._token else f"ask for access at {page}, and set HF_TOKEN"
            raise DownloadError(
                f"{reference} is gated: this account may not fetch it", "forbidden", hint=hint
            ) from error
        except RevisionNotFoundError as error:
            raise DownloadError(f"{reference} has no revision '{reference.revision}'", "not_found") from error
        except EntryNotFoundError as error:
            raise DownloadError(f"{reference} is not there any more", "not_found", hint=f"see {page}") from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            hint = "check the name" if self._token else "check the name; if it is private, set HF_TOKEN"
            raise DownloadError(f"the hub has no {reference}, or does not show it", "not_found", hint=hint) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in passes:
                raise
            if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
                hint = f"check HF_TOKEN and what it may read, and {page}"
                raise DownloadError(f"the hub refuses {reference} ({status})", "forbidden", hint=hint) from error
            raise DownloadError(
                f"the hub answers {status} for {reference}", "unreachable", hint="try again later"
            ) from error
        except httpx2.TransportError as error:
            if passes:
                raise
            raise DownloadError(f"no answer from {self.endpoint}: {error}", "unreachable") from error


def plan(reference: Reference, hub: Hub) -> Plan:
    """Which files make the model that is meant: all its parts, and the projector beside it. Asks the hub once.

    Raises:
        DownloadError: there is no such repository, file or quant, or it may not be seen.
    """
    found = hub.repository(reference)
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
    if is_taken(plan.user) or not (is_name(plan.user) and is_name(plan.repo)):
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
            _sync_folder(file.folder)
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
                self._stream.write(chunk)
                self._hash.update(chunk)
                self.done += len(chunk)
                if (now := time.monotonic()) >= self._told_at + _PROGRESS_S:
                    self._told_at = now
                    self._caller.tell(self._file, self.done)
        if self.done > total:
            self._start_again()
            raise _Cut(f"more than {total} bytes came")
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
