"""The embedded engine as a process: what it serves, how it ends, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hugind.supervisor.llama.embedded import build_number
from tools.random_gguf import make_llama_gguf

ENGINE = (sys.executable, "-m", "hugind.supervisor.llama.embedded")
SMALL = ("-c", "1024", "-np", "1", "--no-warmup")
DEADLINE_S = 20
IN_FLIGHT = {"prompt": "hello", "n_predict": -1, "stream": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Running:
    """An engine that listens. Lives in `serving`'s block."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    log: list[str]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def serving(address: Path | int, *flags: str | Path, **environment: str) -> AsyncIterator[Running]:
    """An engine on a UNIX socket or on a port of 127.0.0.1; killed at the end if it still runs."""
    listen = ("--port", str(address)) if isinstance(address, int) else ("--host", str(address))
    process = await asyncio.create_subprocess_exec(
        *ENGINE, *map(str, flags), *listen, *SMALL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    transport = httpx.AsyncHTTPTransport(uds=str(address)) if isinstance(address, Path) else None
    base = "http://engine" if transport else f"http://127.0.0.1:{address}"
    try:
        async with asyncio.timeout(DEADLINE_S):
            log = await _log_until("embedded: ready on", process)
        async with httpx.AsyncClient(transport=transport, base_url=base, timeout=DEADLINE_S) as client:
            yield Running(process, client, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def streaming(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """A request that is being answered for as long as the block runs."""
    async with client.stream("POST", "/completion", json=IN_FLIGHT) as answer:
        await anext(answer.aiter_lines())
        yield


async def _log_until(words: str, process: asyncio.subprocess.Process) -> list[str]:
    assert process.stderr is not None
    seen: list[str] = []
    async for line in process.stderr:
        seen.append(line.decode().rstrip())
        if words in seen[-1]:
            return seen
    raise AssertionError("\n".join(seen))


def failure(*flags: str | Path, **environment: str) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr of an engine that is expected to end by itself."""
    done = subprocess.run(
        [*ENGINE, *map(str, flags), *SMALL],
        capture_output=True,
        timeout=DEADLINE_S,
        env={**os.environ, **environment},
        check=False,
        text=True,
        errors="replace",
    )
    return done.returncode, [line for line in done.stderr.splitlines() if line.strip()]


class TestServing:
    async def test_unix_socket(self, model: Path, tmp_path: Path) -> None:
        """On a UNIX socket it is healthy and answers a chat in printable text."""
        async with serving(tmp_path / "w.sock", "-m", model) as engine:
            health = await engine.client.get("/health")
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
            chat = await engine.client.post("/v1/chat/completions", json=body)

        assert health.json() == {"status": "ok"}
        assert chat.json()["usage"]["completion_tokens"] == 16
        assert chat.json()["choices"][0]["message"]["content"].isascii()

    async def test_says_where_it_listens(self, model: Path, free_port: int) -> None:
        """The engine's line, as in the native one, and ours after it; both at once, though stderr is a pipe."""
        async with serving(free_port, "-m", model) as engine:
            *_, theirs, ours = engine.log

        assert theirs.endswith(f"listening on http://127.0.0.1:{free_port}")
        assert ours.startswith(f"embedded: ready on http://127.0.0.1:{free_port} (llama.cpp b")

    async def test_embeddings(self, model: Path, tmp_path: Path) -> None:
        """The same kind of model serves as an embedding engine."""
        async with serving(tmp_path / "w.sock", "-m", model, "--embedding", "--pooling", "mean") as engine:
            answer = await engine.client.post("/v1/embeddings", json={"input": "hello"})

        assert len(answer.json()["data"][0]["embedding"]) == 64

    async def test_build_number(self, model: Path, tmp_path: Path) -> None:
        """It tells llama.cpp's build, although the wheel was built without one."""
        async with serving(tmp_path / "w.sock", "-m", model) as engine:
            props = (await engine.client.get("/props")).json()

        assert re.fullmatch(r"b\d{5}-\w+", props["build_info"])

    @pytest.mark.parametrize("parser", ["native", "table"])
    async def test_environment(self, parser: str, model: Path, tmp_path: Path) -> None:
        """llama-server's environment variables count, whichever parser reads them."""
        async with serving(
            tmp_path / "w.sock",
            LLAMA_ARG_MODEL=str(model),
            LLAMA_ARG_ALIAS="from-env",
            LLAMA_API_KEY="sesame",
            HUGIND_EMBEDDED_PARSER=parser,
        ) as engine:
            refused = await engine.client.get("/props")
            models = await engine.client.get("/v1/models", headers={"Authorization": "Bearer sesame"})

        assert refused.status_code == 401
        assert models.json()["data"][0]["id"] == "from-env"

    async def test_old_spellings(self, model: Path, tmp_path: Path) -> None:
        """Flags that llama.cpp has dropped still start it."""
        async with serving(tmp_path / "w.sock", "-m", model, "--no-mmap", "-fa", "--draft-max", "4") as engine:
            assert (await engine.client.get("/health")).status_code == 200


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_idle(self, number: signal.Signals, model: Path, tmp_path: Path) -> None:
        """An idle engine ends with 0 at the first signal, and leaves its socket file, as the native one does."""
        async with serving(tmp_path / "w.sock", "-m", model) as engine:
            assert await engine.stop(number) == 0

        assert (tmp_path / "w.sock").exists()

    async def test_second_signal(self, model: Path, tmp_path: Path) -> None:
        """With a request in flight the second signal ends it. (Now and then the engine gets away at the first.)"""
        async with serving(tmp_path / "w.sock", "-m", model) as engine, streaming(engine.client):
            engine.process.send_signal(signal.SIGTERM)
            await _refuses_connections(tmp_path / "w.sock")
            if engine.process.returncode is None:
                engine.process.send_signal(signal.SIGTERM)
            code = await engine.ended()

        assert code in (0, -signal.SIGTERM)

    async def test_bounded(self, model: Path, tmp_path: Path) -> None:
        """With a request in flight and no second signal it ends after the time it was given."""
        impatient = serving(tmp_path / "w.sock", "-m", model, HUGIND_EMBEDDED_STOP_S="0.2")
        async with impatient as engine, streaming(engine.client):
            code = await engine.stop()

        assert code in (0, -signal.SIGALRM)


async def _refuses_connections(path: Path) -> None:
    """Returns when nothing listens at `path` any more: the engine has acted on the signal."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(path)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.01)


class TestModelFailures:
    def test_no_model(self) -> None:
        """Without a model there is nothing to do: no router mode here."""
        code, lines = failure()

        assert code == 1
        assert lines[-1].startswith("error: no model: ")

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there."""
        path = tmp_path / "none.gguf"

        assert (1, f"error: cannot open model '{path}': No such file or directory") == last(
            failure("-m", path, "--host", tmp_path / "w.sock")
        )

    def test_folder(self, tmp_path: Path) -> None:
        """A folder where a file should be."""
        assert (1, f"error: cannot open model '{tmp_path}': Is a directory") == last(
            failure("-m", tmp_path, "--host", tmp_path / "w.sock")
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, model: Path, tmp_path: Path) -> None:
        """A file that may not be read."""
        path = tmp_path / "locked.gguf"
        path.write_bytes(model.read_bytes())
        path.chmod(0)

        assert (1, f"error: cannot open model '{path}': Permission denied") == last(
            failure("-m", path, "--host", tmp_path / "w.sock")
        )

    def test_empty(self, tmp_path: Path) -> None:
        """A file without a byte."""
        path = tmp_path / "empty.gguf"
        path.touch()

        assert (1, f"error: model '{path}' is an empty file") == last(
            failure("-m", path, "--host", tmp_path / "w.sock")
        )

    def test_foreign(self, tmp_path: Path) -> None:
        """A file of another kind."""
        path = tmp_path / "text.gguf"
        path.write_text("hello")

        assert (1, f"error: model '{path}' is not a GGUF file") == last(
            failure("-m", path, "--host", tmp_path / "w.sock")
        )

    @pytest.mark.parametrize(("keep", "reason"), [(1000, "failed to read key-value pairs"), (-9000, "is corrupted")])
    def test_truncated(self, keep: int, reason: str, model: Path, tmp_path: Path) -> None:
        """A file cut short, in its header or in its tensors: the engine says where, our last line says which file."""
        path = tmp_path / "cut.gguf"
        path.write_bytes(model.read_bytes()[:keep])
        code, lines = failure("-m", path, "--host", tmp_path / "w.sock")

        assert code == 1
        assert any(reason in line for line in lines)
        assert f"error: could not start with model '{path}': the engine's lines above say why" == lines[-1]


class TestAddressFailures:
    def test_busy_port(self, model: Path) -> None:
        """A port on which somebody listens."""
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]

            assert (1, f"error: cannot listen on 127.0.0.1 port {port}: Address already in use") == last(
                failure("-m", model, "--port", str(port))
            )

    def test_not_our_host(self, model: Path, free_port: int) -> None:
        """An address that this machine does not have."""
        assert (1, f"error: cannot listen on 192.0.2.7 port {free_port}: Cannot assign requested address") == last(
            failure("-m", model, "--host", "192.0.2.7", "--port", str(free_port))
        )

    def test_impossible_port(self, model: Path) -> None:
        """A number that is no port."""
        code, lines = failure("-m", model, "--port", "-3")

        assert code == 1
        assert lines[-1].startswith("error: cannot listen on 127.0.0.1 port -3: ")

    def test_socket_file_exists(self, model: Path, tmp_path: Path) -> None:
        """A socket file from before, though nobody listens: not taken over and not removed, as in the native one."""
        path = tmp_path / "stale.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))

        assert (1, f"error: cannot listen on {path}: the file exists; remove it if no server uses it") == last(
            failure("-m", model, "--host", path)
        )
        assert path.exists()

    def test_socket_in_no_folder(self, model: Path, tmp_path: Path) -> None:
        """A socket path in a folder that is not there."""
        path = tmp_path / "none" / "w.sock"

        assert (1, f"error: cannot listen on {path}: no directory {path.parent}") == last(
            failure("-m", model, "--host", path)
        )


@pytest.mark.parametrize("parser", ["native", "table"])
class TestFlagFailures:
    def test_unknown_flag(self, parser: str, model: Path) -> None:
        """A flag that llama-server does not know."""
        code, lines = failure("-m", model, "--no-such-flag", HUGIND_EMBEDDED_PARSER=parser)

        assert (code, lines) == (1, ["error: invalid argument: --no-such-flag"])

    @pytest.mark.parametrize(
        ("flag", "value"),
        [("--port", "banana"), ("-ctv", "q9_0"), ("-fa", "maybe"), ("--slot-save-path", "/no/such"), ("-np", "0"),
         ("--chat-template-file", "/no/such"), ("--pooling", "median")],
    )  # fmt: skip
    def test_bad_value(self, flag: str, value: str, parser: str, model: Path) -> None:
        """A value that does not do; the line names the flag."""
        code, lines = failure("-m", model, flag, value, HUGIND_EMBEDDED_PARSER=parser)

        assert code == 1
        assert lines[0].startswith(f'error while handling argument "{flag}": ')

    def test_bad_variable(self, parser: str, model: Path) -> None:
        """An environment variable with a value that does not do."""
        code, lines = failure("-m", model, LLAMA_ARG_PORT="banana", HUGIND_EMBEDDED_PARSER=parser)

        assert code == 1
        assert lines[0].startswith('error while handling environment variable "LLAMA_ARG_PORT": ')

    def test_quantised_values_without_flash_attention(self, parser: str, model: Path, tmp_path: Path) -> None:
        """A combination that only the engine can refuse."""
        flags = ("--host", tmp_path / "w.sock", "-ctv", "q8_0", "-fa", "off")
        code, lines = failure("-m", model, *flags, HUGIND_EMBEDDED_PARSER=parser)

        assert code == 1
        assert any("quantized V cache requires flash_attn" in line for line in lines)
        assert lines[-1].startswith(f"error: could not start with model '{model}'")


class TestAnswers:
    def test_version(self) -> None:
        """`--version` has the form of the native one, with llama.cpp's build."""
        code, lines = failure("--version")

        assert code == 0
        assert re.fullmatch(r"version: \S+ \(build \d{5}, commit \w+\)", lines[0])
        assert re.fullmatch(r"built with .+ for .+", lines[1])

    @pytest.mark.parametrize("parser", ["native", "table"])
    def test_help(self, parser: str) -> None:
        """`--help` names the flags on stdout and ends with 0."""
        done = subprocess.run(
            [*ENGINE, "--help"],
            capture_output=True,
            timeout=DEADLINE_S,
            env={**os.environ, "HUGIND_EMBEDDED_PARSER": parser},
            check=True,
            text=True,
        )

        assert re.search(r"^-lm, +--load-mode ", done.stdout, re.MULTILINE)

    def test_build_number(self) -> None:
        """The build is the last number of the wheel's version."""
        assert build_number("2026.10.11549") == 11549
        assert build_number("0+unknown") == 0


def last(result: tuple[int, list[str]]) -> tuple[int, str]:
    code, lines = result
    return code, lines[-1]
