"""The checksum of a snapshot: XXH3-128 of its blocks, so that a large one is checked on several cores at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import xxhash

BLOCK = 8 * 1024 * 1024
"""Large enough that a thread has something to do: 1 ms where it is in memory."""
THREADS = min(8, os.cpu_count() or 1)

_pool = ThreadPoolExecutor(THREADS, "checksum")


def checksum(data: memoryview) -> str:
    """Of all of it, 32 hex digits. Blocks; other threads run meanwhile, because xxhash lets go of Python's lock."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [data]
    try:
        digests = [xxhash.xxh3_128_digest(blocks[0])] if len(blocks) == 1 else list(_pool.map(_digest, blocks))
    finally:
        for block in blocks:
            block.release()  # or what is behind it could not be closed
    return _join(digests)


class Checksum:
    """The same for what comes in pieces."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._block = xxhash.xxh3_128()
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        """The next piece."""
        view = memoryview(data)
        while len(view):
            if self._filled == BLOCK:
                self._digests.append(self._block.digest())
                self._block, self._filled = xxhash.xxh3_128(), 0
            piece = view[: BLOCK - self._filled]
            self._block.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """As `checksum` of all that came."""
        return _join([*self._digests, self._block.digest()])


def _digest(block: memoryview) -> bytes:
    return xxhash.xxh3_128_digest(block)


def _join(digests: list[bytes]) -> str:
    """One block's own digest, else that of all of them."""
    return digests[0].hex() if len(digests) == 1 else xxhash.xxh3_128_hexdigest(b"".join(digests))
