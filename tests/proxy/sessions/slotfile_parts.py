"""Slot files made up from parts, with every number in reach of a test."""

from __future__ import annotations

import struct
from collections.abc import Sequence

F32, F16, Q8_0 = 0, 1, 8


def header(tokens: Sequence[int], media: Sequence[bytes] = (), *, magic: int = 0x67677371, version: int = 4) -> bytes:
    """Everything before the caches."""
    payload = struct.pack(f"=iII{len(tokens)}i", -1, 1, len(tokens), *tokens)
    payload += struct.pack(f"=I{len(media)}I", len(media), *range(len(media)))
    payload += b"".join(struct.pack("=I", len(one)) + one for one in media)
    payload += bytes(-len(payload) % 4)
    return struct.pack("=III", magic, version, len(payload) // 4) + payload


def tensor(rows: int, row_bytes: int, kind: int = F16) -> bytes:
    """A tensor with its head; what it holds is told apart from zeros."""
    return struct.pack("=iQ", kind, row_bytes) + bytes([0xAB]) * (rows * row_bytes)


def transposed(cells: int, rows: int, kind: int = F16, element_bytes: int = 2) -> bytes:
    """V as it is without flash attention."""
    return struct.pack("=iII", kind, element_bytes, rows) + bytes([0xCD]) * (cells * rows * element_bytes)


def cells(positions: Sequence[int], *, sequence: int = 0, owners: int = 1, has_places: bool = False) -> bytes:
    """The cells of one stream."""
    place = struct.pack("=iii", 1, 2, 3) if has_places else b""
    return b"".join(struct.pack("=iI", at, owners) + place + struct.pack("=i", sequence) for at in positions)


def stream(
    positions: Sequence[int],
    *,
    layers: int = 2,
    row_bytes: int = 8,
    kind: int = F16,
    is_transposed: bool = False,
    has_values: bool = True,
    has_places: bool = False,
    sequence: int = 0,
) -> bytes:
    """One stream with cells."""
    count = len(positions)
    parts = [struct.pack("=I", count), cells(positions, sequence=sequence, has_places=has_places)]
    parts.append(struct.pack("=IIII", int(is_transposed), layers, 0, 0))
    parts += [tensor(count, row_bytes, kind)] * layers
    if has_values:
        parts += [transposed(count, 4) if is_transposed else tensor(count, row_bytes, kind)] * layers
    return b"".join(parts)


def cache(full: bytes, *, n_stream: int = 1, at: int = 0) -> bytes:
    """An attention cache whose stream `at` is `full`; all others are empty."""
    return struct.pack("=I", n_stream) + bytes(4 * at) + full + bytes(4 * (n_stream - at - 1))


def recurrent(position: int, *, layers: int = 2, states: int | None = None, rows: tuple[int, int] = (12, 16)) -> bytes:
    """A recurrent cache with `states` of its `layers`."""
    states = layers if states is None else states
    head = struct.pack("=IiIII", 1, position, 0, 0, layers)
    return head + tensor(1, rows[0], F32) * states + tensor(1, rows[1], F32) * states


def checkpoints(*states: bytes, tokens: int, draft: bytes = b"draft") -> bytes:
    """What is appended where the last tokens cannot just be forgotten."""
    parts = [b"SCKP", struct.pack("=II", 1, len(states))]
    for one in states:
        state = struct.pack("=Ii", 0xAF143CD8, 0) + one
        parts += [struct.pack("=qiiQ", tokens, 0, tokens - 1, len(state)), state]
        parts += [struct.pack("=Q", len(draft)), draft, struct.pack("=Q", 0)]
    return b"".join(parts)
