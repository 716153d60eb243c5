"""Caches in a slot file are measured without trusting a number in them."""

from __future__ import annotations

import struct

import pytest

from hugind.proxy.sessions.slotfile_caches import (
    Checkpoint,
    Region,
    SlotFileError,
    alternatives,
    read_cache,
    read_checkpoints,
    read_recurrent,
)
from tests.proxy.sessions import slotfile_parts as parts

SIX = range(6)
BEFORE = b"before"


def region(data: bytes) -> Region:
    """All of `data`, behind something else."""
    return Region(BEFORE + data, len(BEFORE + data))


@pytest.mark.parametrize(
    "full",
    [
        parts.stream(SIX),
        parts.stream(SIX, kind=parts.Q8_0, row_bytes=68),
        parts.stream(SIX, is_transposed=True),
        parts.stream(SIX, has_places=True),
        parts.stream(SIX, has_places=True, is_transposed=True),
        parts.stream((0, 0, 0, 1, 2, 5), has_places=True),
        parts.stream((5, 4, 3, 2, 1, 0)),
        parts.stream(SIX, sequence=3),
    ],
    ids=["f16", "q8_0", "transposed", "m-rope", "m-rope transposed", "m-rope image", "any order", "another sequence"],
)
@pytest.mark.parametrize(("n_stream", "at"), [(1, 0), (3, 0), (3, 2)])
def test_attention_cache(full: bytes, n_stream: int, at: int) -> None:
    """The cells and the streams of an attention cache are found, wherever in it they are."""
    data = parts.cache(full, n_stream=n_stream, at=at)

    found = [one for one in read_cache(region(data), len(BEFORE), 6, is_full=True) if one.end == len(BEFORE + data)]

    assert [(6, n_stream, at)] == [(one.cells, one.n_stream, one.stream) for one in found]
    assert full == (BEFORE + data)[found[0].body]


def test_cache_without_values() -> None:
    """A layer of latent attention has K only."""
    data = parts.cache(parts.stream(SIX, has_values=False))

    (found,) = read_cache(region(data), len(BEFORE), 6, is_full=True)

    assert len(BEFORE + data) == found.end


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("=I", 0), "0 streams"),
        (struct.pack("=I", 257), "257 streams"),
        (parts.cache(b"", n_stream=4, at=0) + bytes(4), "no stream with cells"),
        (struct.pack("=I", 2) + parts.stream(SIX) * 2, "a second stream with cells"),
        (parts.cache(parts.stream(range(5))), "5 cells for 6 tokens"),
        (parts.cache(parts.stream((0, 1, 2, 3, 4, 6))), "outside of 6 tokens"),
        (parts.cache(parts.stream((-1, 1, 2, 3, 4, 5))), "outside of 6 tokens"),
        (parts.cache(parts.stream((0, 0, 1, 2, 3, 4))), "two cells at one position"),
        (parts.cache(parts.stream(SIX, sequence=256)), "not of one sequence"),
        (parts.cache(parts.stream(SIX, layers=513)), "no head of an attention cache"),
        (parts.cache(parts.stream(SIX, kind=5)), "a row of type 5 with 8 bytes"),
        (parts.cache(parts.stream(SIX, row_bytes=7)), "a row of type 1 with 7 bytes"),
        (parts.cache(parts.stream(SIX, row_bytes=0)), "a row of type 1 with 0 bytes"),
        (parts.cache(struct.pack("=I", 6) + parts.cells(SIX, owners=0)), "not of one sequence"),
        (
            struct.pack("=II", 1, 6)
            + parts.cells(SIX)
            + struct.pack("=IIII", 0, 1, 0, 0)
            + struct.pack("=iQ", 1, 1 << 62),
            "a tensor would take",
        ),
    ],
)
def test_bad_attention_cache(data: bytes, words: str) -> None:
    """A number that cannot be right is named."""
    with pytest.raises(SlotFileError, match=words):
        read_cache(region(data), len(BEFORE), 6, is_full=True)


def test_window() -> None:
    """A cache with a sliding window has the last cells only."""
    data = parts.cache(parts.stream((4, 5, 3)))

    found = read_cache(region(data), len(BEFORE), 6, is_full=False)

    assert 3 == found[0].cells


@pytest.mark.parametrize("states", [1, 2])
def test_recurrent_cache(states: int) -> None:
    """A recurrent cache has two states for some of the layers, and ends with the file or before checkpoints."""
    data = parts.recurrent(5, states=states)
    followed = data + parts.checkpoints(tokens=3)

    assert len(BEFORE + data) == read_recurrent(region(data), len(BEFORE), 6)
    assert len(BEFORE + data) == read_recurrent(region(followed), len(BEFORE), 6)


def test_states_may_be_empty() -> None:
    """Models with short convolutions have nothing in the second state."""
    data = parts.recurrent(5, rows=(12, 0))

    assert len(BEFORE + data) == read_recurrent(region(data), len(BEFORE), 6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (parts.recurrent(6), "position outside of 6 tokens"),
        (parts.recurrent(5, layers=0), "no head of a recurrent cache"),
        (parts.recurrent(5, states=3), "6 states that are not two of each layer, of 2"),
        (parts.recurrent(5)[: -len(parts.tensor(1, 16))], "3 states"),
        (parts.recurrent(5)[: -2 * len(parts.tensor(1, 16))] + parts.tensor(1, 20, 0), "3 states"),
        (parts.recurrent(5, rows=(12, 12)), "4 states"),
        (parts.recurrent(5) + b"xyz", "a number would take 12 bytes where 3 are left"),
        (struct.pack("=IiIII", 2, 5, 0, 0, 1), "no head of a recurrent cache"),
    ],
)
def test_bad_recurrent_cache(data: bytes, words: str) -> None:
    """States that do not pair up mean that some are missing."""
    with pytest.raises(SlotFileError, match=words):
        read_recurrent(region(data), len(BEFORE), 6)


WINDOW = parts.cache(parts.stream((2, 3)), n_stream=2)
STATE = parts.recurrent(3)


@pytest.mark.parametrize(
    ("state", "has_window", "is_recurrent"),
    [(WINDOW, True, False), (STATE, False, True), (WINDOW + STATE, True, True)],
    ids=["window", "recurrent", "both"],
)
def test_checkpoints(state: bytes, has_window: bool, is_recurrent: bool) -> None:
    """A checkpoint holds the caches that cannot be rewound; each byte is accounted for."""
    data = parts.checkpoints(state, state, tokens=4)

    found = read_checkpoints(region(data), len(BEFORE), has_window=has_window, is_recurrent=is_recurrent)

    assert [4, 4] == [one.tokens for one in found]
    assert [int(has_window)] * 2 == [len(one.caches) for one in found]
    assert [len(state) + 8] * 2 == [one.size_bytes for one in found]
    assert [len(state) + 8] * 2 == [struct.unpack_from("=Q", BEFORE + data, one.size_at)[0] for one in found]
    for end in range(1, len(data)):
        with pytest.raises(SlotFileError):
            read_checkpoints(region(data[:end]), len(BEFORE), has_window=has_window, is_recurrent=is_recurrent)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SCKP" + struct.pack("=II", 2, 0), "checkpoints of version 2"),
        (parts.checkpoints(WINDOW, tokens=4) + b"x", "1 bytes too many after the checkpoints"),
        (parts.checkpoints(WINDOW + b"abcd", tokens=4), "4 bytes too many in a checkpoint"),
        (parts.checkpoints(WINDOW, tokens=3), "outside of 3 tokens"),
        (b"SCKP" + struct.pack("=IIqiiQ", 1, 1, 4, 0, 3, 8) + bytes(24), "no state in a checkpoint"),
        (b"SCKP" + struct.pack("=II", 1, 0xFFFFFFFF), "a number would take"),
        (b"SCKP" + struct.pack("=IIqiiQ", 1, 1, 4, 0, 3, 1 << 63), "a checkpoint would take"),
    ],
)
def test_bad_checkpoints(data: bytes, words: str) -> None:
    """Checkpoints that are not understood are refused: an engine would skip them without a word."""
    with pytest.raises(SlotFileError, match=words):
        read_checkpoints(region(data), len(BEFORE), has_window=True, is_recurrent=False)


def test_no_checkpoints() -> None:
    """Older engines, and models that need none, write none."""
    none: list[Checkpoint] = read_checkpoints(region(b""), len(BEFORE), has_window=True, is_recurrent=False)

    assert none == []


def test_alternatives() -> None:
    """The failure that is told is that of the way which came furthest."""

    def fail(at: int) -> list[int]:
        raise SlotFileError(f"at {at}", at=at)

    assert [1, 2] == alternatives(lambda: [1], lambda: fail(9), lambda: [2])
    with pytest.raises(SlotFileError, match="at 7"):
        alternatives(lambda: fail(3), lambda: fail(7), lambda: fail(5))
