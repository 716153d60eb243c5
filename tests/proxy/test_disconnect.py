"""A client that leaves ends the work that is done for it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hugind.proxy.disconnect import EXTENSION, DisconnectWatch
from hugind.proxy.errors import ClientGone
from tests.eventually import eventually
from tests.proxy.exchanges import DISCONNECT, FakeClient, body_message


async def test_leaving_cancels_the_work() -> None:
    """Whatever the block waits for, it ends at once and says why."""
    client = FakeClient(DISCONNECT)
    with pytest.raises(ClientGone):
        async with DisconnectWatch(client.exchange):
            await asyncio.Event().wait()

    assert _cancellations() == 0


async def test_leaving_later_cancels_too() -> None:
    """Stray messages before the end are no end."""
    client = FakeClient(body_message(b""))
    work = asyncio.get_running_loop().create_task(_work(client, asyncio.Event()))
    await eventually(client.says.empty)
    client.says.put_nowait(DISCONNECT)
    with pytest.raises(ClientGone):
        await work


async def test_work_that_is_done_is_left_alone() -> None:
    """The block ends as ever, and nobody listens on."""
    client = FakeClient()
    async with DisconnectWatch(client.exchange):
        await client.exchange.respond(200, {})
    client.says.put_nowait(DISCONNECT)

    assert not client.says.empty()


async def test_a_disconnect_behind_the_answer_is_none() -> None:
    """Servers report one after the last byte of every answer."""
    client = FakeClient()
    async with DisconnectWatch(client.exchange):
        await client.exchange.respond(200, {})
        client.says.put_nowait(DISCONNECT)
        await eventually(client.says.empty)

    assert _cancellations() == 0


async def test_an_error_in_the_block_stays_itself() -> None:
    """What goes wrong in the block is not taken for a client that left."""
    with pytest.raises(ZeroDivisionError):
        async with DisconnectWatch(FakeClient().exchange):
            raise ZeroDivisionError


async def test_a_server_that_calls_back_is_not_listened_to() -> None:
    """Our own server tells at once, also of a client that had left before, and is not asked any more afterwards."""
    for has_left_before in (False, True):
        client, connection = FakeClient(), FakeConnection()
        client.exchange.scope["extensions"] = {EXTENSION: connection}
        connection.has_left = has_left_before
        inside = asyncio.Event()
        work = asyncio.get_running_loop().create_task(_work(client, inside))
        await inside.wait()
        connection.leave()
        with pytest.raises(ClientGone):
            await work

        assert connection.callback is None


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Stopping the gateway is not a client that left, even if it leaves at the same time."""
    for also_leaves in (False, True):
        client = FakeClient()
        inside = asyncio.Event()
        task = asyncio.get_running_loop().create_task(_work(client, inside))
        await inside.wait()
        if also_leaves:
            client.says.put_nowait(DISCONNECT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class FakeConnection:
    """A server's side that calls back."""

    def __init__(self) -> None:
        self.has_left = False
        self.callback: Callable[[], None] | None = None

    def watch(self, callback: Callable[[], None] | None) -> None:
        """As `disconnect.Connection`."""
        self.callback = callback
        if self.has_left and callback:
            callback()

    def leave(self) -> None:
        """The client leaves, once."""
        if not self.has_left and self.callback:
            self.callback()


async def _work(client: FakeClient, inside: asyncio.Event) -> None:
    async with DisconnectWatch(client.exchange):
        inside.set()
        await asyncio.Event().wait()


def _cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()
