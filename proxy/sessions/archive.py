"""One file that holds a whole session, for export and import: a tar that any tool lists, and only this one writes.

    manifest.json      format, hugind's version, the session without whose it is, size and SHA-256 of what follows; and
                       a SHA-256 of all that
    transcript.json    what was said: a list of messages, or null
    snapshot.kv        the slot file, if there is one

It is read as a stranger's: every byte has to be what `write_archive` would have written, and no name in it is used.
"""

from __future__ import annotations

import hashlib
import secrets
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hugind.proxy.sessions.atrest import private_file
from hugind.proxy.sessions.checksum import Checksum
from hugind.proxy.sessions.record import Label, Owner, Session
from hugind.supervisor.paths import CONFIG_NAME, FILE_MODE

FORMAT = 1
NOBODY = Owner("")
"""Whose a session is that was read from an archive, until somebody takes it."""

_MANIFEST, _TRANSCRIPT, _SNAPSHOT = "manifest.json", "transcript.json", "snapshot.kv"
_MAX_MANIFEST = 16 << 20
MAX_TRANSCRIPT = 256 << 20
"""It is held in memory, several times over."""
_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_NOT_ARCHIVED = ("owner", "id", "memory")
"""What `Session.to_json` tells and an archive does not. The newest snapshot goes as that on disk."""


class ArchiveError(Exception):
    """It is no archive, or was changed, or is too large; or a session cannot be put into one. The message says what."""


@dataclass(frozen=True)
class Archive:
    """What `read_archive` found."""

    session: Session
    """Of `NOBODY`, with a new id. Its chain is that of the owner who exported it: take it from the messages anew.
    `disk` tells about the snapshot, if there is one, and `memory` is none."""
    messages: list[Any] | None
    snapshot: Path | None
    """The file, from now on the caller's. Its size and checksum are those of `session.disk`; what is in it was not
    looked at."""


def write_archive(target: BinaryIO, session: Session, messages: list[Any] | None, snapshot: Path | None) -> None:
    """Write a session into `target`, which needs no seeking. Blocks.

    `snapshot` is the plain slot file of `session.newest`; it must stay as it is meanwhile.

    Raises:
        ArchiveError: the messages are none, or the snapshot is not the newest. Nothing was written.
        OSError: it cannot be read or written.
    """
    try:
        transcript = orjson.dumps(messages)
    except TypeError as error:
        raise ArchiveError(f"{_TRANSCRIPT}: {error}") from None
    if len(transcript) > MAX_TRANSCRIPT:
        raise ArchiveError(f"{_TRANSCRIPT} is too large")
    about = {key: value for key, value in session.to_json().items() if key not in _NOT_ARCHIVED}
    rest: dict[str, Any] = {
        "format": FORMAT,
        "hugind": version("hugind"),
        "session": {**about, "disk": None},
        "transcript": {"size": len(transcript), "sha256": hashlib.sha256(transcript).hexdigest()},
        "snapshot": None,
    }
    if snapshot is not None:
        rest["session"]["disk"], rest["snapshot"] = _describe(session, snapshot)
    manifest = _dump({**rest, "sha256": _digest(rest)})
    _parse_manifest(manifest)  # what could not be read back is not written
    _parse_messages(transcript)

    for name, data in ((_MANIFEST, manifest), (_TRANSCRIPT, transcript)):
        target.write(_header(name, len(data)))
        target.write(data + _padding(len(data)))
    if snapshot is not None:
        size = rest["snapshot"]["size"]
        target.write(_header(_SNAPSHOT, size))
        with snapshot.open("rb") as file:
            for chunk in _exactly(file, size, _SNAPSHOT):
                target.write(chunk)
        target.write(_padding(size))
    target.write(_END)


def read_archive(source: BinaryIO, folder: Path, *, max_bytes: int) -> Archive:
    """Read what `write_archive` wrote, from a source that needs no seeking. Blocks.

    The snapshot goes to `folder`, under a random name. What was said is held in memory, `MAX_TRANSCRIPT` at most.

    Raises:
        ArchiveError: it is not such a file to its last byte, or has more than `max_bytes`.
        OSError: it cannot be read, or there is no room. In both cases nothing is left in `folder`.
    """
    tar = _Tar(source, max_bytes)
    manifest = _parse_manifest(tar.read(_MANIFEST, None, _MAX_MANIFEST))
    messages = _parse_messages(tar.read(_TRANSCRIPT, manifest.transcript, MAX_TRANSCRIPT))
    about = manifest.session.disk
    if manifest.snapshot is None or about is None:
        if manifest.snapshot or about:
            raise ArchiveError(f"{_MANIFEST}: there is a snapshot and nothing about it, or the other way round")
        tar.end()
        return Archive(_session(manifest, ""), messages, None)
    path = folder / f"{secrets.token_hex(16)}.kv"
    with private_file(path) as file:
        checksum = tar.copy(_SNAPSHOT, manifest.snapshot, file)
        if (checksum, manifest.snapshot.size) != (about.checksum, about.size_bytes):
            raise ArchiveError(f"{_SNAPSHOT} is not the one that {_MANIFEST} tells about")
        tar.end()
    return Archive(_session(manifest, path.name), messages, path)


_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Time = Annotated[float, Field(allow_inf_nan=False)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Member(_Strict):
    size: _Count
    sha256: _Sha256


class _Snapshot(_Strict):
    file: Literal["snapshot.kv"]
    tokens: _Count
    size_bytes: _Count
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    n_stream: _Count | None
    fingerprint: Annotated[str, Field(max_length=1024)]
    saved_at: _Time


class _Session(_Strict):
    version: Literal[1]
    engine: Annotated[str, Field(pattern=f"^{CONFIG_NAME.pattern}$")]
    family: Annotated[str, Field(max_length=1024)]
    name: Annotated[str, Field(max_length=1024)] | None
    chain: list[Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,64}$")]]
    disk: _Snapshot | None
    is_kept: bool
    is_pinned: bool
    created_at: _Time
    used_at: _Time
    turns: _Count
    hits: dict[Label, _Count]
    hollow: _Count


class _Manifest(_Strict):
    format: Literal[1]
    hugind: str
    session: _Session
    transcript: _Member
    snapshot: _Member | None
    sha256: _Sha256


class _Tar:
    """Members of a tar, one after the other, each as we would have written it. Lives as long as an archive is read."""

    def __init__(self, source: BinaryIO, max_bytes: int) -> None:
        self._source = source
        self._left = max_bytes

    def read(self, name: str, member: _Member | None, max_size: int) -> bytes:
        size = self._open(name, member)
        if size > max_size:
            raise ArchiveError(f"{name} is too large")
        data = b"".join(_exactly(self._source, size, name))
        self._close(name, size)
        if member is not None and hashlib.sha256(data).hexdigest() != member.sha256:
            raise ArchiveError(f"{name} was changed")
        return data

    def copy(self, name: str, member: _Member, target: BinaryIO) -> str:
        """Returns the XXH3-128 of what was copied."""
        size = self._open(name, member)
        digest, checksum = hashlib.sha256(), Checksum()
        for chunk in _exactly(self._source, size, name):
            digest.update(chunk)
            checksum.update(chunk)
            target.write(chunk)
        self._close(name, size)
        if digest.hexdigest() != member.sha256:
            raise ArchiveError(f"{name} was changed")
        return checksum.hexdigest()

    def end(self) -> None:
        if b"".join(_exactly(self._source, len(_END), "the end")) != _END:
            raise ArchiveError("there is more in it than a session")
        if self._source.read(1):
            raise ArchiveError("something was added at the end")

    def _open(self, name: str, member: _Member | None) -> int:
        block = b"".join(_exactly(self._source, _BLOCK, name))
        try:
            size = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape").size
        except tarfile.TarError:
            raise ArchiveError(f"not a session archive: no tar header where {name} should begin") from None
        if size < 0 or block != _header(name, size):
            raise ArchiveError(f"not a session archive: something else is where {name} should be")
        if member is not None and size != member.size:
            raise ArchiveError(f"{name} has another size than {_MANIFEST} says")
        if size > self._left:
            raise ArchiveError("it is too large")
        self._left -= size
        return size

    def _close(self, name: str, size: int) -> None:
        padding = _padding(size)
        if b"".join(_exactly(self._source, len(padding), name)) != padding:
            raise ArchiveError(f"something is hidden behind {name}")


def _describe(session: Session, snapshot: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the manifest says about a snapshot: what it holds, and what its member is."""
    digest, checksum, size = hashlib.sha256(), Checksum(), 0
    with snapshot.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            checksum.update(chunk)
            size += len(chunk)
    newest = session.newest
    if newest is None or (checksum.hexdigest(), size) != (newest.checksum, newest.size_bytes):
        raise ArchiveError("the snapshot is not the newest of the session, or is damaged")
    return {**newest.__dict__, "file": _SNAPSHOT}, {"size": size, "sha256": digest.hexdigest()}


def _parse_manifest(data: bytes) -> _Manifest:
    try:
        values = orjson.loads(data)
        manifest = _Manifest.model_validate(values)
    except orjson.JSONDecodeError as error:
        raise ArchiveError(f"{_MANIFEST} is no JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArchiveError(f"{_MANIFEST}: {place}: {first['msg']}") from None
    digest = values.pop("sha256")
    if digest != _digest(values) or data != _dump({**values, "sha256": digest}):
        raise ArchiveError(f"{_MANIFEST} was changed")
    return manifest


def _parse_messages(data: bytes) -> list[Any] | None:
    try:
        messages = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ArchiveError(f"{_TRANSCRIPT} is no JSON: {error}") from None
    if messages is None:
        return None
    if not isinstance(messages, list):
        raise ArchiveError(f"{_TRANSCRIPT} is no list of messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ArchiveError(f"{_TRANSCRIPT}: message {index} has no role")
    try:
        orjson.dumps(messages)
    except TypeError as error:  # orjson reads deeper than it writes
        raise ArchiveError(f"{_TRANSCRIPT}: {error}") from None
    return messages


def _session(manifest: _Manifest, file: str) -> Session:
    values = manifest.session.model_dump()
    if values["disk"]:
        values["disk"]["file"] = file
    own = Session(NOBODY, "", "")
    try:
        return Session.from_json({**own.to_json(), **values})
    except ValueError as error:
        raise ArchiveError(f"{_MANIFEST}: {error}") from None


def _header(name: str, size: int) -> bytes:
    """The one header that we write for a file of that name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, FILE_MODE
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _exactly(file: BinaryIO, size: int, what: str) -> Iterator[bytes]:
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise ArchiveError(f"{what} is cut short")
        yield chunk
        size -= len(chunk)


def _dump(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(_dump(values)).hexdigest()
