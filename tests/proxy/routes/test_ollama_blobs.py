"""Files that clients send for models yet to be made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from hugind.proxy.server import BoundedConnection
from hugind.supervisor import tasks
from tests.eventually import eventually
from tests.proxy.serving import ADMIN_KEY, RawConnection, connect, serving, standin_config

DATA = b"GGUF" * 700_000
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
PATH = f"/api/blobs/{DIGEST}"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


class Hasty(BoundedConnection):
    """Waits for bodies for a moment only."""

    body_timeout_s = 0.3


async def pieces(data: bytes = DATA) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


async def test_send(tmp_path: Path) -> None:
    """A file of more than a piece, in chunks; then it is there, and is not sent again."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        before = await served.client.head(PATH, headers=ADMIN)
        sent = await served.client.post(PATH, content=pieces(), headers=ADMIN)
        after = await served.client.head(PATH, headers=ADMIN)
        again = await served.client.post(PATH, content=b"not looked at", headers=ADMIN)
        kept = served.gateway.home.blobs / DIGEST.replace(":", "-")

        assert [404, 201, 200, 200] == [one.status_code for one in (before, sent, after, again)]
        assert DATA == kept.read_bytes()


async def test_refused(tmp_path: Path) -> None:
    """What is not what it was said to be, what is no digest, what has no room, and who may not: nothing is kept."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        mismatch = await served.client.post(PATH, content=b"something else", headers=ADMIN)
        nonsense = [await served.client.post(f"/api/blobs/{name}", headers=ADMIN) for name in ("x", "sha256:..%2fx")]
        forbidden = await served.client.post(PATH, content=b"x")
        async with connect(served.port) as client:
            await client.send(head(10**15))
            status, _, body = await client.response()

        assert 400 == mismatch.status_code
        assert "digest mismatch" in mismatch.json()["error"]
        assert [400, 404] == [one.status_code for one in nonsense]
        assert 403 == forbidden.status_code
        assert (413, True) == (status, b"there is room for" in body)
        assert [] == list(served.gateway.home.blobs.iterdir())


async def test_two_send_the_same(tmp_path: Path) -> None:
    """Neither disturbs the other."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        other = tasks.start(served.client.post(PATH, content=pieces(), headers=ADMIN), "send")
        one = await served.client.post(PATH, content=pieces(), headers=ADMIN)
        statuses = {one.status_code, (await other).status_code}

        assert statuses <= {200, 201}
        assert 1 == len(list(served.gateway.home.blobs.iterdir()))


async def test_a_client_that_leaves(tmp_path: Path) -> None:
    """Nothing is kept of what it sent."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        folder = served.gateway.home.blobs
        async with connect(served.port) as client:
            await client.send(head(len(DATA)) + DATA[:2_000_000])
            await eventually(lambda: list(folder.iterdir()))
            client.leave()
        await eventually(lambda: not list(folder.iterdir()))


async def test_a_file_takes_its_time(tmp_path: Path) -> None:
    """As long as it comes, nobody is cut off; when it pauses for too long, it is."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, connection=Hasty, is_ready=False) as served:
        async with connect(served.port) as client:
            await client.send(head(len(DATA)))
            await trickle(client, DATA[:100])
            await client.send(DATA[100:])
            slow, _, _ = await client.response()
        async with connect(served.port) as client:
            other = hashlib.sha256(b"other").hexdigest()
            await client.send(head(5, f"sha256:{other}") + b"oth")
            paused, _, _ = await client.response()

        assert (201, 408) == (slow, paused)
        assert 1 == len(list(served.gateway.home.blobs.iterdir()))


async def trickle(client: RawConnection, data: bytes) -> None:
    """Send a byte now and then, for three times as long as a body may take."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    for at in range(len(data)):
        await client.send(data[at : at + 1])
        await eventually(partial(_is_over, clock, begun + 3 * Hasty.body_timeout_s * at / len(data)))


def _is_over(clock: Callable[[], float], due: float) -> bool:
    return clock() >= due


def head(length: int, digest: str = DIGEST) -> bytes:
    """Of a request that sends a file."""
    lines = [
        f"POST /api/blobs/{digest} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {ADMIN_KEY}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
