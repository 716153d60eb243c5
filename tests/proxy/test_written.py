"""From a thread that writes to a stream that is read."""

from __future__ import annotations

import threading
from contextlib import aclosing
from typing import BinaryIO

import pytest

from hugind.proxy.written import written
from tests.eventually import eventually

PIECE = b"piece " * 100


async def test_everything_arrives_in_order() -> None:
    """What was written, and nothing for an empty write."""

    def write(file: BinaryIO) -> None:
        for number in range(50):
            assert 4 == file.write(b"%04d" % number)
            file.write(b"")

    async with aclosing(written(write)) as stream:
        got = [piece async for piece in stream]

    assert [b"%04d" % number for number in range(50)] == got


async def test_a_failure_comes_behind_what_was_written() -> None:
    """Its pieces are read, then it raises."""

    def write(file: BinaryIO) -> None:
        file.write(PIECE)
        raise OSError("the disk is gone")

    async with aclosing(written(write)) as stream:
        first = await anext(stream)
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(stream)

    assert PIECE == first


async def test_nothing_is_written_ahead_of_a_slow_reader() -> None:
    """A writer that is far ahead waits, however much it has."""
    count = 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        for _ in range(1000):
            file.write(PIECE)
            count += 1

    async with aclosing(written(write)) as stream:
        await anext(stream)
        await eventually(lambda: count >= 4)
        ahead = count
        rest = [piece async for piece in stream]

    assert ahead < 10
    assert 999 == len(rest)


async def test_closing_ends_the_writer() -> None:
    """Its next write fails, and closing returns when it has ended."""
    ended = threading.Event()

    def write(file: BinaryIO) -> None:
        try:
            while True:
                file.write(PIECE)
        except BrokenPipeError:
            ended.set()
            raise

    async with aclosing(written(write)) as stream:
        await anext(stream)

    assert ended.is_set()
