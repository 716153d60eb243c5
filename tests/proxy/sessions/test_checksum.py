"""One checksum, whole or in pieces, on one core or on several."""

from __future__ import annotations

import random

import pytest
import xxhash

from hugind.proxy.sessions.checksum import BLOCK, Checksum, checksum

LENGTHS = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345)


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_or_in_pieces(length: int) -> None:
    """The same digits, however the data comes."""
    data = random.Random(length).randbytes(length)
    pieces, dice, at = Checksum(), random.Random(1), 0
    while at < length:
        step = dice.randrange(1, BLOCK)
        pieces.update(data[at : at + step])
        at += step

    assert checksum(memoryview(data)) == pieces.hexdigest()


def test_a_small_file() -> None:
    """Plain XXH3-128, as any tool prints it."""
    assert xxhash.xxh3_128_hexdigest(b"small") == checksum(memoryview(b"small"))


def test_every_block_counts() -> None:
    """A byte changed anywhere, blocks swapped, or the end missing: another checksum."""
    data = random.Random(0).randbytes(2 * BLOCK + 10)
    swapped = data[BLOCK : 2 * BLOCK] + data[:BLOCK] + data[2 * BLOCK :]
    flipped = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (0, BLOCK - 1, BLOCK, len(data) - 1)]
    others = {checksum(memoryview(other)) for other in (data, swapped, data[:-1], *flipped)}

    assert 7 == len(others)


def test_the_view_can_be_released() -> None:
    """Nothing is held on to: the mapping behind it must close."""
    view = memoryview(bytearray(2 * BLOCK))
    checksum(view)
    view.release()

    with pytest.raises(ValueError, match="released"):
        view.tobytes()
