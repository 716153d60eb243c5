"""One system call for a small answer, and never a byte out of order."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.cork import CorkedTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorder(asyncio.Transport):
    """Remembers what is written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: object) -> None:
        assert not self.is_closed
        self.writes.append(cast(bytes, data))

    def close(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 7


def corked() -> tuple[CorkedTransport, Recorder]:
    recorder = Recorder()
    return CorkedTransport(recorder, asyncio.get_running_loop()), recorder


async def test_a_head_travels_with_its_body() -> None:
    """What follows a head at once goes out in the same write."""
    transport, recorder = corked()
    transport.write(HEAD)
    transport.write(b"body")
    transport.write(b"more")

    assert [HEAD + b"body", b"more"] == recorder.writes


async def test_a_head_alone_does_not_wait() -> None:
    """A stream's head goes out as soon as the loop comes round."""
    transport, recorder = corked()
    transport.write(HEAD)
    await asyncio.sleep(0)

    assert [HEAD] == recorder.writes


async def test_closing_sends_what_was_held_back() -> None:
    """An answer without a body is not lost."""
    transport, recorder = corked()
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)

    assert [HEAD] == recorder.writes
    assert recorder.is_closed


async def test_all_else_is_the_transports_own() -> None:
    """Whoever holds it sees a transport."""
    assert corked()[0].get_write_buffer_size() == 7


@given(st.lists(st.sampled_from([HEAD, b"a", b"HTTP/1.", b"\r\n", b""])))
async def test_the_order_of_bytes_is_kept(writes: list[bytes]) -> None:
    """Even if a body looks like a head."""
    transport, recorder = corked()
    for data in writes:
        transport.write(data)
    transport.close()

    assert b"".join(writes) == b"".join(recorder.writes)
