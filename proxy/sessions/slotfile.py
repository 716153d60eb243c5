"""Read and check a slot file of llama-server, so that a broken one is never handed to an engine. Pure.

The format is "GGSQ" version 4; numbers are in the byte order of the machine. It is documented nowhere: this is what
the sources of llama.cpp b11434 and b11549 write (`server_tokens::serialize` in `tools/server/server-common.cpp`, the
`state_write` functions of `src/llama-kv-cache*.cpp` and `src/llama-memory-*.cpp`, and `save_slot_checkpoints` in
`tools/server/server-context.cpp`, which b11434 has not):

    u32 magic, version, words      then `words` times four bytes:
        i32 -1; u32 1; u32 tokens; i32 ids; u32 media; u32 where each starts; each u32 size and bytes; padding
    0, 1 or 2 attention caches     u32 streams; each stream is a u32 count of cells and, if that is not 0:
        each cell                  i32 position; u32 1; (M-RoPE: i32 x, y, token); i32 sequence
        u32 transposed, layers, rotation of K, of V
        each layer's K, then V     i32 type; u64 bytes of a row; a row a cell (latent attention has no V)
        or V transposed            i32 type; u32 bytes of an element; u32 rows; in each as many elements as cells
    0 or 1 recurrent cache         u32 1; i32 position; u32 0; u32 0; u32 layers
        R of some layers, then S   i32 type; u64 bytes of a row; one row
    nothing, or checkpoints        "SCKP"; u32 1; u32 count
        each                       i64 tokens; i32 first and last position; three times u64 size and bytes:
        the model's                u32 magic; i32 sequence; the last attention cache (of two); the recurrent cache
        the draft model's, its speculation's

Nothing says which caches follow: a file is understood if exactly one reading explains all of its bytes.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass
from functools import partial
from typing import Literal

from hugind.proxy.sessions.slotfile_caches import (
    Cache,
    Checkpoint,
    Data,
    Region,
    SlotFileError,
    alternatives,
    read_cache,
    read_checkpoints,
    read_recurrent,
)

__all__ = ["Layout", "SlotFile", "SlotFileError", "parse", "token_ids", "tokens_digest", "with_streams"]

Layout = Literal["attention", "swa", "recurrent", "hybrid", "hybrid-swa"]

_MAGIC, _VERSION = 0x67677371, 4
_MARKER, _TOKENS_VERSION = -1, 1

_LAYOUTS: dict[tuple[int, bool], Layout] = {
    (1, False): "attention",
    (2, False): "swa",
    (0, True): "recurrent",
    (1, True): "hybrid",
    (2, True): "hybrid-swa",
}
"""By the number of attention caches, and whether there is a recurrent one."""


@dataclass(frozen=True)
class SlotFile:
    """What a slot file holds, without its data."""

    tokens: int
    media: int
    """Images and sounds among the tokens. They restore only where the engine has an mmproj."""
    layout: Layout
    """"swa" says no more than two attention caches: models with an index for sparse attention have them, too."""
    caches: tuple[Cache, ...]
    """The attention caches. With a sliding window: the full one, then one with the cells of the last window."""
    checkpoints: tuple[Checkpoint, ...]
    size_bytes: int

    @property
    def cells(self) -> int:
        """Cells of the first attention cache; 0 if there is none."""
        return self.caches[0].cells if self.caches else 0

    @property
    def n_stream(self) -> int | None:
        """Streams that the attention caches carry: 1 if unified, else the slot count. None: there is no such cache."""
        return self.caches[0].n_stream if self.caches else None

    @property
    def is_whole(self) -> bool:
        """It holds the state at every token, so any prefix of it can be taken up.

        Of a sliding window only the end is saved, even with `--swa-full`. An engine with that flag does not know it:
        asked for a prompt that leaves a restored one within its last window, it takes up the prefix and attends to
        cells that are not there. The answer is wrong and nothing says so (seen with b11549).
        """
        return self.layout in ("attention", "swa") and all(cache.cells == self.tokens for cache in self.caches)

    @property
    def all_caches(self) -> tuple[Cache, ...]:
        """Those in its checkpoints, too."""
        return (*self.caches, *(cache for checkpoint in self.checkpoints for cache in checkpoint.caches))


def parse(data: Data) -> SlotFile:
    """Check every length in a slot file against the others and against the size. Reads no tensor data.

    A file that was cut exactly behind a cache is a whole file of another layout, or one without checkpoints; cut
    behind the last K, it is one of a model without V. So compare `size_bytes` with what the engine says it wrote,
    and `layout` with what the model has. What the tensors hold is not looked at: that takes a checksum.

    Raises:
        SlotFileError: it is cut, has something appended, contradicts itself, holds no tokens or is not understood.
    """
    region = Region(data, len(data))
    tokens, media, start = _read_tokens(region)
    try:
        readings = _readings(region, start, tokens, ())
    except SlotFileError as error:
        raise SlotFileError(f"{error}, at byte {error.at} of {len(data)}", at=error.at) from None
    if len(readings) > 1:
        raise SlotFileError(f"ambiguous: can be read as {' and as '.join(one[0] for one in readings)}", at=start)
    file = SlotFile(tokens, media, *readings[0], len(data))
    if len({cache.n_stream for cache in file.all_caches}) > 1:
        raise SlotFileError("its caches have different numbers of streams", at=start)
    return file


def token_ids(data: Data) -> array[int]:
    """The tokens that a slot file was saved with; -1 stands for a piece of an image or a sound.

    Raises:
        SlotFileError: its header is broken.
    """
    region = Region(data, len(data))
    tokens, _, _ = _read_tokens(region)
    return region.int32s(24, tokens)


def tokens_digest(data: Data) -> str:
    """BLAKE2b-128, in hex, of the tokens and media in the header: equal where the same conversation was saved.

    Raises:
        SlotFileError: its header is broken.
    """
    _, _, end = _read_tokens(Region(data, len(data)))
    return hashlib.blake2b(data[12:end], digest_size=16).hexdigest()


def with_streams(file: SlotFile, n_stream: int) -> list[bytes | slice]:
    """The same snapshot for an engine with `n_stream` slots and a split cache, or with a unified cache if that is 1.

    Returns pieces to be written one after the other: new bytes, and slices of the original file. The cells go to
    the first stream: an engine restores them into the slot that it is asked for, wherever they are in the file
    (`llama_kv_cache::state_read_sinfo`). What a draft model had cached stays as it is; an engine that it does not
    fit drops it (`load_slot_checkpoints`).
    """
    edits: list[tuple[int, int, bytes]] = []
    for checkpoint in file.checkpoints:
        size = checkpoint.size_bytes + sum(4 * (n_stream - cache.n_stream) for cache in checkpoint.caches)
        edits.append((checkpoint.size_at, checkpoint.size_at + 8, struct.pack("=Q", size)))
    for cache in file.all_caches:
        edits.append((cache.start, cache.body.start, struct.pack("=I", n_stream)))
        edits.append((cache.body.stop, cache.end, bytes(4 * (n_stream - 1))))
    pieces: list[bytes | slice] = []
    copied = 0
    for start, end, new in sorted(edits):
        pieces += [slice(copied, start), new]
        copied = end
    return [piece for piece in (*pieces, slice(copied, file.size_bytes)) if not _is_empty(piece)]


def _is_empty(piece: bytes | slice) -> bool:
    return piece.start == piece.stop if isinstance(piece, slice) else not piece


def _read_tokens(region: Region) -> tuple[int, int, int]:
    """Counts of tokens and of media, and where the header ends."""
    magic, version, words = region.unpack(0, "=III")
    if (magic, version) != (_MAGIC, _VERSION):
        raise SlotFileError(f"not a slot file of version {_VERSION}: magic {magic:#010x}, version {version}")
    header = Region(region.data, region.skip(12, 4 * words, "the tokens"))
    marker, tokens_version, tokens = header.unpack(12, "=iII")
    if (marker, tokens_version) != (_MARKER, _TOKENS_VERSION):
        raise SlotFileError("its tokens are in another format: of an older or newer llama-server", at=12)
    if not tokens:
        raise SlotFileError("no tokens: an empty slot was saved", at=20)
    at = header.skip(24, 4 * tokens, "the tokens")
    (media,) = header.unpack(at, "=I")
    at = header.skip(at + 4, 4 * media, "the media")
    for _ in range(media):
        (size,) = header.unpack(at, "=I")
        at = header.skip(at + 4, size, "a medium")
    if header.end - at >= 4:
        raise SlotFileError(f"{header.end - at} bytes too many after the tokens", at=at)
    return tokens, media, header.end


_Reading = tuple[Layout, tuple[Cache, ...], tuple[Checkpoint, ...]]


def _readings(region: Region, at: int, tokens: int, caches: tuple[Cache, ...]) -> list[_Reading]:
    """Every way to understand all that follows `at`, after `caches`."""

    def close(at: int, *, is_recurrent: bool) -> list[_Reading]:
        checkpoints = read_checkpoints(region, at, has_window=len(caches) == 2, is_recurrent=is_recurrent)
        return [(_LAYOUTS[len(caches), is_recurrent], caches, tuple(checkpoints))]

    def with_recurrent() -> list[_Reading]:
        return close(read_recurrent(region, at, tokens), is_recurrent=True)

    def with_another() -> list[_Reading]:
        more = read_cache(region, at, tokens, is_full=not caches)
        return alternatives(*(partial(_readings, region, one.end, tokens, (*caches, one)) for one in more))

    if caches and region.is_over(at):
        return close(at, is_recurrent=False)
    return alternatives(with_recurrent) if len(caches) == 2 else alternatives(with_another, with_recurrent)
