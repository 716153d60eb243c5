"""A gateway inside the test's own event loop: real sockets, real worker processes, no patching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hugind.cli.bench.standin import write_launcher
from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.app import App
from hugind.proxy.books import Books, Rules
from hugind.proxy.engines import open_slot_folder
from hugind.proxy.gateway import Gateway
from hugind.proxy.leases import Leases
from hugind.proxy.records.database import parse_address
from hugind.proxy.server import BoundedConnection, Server, bind
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.fleet import Fleet
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.run_folder import own_run_folder
from hugind.supervisor.settings import Settings
from hugind.supervisor.spawn import Spawn
from hugind.supervisor.worker import Worker
from tests.eventually import eventually
from tests.homes import note_home

KEY = "test-key"
ADMIN_KEY = "admin-key"


def standin_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """A config whose engine is the stand-in; `sections` as in the YAML file."""
    model, launcher = folder / "model.gguf", folder / "llama-server"
    if not launcher.exists():
        model.write_bytes(b"GGUF")
        write_launcher(launcher)
    sections["model"] = {"model_path": str(model), **sections.get("model", {})}
    sections["engine"] = {"binary": str(launcher), "backoff_s": 0.05, "stop_s": 1, **sections.get("engine", {})}
    return Config.model_validate(sections)


@dataclass
class Served:
    """A gateway that serves. Lives inside `serving`."""

    gateway: Gateway
    server: Server
    port: int
    client: httpx.AsyncClient
    """Carries the key."""

    def engine(self, name: str = "chat") -> Engine:
        return self.gateway.fleet.engines[name]

    def leases(self, name: str = "chat") -> Leases:
        return self.gateway.leases(self.engine(name))

    def worker(self, name: str = "chat", index: int = 0) -> Worker:
        return self.engine(name).workers[index]

    def spawn(self, name: str = "chat", index: int = 0) -> Spawn:
        """The current life of a worker."""
        spawn = self.worker(name, index).spawn
        assert spawn is not None
        return spawn

    async def busy_slots(self, name: str = "chat", index: int = 0) -> list[int]:
        """What the engine itself says, not our books."""
        return [slot.id for slot in await self.spawn(name, index).client.slots(5) if slot.is_processing]

    async def until_free(self, slots: int, name: str = "chat") -> None:
        """Wait until so many slots are free in our books, and check that the engine agrees."""
        await eventually(lambda: self.leases(name).free == slots)
        for index, worker in enumerate(self.engine(name).workers):
            if worker.spawn is not None:
                assert await self.busy_slots(name, index) == []


@asynccontextmanager
async def serving(
    folder: Path,
    configs: Mapping[str, Config],
    *,
    keyring: Keyring | None = None,
    settings: Settings | None = None,
    rules: Rules | None = None,
    database_address: str | None = None,
    needs_key: bool = False,
    connection: type[BoundedConnection] = BoundedConnection,
    drain_s: float = 5,
    is_ready: bool = True,
    fleet_rules: FleetRules | None = None,
) -> AsyncIterator[Served]:
    """Serve `configs` until the block ends; every process is gone then."""
    home = Home(folder)
    home.create()
    note_home(home)
    if keyring is None:
        keyring = Keyring()
        keyring.add(KEY, Principal("tester"))
    keyring.add(ADMIN_KEY, Principal("control", scopes=ALL_SCOPES))
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listening = asyncio.Event()
    with listener, own_run_folder(home) as run_folder:
        stores = Stores(home)
        engines = {
            name: Engine(
                name,
                config,
                resolve_binary(config.engine.binary),
                home,
                run_folder,
                open_slot_folder(name, config, stores),
            )
            for name, config in configs.items()
        }
        books = make_books(home, settings, rules, database_address)
        doorman = Doorman(keyring, books.keys, needs_key=needs_key)
        gateway = Gateway(Fleet(engines, fleet_rules), doorman, stores, books, home)
        server = Server(App(gateway), drain_s=drain_s, on_listening=listening.set, connection=connection)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            try:
                await listening.wait()
                if is_ready and fleet_rules is None:
                    await eventually(lambda: all(_lends_all(gateway, engine) for engine in engines.values()))
                async with httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"Authorization": f"Bearer {KEY}"},
                    timeout=20,
                    trust_env=False,
                ) as client:
                    yield Served(gateway, server, port, client)
            finally:
                server.should_exit = True


def _lends_all(gateway: Gateway, engine: Engine) -> bool:
    """Every slot of an engine is there, and free."""
    return gateway.leases(engine).free == len(engine.workers) * engine.config.server.max_slots


def make_books(
    home: Home, settings: Settings | None = None, rules: Rules | None = None, address: str | None = None
) -> Books:
    """The books of a gateway: on SQLite in the home where no address is given, and without limits."""
    return Books(parse_address(address, home.database), home, settings or Settings(), rules or Rules())


def make_gateway(engines: Mapping[str, Engine], keyring: Keyring, stores: Stores, home: Home) -> Gateway:
    """A gateway that nobody has entered yet."""
    books = make_books(home)
    return Gateway(Fleet(engines), Doorman(keyring, books.keys, needs_key=False), stores, books, home)


def stores_of(home: Home, configs: Mapping[str, Config]) -> Stores:
    """The session stores of engines that are made without `serving`."""
    stores = Stores(home)
    for name, config in configs.items():
        open_slot_folder(name, config, stores)
    return stores


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A chat request for the engine `chat`."""
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **fields}


def endless(**fields: Any) -> dict[str, Any]:
    """A streamed chat request that would run for an hour."""
    return chat(stream=True, max_tokens=4000, standin={"token_ms": 1000, "prefill_ms": 0, **fields})


def http_request(
    body: dict[str, Any] | bytes,
    path: str = "/v1/chat/completions",
    headers: tuple[str, ...] = (),
    version: str = "1.1",
    key: str = KEY,
) -> bytes:
    """A POST as bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(raw)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


class RawConnection:
    """A client that can misbehave. Made by `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer on this connection."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(await self.reader.readline(), 16)
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if not size:
                break
        return status, headers, body

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as an end."""
        data = b""
        try:
            while chunk := await self.reader.read(65536):
                data += chunk
        except ConnectionError:
            pass
        return data

    def leave(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()


@asynccontextmanager
async def connect(port: int, limit: int = 2**16) -> AsyncIterator[RawConnection]:
    """A connection that is closed when the block ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()
