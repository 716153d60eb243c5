"""How snapshots and transcripts lie on disk: as they are, compressed, or encrypted with a key for each owner.

A packed file is a header and records, each of up to 1 MiB of what was packed, so that memory is bounded both ways:

    b"hgnd", version 1, flags (1: compressed, 2: encrypted), and if encrypted 32 random bytes
    each record             u32 size, the top bit set in the last one (little endian); as many bytes

What is in a record is compressed first (a zstd frame with its checksum), then encrypted, as STREAM does it (Hoang,
Reyhanitabar, Rogaway, Vizár 2015): ChaCha20-Poly1305 with the record's number and whether it is the last as nonce, so
that a record that was changed, moved, dropped or added does not decrypt. The random bytes make a key of its own for
every file (HKDF-SHA256): no nonce is ever used twice. Header and `bound_to` are authenticated with each record.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hugind.supervisor.paths import DIRECTORY_MODE, FILE_MODE, sync_folder

CHUNK = 1 << 20
KEY_BYTES = 32

HEADER_BYTES = 6

_MAGIC, _VERSION = b"hgnd", 1
_COMPRESSED, _ENCRYPTED = 1, 2
_SALT_BYTES, _TAG_BYTES = 32, 16
_LAST = 1 << 31
_MAX_RECORD = CHUNK + CHUNK // 128 + 1024
"""Of what does not compress, zstd makes a little more."""
_COPY_BYTES = 1 << 26
_DIGEST = re.compile(r"[0-9a-f]{8,128}")
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTSOCK, errno.EPERM)


class AtRestError(Exception):
    """What is on disk is not what was put there, or the key is another one. The message says which."""


def pack(source: Path, target: Path, *, key: bytes | None, compress: bool, bound_to: str = "") -> None:
    """Write `target` (mode 0600) from `source`, and have it on disk. Blocks. Neither may be a link.

    With neither key nor compression it is a plain copy, without a header. `bound_to` is something that `unpack` must
    know as well, if there is a key: with it, a file does not pass for another one of the same key.

    Raises:
        OSError: no source, no room, or `target` is there (and stays as it is). Otherwise nothing is left of it.
    """
    with opened(source) as plain, private_file(target) as packed:
        if key is None and not compress:
            _copy(plain.fileno(), packed.fileno())
        else:
            _pack(plain, packed, key, compress=compress, bound_to=bound_to)
        packed.flush()
        os.fsync(packed.fileno())


def unpack(source: Path, target: Path, *, key: bytes | None, bound_to: str = "") -> None:
    """Write `target` (mode 0600) with what `pack` got to make `source`. Blocks; does not wait for the disk.

    Raises:
        AtRestError: the source is damaged or no packed file (a plain copy is none), or the key is not the one.
        OSError: as `pack`. In both cases nothing is left of `target`, unless it was there before.
    """
    with opened(source) as packed, private_file(target) as plain:
        _unpack(packed, plain, key, bound_to)


def seal(data: bytes, *, key: bytes | None, compress: bool, bound_to: str = "") -> bytes:
    """As `pack`, for something small. Without a key it is compressed in any case, for the checksum."""
    packed = io.BytesIO()
    _pack(io.BytesIO(data), packed, key, compress=compress or key is None, bound_to=bound_to)
    return packed.getvalue()


def unseal(data: bytes, *, key: bytes | None, bound_to: str = "") -> bytes:
    """What `seal` got.

    Raises:
        AtRestError: it is damaged, or the key is not the one.
    """
    plain = io.BytesIO()
    _unpack(io.BytesIO(data), plain, key, bound_to)
    return plain.getvalue()


def is_encrypted(data: bytes) -> bool:
    """Whether a packed file that begins so needs a key. Says nothing of whether it is one."""
    return len(data) >= HEADER_BYTES and data.startswith(_MAGIC) and bool(data[HEADER_BYTES - 1] & _ENCRYPTED)


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, removed if the block fails, or if it cannot be written out at the end of it. Blocks.

    Raises:
        OSError: something is there, even if it is a link that leads nowhere; or it cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class KeyFolder:
    """The keys of owners, a file each, made when first asked for. Threads and processes may share the folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def key(self, owner_digest: str) -> bytes:
        """The key of an owner; it is on disk before anything can be sealed with it. Blocks on the disk.

        Raises:
            ValueError: that is no digest.
            AtRestError: the file of the key is damaged; nobody replaces it.
            OSError: it cannot be read or made.
        """
        path = self._file(owner_digest)
        with self._lock:
            try:
                return _read_key(path)
            except FileNotFoundError:
                self._make(path)
                return _read_key(path)

    def forget(self, owner_digest: str) -> None:
        """Overwrite and remove the key of an owner: what it sealed can be read no more. Blocks on the disk.

        No key is fine. A disk that writes changes elsewhere (flash, copy-on-write) may hold the old one for a while.

        Raises:
            ValueError: that is no digest.
            OSError: it cannot be removed.
        """
        path = self._file(owner_digest)
        with self._lock:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            with os.fdopen(descriptor, "wb") as file:
                # Not zeros: another process may be reading it just now, and would seal with what it finds.
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink(missing_ok=True)
            sync_folder(self._path)

    def _file(self, owner_digest: str) -> Path:
        if not _DIGEST.fullmatch(owner_digest):
            raise ValueError(f"{owner_digest!r} is not a digest")
        return self._path / f"{owner_digest}.key"

    def _make(self, path: Path) -> None:
        self._path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self._path.chmod(DIRECTORY_MODE)
        temporary = path.with_name(f".{secrets.token_hex(16)}.tmp")
        try:
            with private_file(temporary) as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link does not replace the key that another process made in the meantime.
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(self._path)


def _read_key(path: Path) -> bytes:
    with opened(path) as file:
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise AtRestError(f"the key in {path} is damaged")
    return key


def _pack(plain: BinaryIO, packed: BinaryIO, key: bytes | None, *, compress: bool, bound_to: str) -> None:
    flags = (_COMPRESSED if compress else 0) | (_ENCRYPTED if key is not None else 0)
    salt = secrets.token_bytes(_SALT_BYTES) if key is not None else b""
    header = _MAGIC + bytes((_VERSION, flags)) + salt
    packed.write(header)
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True) if compress else None
    cipher = _Cipher(key, salt, header, bound_to) if key is not None else None
    for number, (chunk, is_last) in enumerate(_chunks(plain)):
        # An empty frame is not checked when it is read.
        record = compressor.compress(chunk) if compressor and chunk else chunk
        if cipher:
            record = cipher.encrypt(record, number, is_last=is_last)
        packed.write(struct.pack("<I", len(record) | (_LAST if is_last else 0)))
        packed.write(record)


def _unpack(packed: BinaryIO, plain: BinaryIO, key: bytes | None, bound_to: str) -> None:
    header = packed.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise AtRestError("not a packed file")
    version, flags = header[-2:]
    if version != _VERSION or flags not in (_COMPRESSED, _ENCRYPTED, _COMPRESSED | _ENCRYPTED):
        raise AtRestError(f"packed in a way that is not known here (version {version}, flags {flags})")
    cipher = None
    if flags & _ENCRYPTED:
        if key is None:
            raise AtRestError("it is encrypted, and there is no key")
        salt = packed.read(_SALT_BYTES)
        cipher = _Cipher(key, salt, header + salt, bound_to)
    elif key is not None:
        raise AtRestError("it is not encrypted, and must be")
    decompressor = zstandard.ZstdDecompressor() if flags & _COMPRESSED else None
    for number, (record, is_last) in enumerate(_records(packed)):
        chunk = cipher.decrypt(record, number, is_last=is_last) if cipher else record
        plain.write(_decompress(decompressor, chunk) if decompressor and chunk else chunk)


class _Cipher:
    """Encrypts the records of one file, or decrypts them."""

    def __init__(self, key: bytes, salt: bytes, header: bytes, bound_to: str) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        own = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"hugind at rest").derive(key)
        self._cipher = ChaCha20Poly1305(own)
        self._about = header + bound_to.encode()

    def encrypt(self, chunk: bytes, number: int, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(number, is_last=is_last), chunk, self._about)

    def decrypt(self, record: bytes, number: int, *, is_last: bool) -> bytes:
        try:
            return self._cipher.decrypt(_nonce(number, is_last=is_last), record, self._about)
        except InvalidTag:
            raise AtRestError("it was changed, or encrypted with another key") from None


def _nonce(number: int, *, is_last: bool) -> bytes:
    return struct.pack(">3xQ?", number, is_last)


def _decompress(decompressor: zstandard.ZstdDecompressor, frame: bytes) -> bytes:
    try:
        if not 0 < zstandard.get_frame_parameters(frame).content_size <= CHUNK:
            raise AtRestError("a record claims a size that none has")
        return decompressor.decompress(frame, max_output_size=CHUNK, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise AtRestError(f"it was changed: {error}") from None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """At least one, and which is the last."""
    chunk = file.read(CHUNK)
    while following := file.read(CHUNK):
        yield chunk, False
        chunk = following
    yield chunk, True


def _records(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Up to the last; nothing may follow that."""
    is_last = False
    while not is_last:
        head = file.read(4)
        if len(head) < 4:
            raise AtRestError("the end is missing")
        (size,) = struct.unpack("<I", head)
        is_last, size = bool(size & _LAST), size & ~_LAST
        if size > _MAX_RECORD:
            raise AtRestError("a record claims a size that none has")
        record = file.read(size)
        if len(record) < size:
            raise AtRestError("the end is missing")
        if is_last and file.read(1):
            raise AtRestError("something was added at the end")
        yield record, is_last


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file, to read. Blocks.

    Raises:
        OSError: there is none, or something else is there: a link (ELOOP), a pipe (EINVAL).
    """
    # A named pipe would wait for its other end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        yield file


class _Way(Protocol):
    def __call__(self, source: int, target: int, at: int, /) -> int: ...


def _copy(source: int, target: int) -> None:
    """By the fastest way that the system and the two filesystems have: best without the bytes passing through here."""
    ways = _ways()
    size, at = os.fstat(source).st_size, 0
    while at < size:
        try:
            copied = ways[0](source, target, at)
        except OSError as error:
            if at or error.errno not in _CANNOT or len(ways) == 1:
                raise
            copied = 0
        # Some filesystems say "nothing left" where they mean "not this way".
        if copied == 0:
            ways = ways[1:]
            if at or not ways:
                raise OSError(errno.EIO, "the source has become shorter")
        at += copied


def _ways() -> list[_Way]:
    ways: list[_Way] = []
    if hasattr(os, "copy_file_range"):
        ways.append(lambda source, target, at: os.copy_file_range(source, target, _COPY_BYTES, at, at))
    if hasattr(os, "sendfile"):
        ways.append(lambda source, target, at: os.sendfile(target, source, at, _COPY_BYTES))
    return [*ways, lambda source, target, at: _write_all(target, os.pread(source, CHUNK, at))]


def _write_all(target: int, data: bytes) -> int:
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]
    return len(data)
