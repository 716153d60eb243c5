"""A slot file as llama-server writes it (GGSQ, version 4), with one small layer of made-up cache. Pure."""

from __future__ import annotations

import struct

_MAGIC, _VERSION = 0x67677371, 4
_TOKENS_VERSION = 1
_F16 = 1
_ROW_BYTES = 8


class SlotFileError(Exception):
    """A file that llama-server refuses with 400."""


class SlotFileTruncatedError(Exception):
    """A file that makes llama-server abort: its header is fine and its end is missing."""


def write_slot_file(tokens: bytes, *, stream: int, n_stream: int) -> bytes:
    """The file of a slot. `tokens` are four bytes each; a unified cache has one stream, a split one a stream a slot."""
    count = len(tokens) // 4
    parts = [_head(count), tokens, struct.pack("<II", 0, n_stream)]
    for i in range(n_stream):
        if i != stream or not count:
            parts.append(struct.pack("<I", 0))
            continue
        parts.append(struct.pack("<I", count))
        parts += [struct.pack("<iIi", position, 1, 0) for position in range(count)]
        parts.append(struct.pack("<IIII", 0, 1, 0, 0))
        for salt in (0x4B, 0x56):  # K and V
            parts.append(struct.pack("<iQ", _F16, _ROW_BYTES))
            parts += [bytes(byte ^ salt for byte in tokens[at : at + 4]) * 2 for at in range(0, len(tokens), 4)]
    return b"".join(parts)


def read_slot_file(data: bytes, *, n_stream: int) -> bytes:
    """The tokens of a slot file. Bytes after its end are ignored, and so is what the cache holds: llama-server, too.

    Raises:
        SlotFileError: not such a file, or of another layout.
        SlotFileTruncatedError: it ends too early.
    """
    if len(data) < 24:
        raise SlotFileError("too short")
    magic, version, words, marker, tokens_version, count = struct.unpack_from("<IIIiII", data)
    if (magic, version, marker, tokens_version) != (_MAGIC, _VERSION, -1, _TOKENS_VERSION) or words != count + 4:
        raise SlotFileError("wrong magic, version or count")
    at = 24 + 4 * count
    if len(data) < at + 8:
        raise SlotFileTruncatedError
    if struct.unpack_from("<I", data, at + 4)[0] != n_stream:
        raise SlotFileError("another number of streams")
    if len(data) < _file_size(count, n_stream):
        raise SlotFileTruncatedError
    return data[24:at]


def _head(count: int) -> bytes:
    return struct.pack("<IIIiII", _MAGIC, _VERSION, count + 4, -1, _TOKENS_VERSION, count)


def _file_size(count: int, n_stream: int) -> int:
    cells = 12 * count + 16 + 2 * (12 + _ROW_BYTES * count) if count else 0
    return 24 + 4 * count + 8 + 4 * n_stream + cells
