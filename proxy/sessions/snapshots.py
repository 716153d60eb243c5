"""From a slot to a file and back: nothing is believed that was not checked.

A file is written under a fresh name, compared with what the engine said, parsed and hashed before it counts. It is
parsed and hashed again before the engine may read it: a cut one would abort the engine, a changed one would be restored
without a word (reference: llama.cpp b11434, `llama_context::state_seq_load_file`).
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hugind.proxy.sessions.atrest import private_file
from hugind.proxy.sessions.checksum import checksum as checksum_of
from hugind.proxy.sessions.rates import Rates
from hugind.proxy.sessions.record import Snapshot
from hugind.proxy.sessions.slotfile import SlotFile, SlotFileError, parse, with_streams
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import Saved, SlotActionRefused, WorkerClient
from hugind.supervisor.paths import FILE_MODE

LOOK_TIMEOUT_S = 10

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""Nothing, a link (EMLINK: as FreeBSD says it), or a socket."""


class SnapshotError(Exception):
    """A slot was not saved or not restored; the worker lives."""

    def __init__(self, message: str, *, is_bad: bool = False) -> None:
        """`is_bad`: the file is to blame and will never do."""
        super().__init__(message)
        self.is_bad = is_bad


async def save(
    client: WorkerClient,
    slot: int,
    folder: Path,
    fingerprint: str,
    target: Path | None = None,
    rates: Rates | None = None,
) -> Snapshot:
    """Save an idle slot into a new file of the worker's slot folder, or through it into `target`.

    `rates` learn how fast that was.

    Raises:
        SnapshotError: the engine refused, or what it wrote is not what it said. No file is left.
        WorkerUnreachable: the worker is gone. No file is left.
    """
    state = next((state for state in await client.slots(LOOK_TIMEOUT_S) if state.id == slot), None)
    if state is None or state.is_processing or not state.tokens:
        raise SnapshotError(f"slot {slot} has nothing to save: {state}")
    name = f"{secrets.token_hex(16)}.kv"
    part = folder / f"{name}.part"
    try:
        if target is not None:
            part.symlink_to(target)
        saved = await client.save(slot, part.name)
        if rates is not None:
            rates.saw_save(saved.tokens, saved.size_bytes, saved.seconds)
        snapshot = await asyncio.to_thread(_accept, target or part, saved, state.tokens, fingerprint)
        if target is not None:
            part.unlink()
            return replace(snapshot, file=target.name)
        part.rename(folder / name)
    except BaseException as error:
        for file in (part, target):
            if file is not None:
                file.unlink(missing_ok=True)
        if isinstance(error, (SlotActionRefused, SlotFileError, OSError)) and not isinstance(error, WorkerUnreachable):
            raise SnapshotError(f"not saved: {error}") from error
        raise
    return replace(snapshot, file=name)


async def restore(client: WorkerClient, slot: int, snapshot: Snapshot, source: Path, folder: Path, slots: int) -> None:
    """Fill a slot from the file `source`, checked just now. `slots`: how many the worker has.

    Raises:
        SnapshotError: the file is not what it was, or the engine cannot use it. Assume the slot to be empty.
        WorkerUnreachable: the worker is gone.
    """
    try:
        presented = await asyncio.to_thread(_present, snapshot, source, folder, slots)
    except (SlotFileError, OSError) as error:
        raise SnapshotError(f"{source.name}: {error}", is_bad=isinstance(error, SlotFileError)) from error
    try:
        restored = await client.restore(slot, presented.name)
    except SlotActionRefused as error:
        raise SnapshotError(f"{source.name}: {error.message}", is_bad=True) from error
    finally:
        if presented != source:
            presented.unlink(missing_ok=True)
    if restored != snapshot.tokens:
        raise SnapshotError(f"{source.name}: {restored} tokens restored instead of {snapshot.tokens}", is_bad=True)


def check(path: Path, snapshot: Snapshot) -> SlotFile:
    """Whether a file is still what was saved. Blocks: reads all of it.

    Raises:
        SlotFileError: it is not, or is not there, or is no plain file.
        OSError: it cannot be read just now.
    """
    with _mapped(path) as data:
        _compare(data, snapshot)
        file = parse(data)
    if file.tokens != snapshot.tokens:
        raise SlotFileError(f"{file.tokens} tokens instead of {snapshot.tokens}")
    return file


def check_bytes(path: Path, snapshot: Snapshot) -> None:
    """Whether a file is, byte for byte, still what was saved. Blocks and raises as `check`."""
    with _mapped(path) as data:
        _compare(data, snapshot)


def _compare(data: memoryview, snapshot: Snapshot) -> None:
    if len(data) != snapshot.size_bytes:
        raise SlotFileError(f"{len(data)} bytes instead of {snapshot.size_bytes}")
    if checksum_of(data) != snapshot.checksum:
        raise SlotFileError("its checksum is another")


def _accept(path: Path, saved: Saved, tokens: int, fingerprint: str) -> Snapshot:
    with _mapped(path) as data:
        if len(data) != saved.size_bytes:
            raise SlotFileError(f"{len(data)} bytes on disk, and the engine wrote {saved.size_bytes}")
        file = parse(data)
        checksum = checksum_of(data)
    if not file.tokens == saved.tokens == tokens:
        raise SlotFileError(f"{file.tokens} tokens in the file, {saved.tokens} saved, {tokens} in the slot")
    path.chmod(FILE_MODE)
    return Snapshot("", file.tokens, file.size_bytes, checksum, file.n_stream, fingerprint, time.time())


def _present(snapshot: Snapshot, source: Path, folder: Path, slots: int) -> Path:
    """A name in the slot folder for a file that was checked: itself, a link, or a copy for another slot count."""
    file = check(source, snapshot)
    name = folder / f"{secrets.token_hex(16)}.in"
    if file.n_stream not in (None, slots):
        _write_pieces(source, name, with_streams(file, slots))
        return name
    if source.parent == folder:
        return source
    name.symlink_to(source)
    return name


def _write_pieces(source: Path, target: Path, pieces: list[bytes | slice]) -> None:
    with _mapped(source) as data, private_file(target) as out:
        for piece in pieces:
            out.write(piece if isinstance(piece, bytes) else data[piece])


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a plain file, whatever links somebody planted."""
    try:
        # A named pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise SlotFileError(f"no file: {error.strerror}") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SlotFileError("not a plain file")
        if not status.st_size:
            raise SlotFileError("empty")
        # Not MAP_POPULATE: Python keeps its lock while it maps: all turns would wait for the disk. Hashing lets it go.
        with (
            mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view
    finally:
        os.close(descriptor)
