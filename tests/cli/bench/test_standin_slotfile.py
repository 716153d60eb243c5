"""The stand-in's slot files: written, read, and refused."""

from __future__ import annotations

import struct

import pytest

from hugind.cli.bench.standin_slotfile import (
    SlotFileError,
    SlotFileTruncatedError,
    read_slot_file,
    write_slot_file,
)

TOKENS = b"four byte tokens"


@pytest.mark.parametrize("tokens", [b"", TOKENS])
@pytest.mark.parametrize(("stream", "n_stream"), [(0, 1), (0, 3), (2, 3)])
def test_reads_what_it_wrote(tokens: bytes, stream: int, n_stream: int) -> None:
    """A file gives its tokens back, whichever stream they are in; bytes after its end do not matter."""
    data = write_slot_file(tokens, stream=stream, n_stream=n_stream)

    assert read_slot_file(data, n_stream=n_stream) == tokens
    assert read_slot_file(data + b"garbage", n_stream=n_stream) == tokens


def test_head_is_llama_servers() -> None:
    """Magic, version, word count, marker, version, token count, tokens: as in a file of b11434."""
    data = write_slot_file(TOKENS, stream=0, n_stream=2)

    assert data[:4] == b"qsgg"
    assert struct.unpack_from("<IIiII", data, 4) == (4, 8, -1, 1, 4)
    assert data[24:40] == TOKENS


def test_cut_file_is_told_from_a_foreign_one() -> None:
    """Every cut behind the tokens is a truncation; other heads and layouts are errors."""
    data = write_slot_file(TOKENS, stream=0, n_stream=2)
    for length in range(40, len(data)):
        with pytest.raises(SlotFileTruncatedError):
            read_slot_file(data[:length], n_stream=2)
    for foreign in (b"", b"x" * 200, data[:8] + b"\x00" + data[9:]):
        with pytest.raises(SlotFileError):
            read_slot_file(foreign, n_stream=2)
    with pytest.raises(SlotFileError):
        read_slot_file(data, n_stream=4)
