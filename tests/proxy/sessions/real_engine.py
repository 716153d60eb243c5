"""A real llama-server with nothing of ours around it, for what only it can say about slot files."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from hugind.supervisor.llama.binary import resolve_binary
from tests.engines import engine_binary
from tests.eventually import eventually_sync

CTX_SIZE = 1024


class RealEngine:
    """Answers between the entry and the exit of `real_engine`. Files are read and written in `folder`."""

    def __init__(self, http: httpx.Client, folder: Path) -> None:
        self._http = http
        self.folder = folder

    def complete(self, prompt: str | Sequence[int], *, slot: int, tokens: int = 12) -> dict[str, Any]:
        """What follows most likely, with timings."""
        body = {"prompt": prompt, "id_slot": slot, "n_predict": tokens, "temperature": 0, "cache_prompt": True}
        return self._post("/completion", body)

    def save(self, slot: int, name: str) -> tuple[int, int]:
        """Tokens and bytes that it says it has saved."""
        answer = self._post(f"/slots/{slot}?action=save", {"filename": name})
        return answer["n_saved"], answer["n_written"]

    def restore(self, slot: int, data: bytes) -> int:
        """Tokens that it says it has restored."""
        path = self.folder / "restored.bin"
        path.write_bytes(data)
        restored: int = self._post(f"/slots/{slot}?action=restore", {"filename": path.name})["n_restored"]
        return restored

    def erase(self, slot: int) -> None:
        """Empty a slot."""
        self._post(f"/slots/{slot}?action=erase", {})

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value


@contextmanager
def real_engine(model: Path, folder: Path, *flags: str, slots: int = 2) -> Iterator[RealEngine]:
    """An engine with `slots` slots, its slot files, socket and log in a new `folder`."""
    folder.mkdir()
    address = str(folder / "e.sock")
    argv = [*resolve_binary(engine_binary()).argv, "--model", str(model), "--host", address]
    argv += ["--parallel", str(slots), "--ctx-size", str(CTX_SIZE * slots), "--cache-ram", "0", "--slots"]
    argv += ["--no-cache-idle-slots", "--slot-save-path", str(folder), "--threads", "1", "--no-warmup", *flags]
    if "--kv-unified" not in flags:
        argv.append("--no-kv-unified")
    transport = httpx.HTTPTransport(uds=address)
    with (folder / "log").open("wb") as log, httpx.Client(transport=transport, base_url="http://engine") as http:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            eventually_sync(lambda: _is_ready(process, address, http), 30)
            yield RealEngine(http, folder)
        finally:
            process.kill()
            process.wait()


def _is_ready(process: subprocess.Popen[bytes], address: str, http: httpx.Client) -> bool:
    """httpx leaks a socket where nobody listens yet."""
    assert process.poll() is None, "the engine ended"
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(address) != 0:
            return False
    return http.get("/health").status_code == 200
