"""What one request to a worker costs in CPU: our own client beside aiohttp, alternating in one run.

    pip install aiohttp
    python benchmarks/upstream_client.py

Both ask the stand-in engine for a one-token stream over a UNIX socket, with a connection for each request.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import aiohttp
import uvloop

from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint

KEY = "benchmark"
PATH = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":1,"stream":true,"id_slot":0}'


async def ask_with_ours(socket: Path, requests: int) -> None:
    """One request after the other with `WorkerClient`."""
    client = WorkerClient(UnixEndpoint(socket), KEY)
    for _ in range(requests):
        async with client.post(PATH, BODY) as stream:
            async for _ in stream.chunks():
                pass
    client.close()


async def ask_with_aiohttp(socket: Path, requests: int) -> None:
    """The same with aiohttp, set up as a proxy would."""
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
    ) as session:
        for _ in range(requests):
            async with session.post(f"http://worker{PATH}", data=BODY) as response:
                async for _ in response.content.iter_any():
                    pass


async def measure(ask: Callable[[Path, int], Awaitable[None]], socket: Path, requests: int) -> float:
    """CPU microseconds a request."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    await ask(socket, requests)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / requests * 1e6


async def compare(socket: Path, rounds: int, requests: int) -> None:
    """Alternate, so that what the machine does meanwhile falls on both."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(await measure(ask_with_ours, socket, requests))
        theirs.append(await measure(ask_with_aiohttp, socket, requests))
    sys.stdout.write(f"ours     {median(ours):6.1f} us CPU a request\naiohttp  {median(theirs):6.1f} us\n")


def main() -> None:
    """Start the stand-in, compare, end it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        socket, model = Path(folder) / "engine.sock", Path(folder) / "m.gguf"
        model.write_bytes(b"GGUF")
        engine = subprocess.Popen(
            [sys.executable, "-m", "hugind.cli.bench.standin", "-m", str(model), "-np", "4", "--host", str(socket)],
            env={**os.environ, "LLAMA_API_KEY": KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not socket.exists():
                time.sleep(0.05)
            uvloop.run(compare(socket, options.rounds, options.requests))
        finally:
            engine.terminate()
            engine.wait()


if __name__ == "__main__":
    main()
