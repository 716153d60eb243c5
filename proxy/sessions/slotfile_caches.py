"""Read the caches inside a slot file of llama-server: how long each is, and whether it makes sense. Pure.

`slotfile.py` tells what follows what. Nothing in the file says whether cells have places for M-RoPE and whether
layers have V, so an attention cache is tried in every way, and what follows it decides.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from mmap import mmap

Data: TypeAlias = "bytes | bytearray | memoryview | mmap"

CHECKPOINTS_MAGIC = int.from_bytes(b"SCKP", "little")

_CHECKPOINTS_VERSION = 1
_STATE_MAGIC = 0xAF143CD8
_MAX_STREAMS = 256  # LLAMA_MAX_SEQ
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_ROTATION = 4096
_BLOCK_BYTES = {0: 4, 1: 2, 2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 30: 2}
"""By ggml type: f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl and bf16, which is what `--cache-type-k` knows."""

_Found = TypeVar("_Found")


class SlotFileError(Exception):
    """A file that no engine may be given. The message says what is wrong; `at` is the byte where."""

    def __init__(self, message: str, *, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True)
class Cache:
    """One attention cache of a slot. Offsets are in bytes from the start of the file."""

    start: int
    n_stream: int
    stream: int
    """The only stream with cells: where the cache is split, the slot that was saved."""
    cells: int
    body: slice
    """That stream: its count of cells, the cells, K and V."""
    has_values: bool
    """It has V. Latent attention has none; any other cache without was cut."""
    end: int


@dataclass(frozen=True)
class Checkpoint:
    """An earlier state, for going back where the last tokens cannot just be forgotten."""

    tokens: int
    size_at: int
    """Where its size is written."""
    size_bytes: int
    caches: tuple[Cache, ...]


@dataclass(frozen=True)
class Region:
    """Bytes of a file up to `end`, none of which is read before it is known to be there."""

    data: Data
    end: int

    def unpack(self, at: int, form: str) -> tuple[int, ...]:
        """Numbers as `struct` reads them."""
        self.skip(at, struct.calcsize(form), "a number")
        return struct.unpack_from(form, self.data, at)

    def skip(self, at: int, size: int, what: str) -> int:
        """Where `size` bytes from `at` end."""
        if at + size > self.end:
            raise SlotFileError(f"{what} would take {size} bytes where {max(0, self.end - at)} are left", at=at)
        return at + size

    def int32s(self, at: int, count: int) -> array[int]:
        """A copy of so many numbers."""
        values = array("i")
        values.frombytes(self.data[at : self.skip(at, 4 * count, "a list")])
        return values

    def is_over(self, at: int) -> bool:
        """Nothing or checkpoints come next. No type of a tensor and no number of streams looks like checkpoints."""
        return at == self.end or (at + 4 <= self.end and self.unpack(at, "=I")[0] == CHECKPOINTS_MAGIC)


def alternatives(*ways: Callable[[], list[_Found]]) -> list[_Found]:
    """What the ways that do not fail come to, together.

    Raises:
        SlotFileError: all failed; of the one that came furthest.
    """
    found: list[_Found] = []
    failures: list[SlotFileError] = []
    for way in ways:
        try:
            found += way()
        except SlotFileError as error:
            failures.append(error)
    if not found:
        raise max(failures, key=lambda failure: failure.at)
    return found


def read_cache(region: Region, at: int, tokens: int, *, is_full: bool) -> list[Cache]:
    """Every way to understand the attention cache at `at`. A full one has a cell for each token.

    Raises:
        SlotFileError: there is none.
    """
    return alternatives(
        *(
            partial(_read_cache, region, at, tokens, is_full=is_full, has_places=has_places, has_values=has_values)
            for has_places in (False, True)
            for has_values in (True, False)
        )
    )


def read_recurrent(region: Region, at: int, tokens: int) -> int:
    """Where the recurrent cache at `at` ends. One state stands for all tokens before it, so there is one cell.

    R is of one size, and S of another (`llama_hparams::n_embd_r`, `n_embd_s`): so it shows where some of S is missing.

    Raises:
        SlotFileError: there is none.
    """
    cells, position, owners, transposed, layers = region.unpack(at, "=IiIII")
    if (cells, owners, transposed) != (1, 0, 0) or not 1 <= layers <= _MAX_LAYERS:
        raise SlotFileError("no head of a recurrent cache", at=at)
    if not 0 <= position < tokens:
        raise SlotFileError(f"a state at a position outside of {tokens} tokens", at=at)
    at += 20
    rows: list[tuple[int, int]] = []
    while not region.is_over(at):
        at, row = _skip_rows(region, at, 1, may_be_empty=True)
        rows.append(row)
    half = len(rows) // 2
    kinds = set(rows[:half]), set(rows[half:])
    if len(rows) % 2 or not 1 <= half <= layers or [len(one) for one in kinds] != [1, 1] or kinds[0] == kinds[1]:
        raise SlotFileError(f"{len(rows)} states that are not two of each layer, of {layers}", at=at)
    return at


def read_checkpoints(region: Region, at: int, *, has_window: bool, is_recurrent: bool) -> list[Checkpoint]:
    """The checkpoints from `at` to the end, if there are any. They hold what cannot be rewound, and nothing else.

    Raises:
        SlotFileError: they are not as they should be.
    """
    if at == region.end:
        return []
    _, version, count = region.unpack(at, "=III")
    if version != _CHECKPOINTS_VERSION:
        raise SlotFileError(f"checkpoints of version {version}", at=at)
    at += 12
    checkpoints = []
    for _ in range(count):
        tokens, _, _, size = region.unpack(at, "=qiiQ")
        size_at = at + 16
        at = region.skip(at + 24, size, "a checkpoint")
        state = Region(region.data, at)
        found = _read_state(state, at - size, tokens, has_window=has_window, is_recurrent=is_recurrent)
        checkpoints.append(Checkpoint(tokens, size_at, size, found))
        for what in ("a draft's checkpoint", "a speculation's state"):
            (size,) = region.unpack(at, "=Q")
            at = region.skip(at + 8, size, what)
    if at != region.end:
        raise SlotFileError(f"{region.end - at} bytes too many after the checkpoints", at=at)
    return checkpoints


def _read_state(region: Region, at: int, tokens: int, *, has_window: bool, is_recurrent: bool) -> tuple[Cache, ...]:
    magic, _ = region.unpack(at, "=Ii")
    if magic != _STATE_MAGIC:
        raise SlotFileError("no state in a checkpoint", at=at)

    def close(at: int, *caches: Cache) -> list[tuple[Cache, ...]]:
        end = read_recurrent(region, at, tokens) if is_recurrent else at
        if end != region.end:
            raise SlotFileError(f"{region.end - end} bytes too many in a checkpoint", at=end)
        return [caches]

    if not has_window:
        return close(at + 8)[0]
    ways = read_cache(region, at + 8, tokens, is_full=False)
    found = alternatives(*(partial(close, cache.end, cache) for cache in ways))
    if len(found) > 1:
        raise SlotFileError("an ambiguous checkpoint", at=at)
    return found[0]


def _read_cache(
    region: Region, start: int, tokens: int, *, is_full: bool, has_places: bool, has_values: bool
) -> list[Cache]:
    (n_stream,) = region.unpack(start, "=I")
    if not 1 <= n_stream <= _MAX_STREAMS:
        raise SlotFileError(f"{n_stream} streams", at=start)
    at = start + 4
    found: tuple[int, int, slice] | None = None
    for stream in range(n_stream):
        begin = at
        (cells,) = region.unpack(begin, "=I")
        at += 4
        if cells:
            if found:
                raise SlotFileError("a second stream with cells", at=begin)
            at = _check_cells(region, at, cells, tokens, is_full=is_full, has_places=has_places)
            at = _check_tensors(region, at, cells, has_values=has_values)
            found = stream, cells, slice(begin, at)
    if not found:
        raise SlotFileError("no stream with cells", at=start)
    stream, cells, body = found
    return [Cache(start, n_stream, stream, cells, body, has_values, at)]


def _check_cells(region: Region, at: int, cells: int, tokens: int, *, is_full: bool, has_places: bool) -> int:
    if cells > tokens or (is_full and cells != tokens):
        raise SlotFileError(f"{cells} cells for {tokens} tokens", at=at - 4)
    words = 6 if has_places else 3
    values = region.int32s(at, words * cells)
    positions, owners, sequences = values[0::words], values[1::words], values[words - 1 :: words]
    if set(owners) != {1} or len(set(sequences)) != 1 or not 0 <= sequences[0] < _MAX_STREAMS:
        raise SlotFileError("cells that are not of one sequence", at=at)
    if not 0 <= min(positions) <= max(positions) < tokens:
        raise SlotFileError(f"a cell at a position outside of {tokens} tokens", at=at)
    if not has_places and len(set(positions)) != cells:
        raise SlotFileError("two cells at one position", at=at)
    return at + 4 * len(values)


def _check_tensors(region: Region, at: int, cells: int, *, has_values: bool) -> int:
    transposed, layers, *rotations = region.unpack(at, "=IIII")
    if transposed > 1 or layers > _MAX_LAYERS or max(rotations) > _MAX_ROTATION:
        raise SlotFileError("no head of an attention cache", at=at)
    at += 16
    for _ in range(layers):
        at, _ = _skip_rows(region, at, cells)
    for _ in range(layers if has_values else 0):
        at = _skip_transposed(region, at, cells) if transposed else _skip_rows(region, at, cells)[0]
    return at


def _skip_rows(region: Region, at: int, rows: int, *, may_be_empty: bool = False) -> tuple[int, tuple[int, int]]:
    """Where a tensor with a row a cell ends, its type and the bytes of a row."""
    kind, size = region.unpack(at, "=iQ")
    if kind not in _BLOCK_BYTES or size % _BLOCK_BYTES[kind] or not (size or may_be_empty):
        raise SlotFileError(f"a row of type {kind} with {size} bytes", at=at)
    return region.skip(at + 12, size * rows, "a tensor"), (kind, size)


def _skip_transposed(region: Region, at: int, cells: int) -> int:
    kind, size, rows = region.unpack(at, "=iII")
    if _BLOCK_BYTES.get(kind) != size or size > 4 or not rows:
        raise SlotFileError(f"{rows} transposed rows of type {kind} with {size} bytes", at=at)
    return region.skip(at + 12, size * rows * cells, "a tensor")
