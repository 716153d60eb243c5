"""What the gateway bench runs: a gateway over a stand-in, stand-ins to ask directly, an nginx for comparison."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hugind.cli.bench.child import bench_environment, start_child
from hugind.cli.bench.people import PLENTY, create_users
from hugind.cli.bench.standin import write_launcher
from hugind.cli.bench.target import Target, is_answering
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home

READY_TIMEOUT_S = 60
STOP_S = 20
"""How long a child may take to end before it is killed; the gateway ends its workers meanwhile."""
MAX_SOCKET_PATH = 100
"""Bytes; Linux takes 107, macOS 103."""
SLOTS = 128
USER = "bench"
"""Who asks: a user with every kind of limit, so that all that costs something is on."""
CTX_SIZE = 4096

_CONFIG = """\
model:
  model_path: {model}
engine:
  binary: {binary}
server:
  max_slots: {slots}
  concurrency: 1
sessions:
  memory_folder: {folder}
"""
# The gateway's slot folder is put here and goes with the rest; no turn of this bench is long enough to be saved.
# A connection for each request, as the gateway does: with `keepalive` nginx believed the engine's promise and answered
# 502 where a stream had closed its connection.
_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  keepalive_requests 1000000;
  upstream engine {{ server unix:{upstream}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection close;
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Actor:
    """Something to measure: where it listens and, for a proxy, its process."""

    target: Target
    pid: int


@dataclass(frozen=True)
class Stage:
    """Everything that runs while the bench measures."""

    direct: Actor
    """A stand-in on TCP: a client reaches it as it reaches the gateway."""
    direct_unix: Actor
    gateway: Actor
    nginx: Actor | None

    def actors(self) -> dict[str, Actor]:
        """By name, in a fixed order."""
        every = {"direct": self.direct, "direct_unix": self.direct_unix, "gateway": self.gateway, "nginx": self.nginx}
        return {name: actor for name, actor in every.items() if actor is not None}


@asynccontextmanager
async def set_stage(folder: Path, *, use_nginx: bool) -> AsyncIterator[Stage]:
    """Start everything, each ready when this yields; end everything on every way out. Writes below `folder` only.

    Raises:
        HugindError: one of them did not start; the message holds its last words.
    """
    socket_path = folder / "direct.sock"
    if len(str(socket_path)) > MAX_SOCKET_PATH:
        raise HugindError(f"{folder} is too long a path for a UNIX socket", hint="choose a shorter --dir")
    socket_path.unlink(missing_ok=True)  # of an earlier bench here
    _remove_database(Home(folder))
    launcher = write_launcher(folder / "llama-server")
    model = folder / "model.gguf"
    model.write_bytes(b"no model: the stand-in never reads it")
    async with AsyncExitStack() as stack:
        direct = await _start_standin(stack, folder, launcher, model, ("127.0.0.1", _free_port()))
        direct_unix = await _start_standin(stack, folder, launcher, model, str(socket_path))
        gateway = await _start_gateway(stack, folder, launcher, model)
        program = _find_nginx() if use_nginx else None
        nginx = await _start_nginx(stack, folder, program, direct_unix.target) if program else None
        yield Stage(direct, direct_unix, gateway, nginx)


def _remove_database(home: Home) -> None:
    """Of an earlier bench in the same folder."""
    for file in home.root.glob(f"{home.database.name}*"):
        file.unlink()


async def _start_standin(
    stack: AsyncExitStack, folder: Path, launcher: Path, model: Path, address: tuple[str, int] | str
) -> Actor:
    where = ["--host", address] if isinstance(address, str) else ["--host", address[0], "--port", str(address[1])]
    sizes = ["--parallel", str(SLOTS), "--ctx-size", str(CTX_SIZE * SLOTS), "--no-kv-unified"]
    name = "direct_unix" if isinstance(address, str) else "direct"
    argv = [str(launcher), "--model", str(model), *where, *sizes]
    return await _start(stack, folder, name, argv, {}, Target(name, address), "/health")


async def _start_gateway(stack: AsyncExitStack, folder: Path, launcher: Path, model: Path) -> Actor:
    configs = folder / "configs"
    configs.mkdir(mode=0o700, exist_ok=True)
    # The paths are JSON strings, which YAML reads as they are meant.
    values = {"model": model, "binary": launcher, "folder": folder}
    config = _CONFIG.format(slots=SLOTS, **{name: json.dumps(str(value)) for name, value in values.items()})
    (configs / "bench.yml").write_text(config)
    home = Home(folder)
    key = (await create_users(home, [USER], PLENTY))[USER]
    port = _free_port()
    target = Target("gateway", ("127.0.0.1", port), {"Authorization": f"Bearer {key}"})
    argv = [sys.executable, "-m", "hugind.cli.main", *f"server start bench --host 127.0.0.1 --port {port}".split()]
    return await _start(stack, folder, "gateway", argv, {}, target, "/readyz")


async def _start_nginx(stack: AsyncExitStack, folder: Path, program: str, upstream: Target) -> Actor:
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream.address, port=port))
    argv = [program, "-p", str(folder), "-e", str(folder / "nginx-error.log"), "-c", str(config)]
    return await _start(stack, folder, "nginx", argv, {}, Target("nginx", ("127.0.0.1", port)), "/health")


async def _start(
    stack: AsyncExitStack,
    folder: Path,
    name: str,
    argv: Sequence[str],
    variables: Mapping[str, str],
    target: Target,
    health: str,
) -> Actor:
    """Start one child and wait until it answers `health` with 200."""
    child = await start_child(
        stack,
        argv,
        name=name,
        folder=folder,
        env=bench_environment(Home(folder), **variables),
        is_ready=lambda: is_answering(target, health),
        timeout_s=READY_TIMEOUT_S,
        stop_s=STOP_S,
    )
    return Actor(target, child.pid)


def _find_nginx() -> str | None:
    """nginx lives where a plain user's PATH often does not look."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
