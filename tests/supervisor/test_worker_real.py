"""One worker's life, with the real engine: `HUGIND_TEST_ENGINE` says which."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import orjson
import psutil
import pytest

from hugind.supervisor.llama.binary import EngineBinary, resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.worker import WorkerState
from tests.engines import DEMO_MODEL, engine_binary
from tests.eventually import eventually
from tests.supervisor.watched import Watched, quick_config
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def binary() -> EngineBinary:
    """The engine under test."""
    return resolve_binary(engine_binary())


async def test_ready(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """The engine gets ready with all of our flags, and nothing of it is left."""
    async with Watched(quick_config(DEMO_MODEL), binary, home, folder) as watched:
        pid = await watched.gets_ready()
        sock = Path(watched.worker.status().endpoint or "")
        props = await watched.spawn.client.props(5)
        takes = watched.spawn.template_takes
        slots = await watched.spawn.client.slots(5)

    assert props.model_path == str(DEMO_MODEL)
    assert props.model_alias == "tiny"
    assert props.template_takes == takes
    assert "supports_system_role" in (takes or ())
    assert [slot.is_processing for slot in slots] == [False, False]
    assert not sock.exists()
    assert not psutil.pid_exists(pid)
    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_killed_engine_returns(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """An engine that is killed is ready again as another process."""
    async with Watched(quick_config(DEMO_MODEL), binary, home, folder) as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGKILL)
        new_pid = await watched.is_replaced(pid)
        slots = await watched.spawn.client.slots(5)

    assert new_pid != pid
    assert len(slots) == 2


async def test_stopped_engine_is_a_hang(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """An engine that no longer runs, though its process lives, is replaced."""
    async with Watched(quick_config(DEMO_MODEL), binary, home, folder) as watched:
        pid = await watched.gets_ready()
        os.kill(pid, signal.SIGSTOP)
        await watched.is_replaced(pid)

    assert "llama-server hung" in str(watched.moves[2].reason)


async def test_long_prompt_is_no_hang(binary: EngineBinary, home: Home, folder: RunFolder, tmp_path: Path) -> None:
    """An engine that computes one batch of a long prompt, and sends nothing meanwhile, is left in peace."""
    model = make_llama_gguf(tmp_path / "heavy.gguf", dim=512, layers=4, heads=8, kv_heads=4, ff=2048, half=True)
    config = quick_config(model, "--threads", "1", "--no-warmup", slots=1, ctx_size=4096, probe_interval_s=0.05)
    body = orjson.dumps({"prompt": "long " * 400, "n_predict": 1, "id_slot": 0})

    async with Watched(config, binary, home, folder) as watched:
        pid = await watched.gets_ready()
        async with watched.spawn.client.post("/completion", body) as answer:
            timings = orjson.loads(await answer.read())["timings"]
        pid_after = watched.pid

    assert timings["prompt_ms"] > 4 * 50, "the prompt was too short to prove anything"
    assert pid_after == pid
    assert watched.states == ["starting", "ready", "draining", "stopped"]


async def test_engine_with_a_turn_in_flight_ends(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """A turn that goes on holds up a stop for `drain_s` only; its connection is cut, so that SIGTERM is heard."""
    config = quick_config(DEMO_MODEL, slots=1, ctx_size=16384, drain_s=0.1)
    body = orjson.dumps({"prompt": "go on", "n_predict": 16000, "id_slot": 0, "stream": True})

    async with Watched(config, binary, home, folder) as watched:
        pid = await watched.gets_ready()
        watched.worker.enter()
        async with watched.spawn.client.post("/completion", body) as answer:
            await anext(answer.chunks())
            watched.worker.stop()
            await watched.task
        watched.worker.leave()

    assert not psutil.pid_exists(pid)
    assert "ended with -9" not in watched.log()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "No such file or directory"),
        ("corrupt", "failed to load model from"),
        ("foreign", "invalid magic characters"),
        ("truncated", "is corrupted or incomplete"),
    ],
)
async def test_bad_model(
    case: str, words: str, binary: EngineBinary, home: Home, folder: RunFolder, tmp_path: Path
) -> None:
    """A model that cannot be used fails the worker at once, with the engine's own words."""
    model = tmp_path / f"{case}.gguf"
    good = DEMO_MODEL.read_bytes()
    match case:
        case "corrupt":
            model.write_bytes(good[:4] + b"\xff" * 5000)
        case "foreign":
            model.write_bytes(b"<html>" * 100)
        case "truncated":
            model.write_bytes(good[: len(good) // 2])

    async with Watched(quick_config(model), binary, home, folder) as watched:
        await watched.reaches(WorkerState.FAILED)
        reason = str(watched.worker.reason)

    assert words in reason
    assert reason.startswith("llama-server ended with exit code 1 (")
    assert watched.states == ["starting", "failed", "stopped"]


async def test_wrong_flag(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """A flag that the engine does not know is named in the reason."""
    async with Watched(quick_config(DEMO_MODEL, "--no-such-flag"), binary, home, folder) as watched:
        await watched.reaches(WorkerState.FAILED)

    assert "invalid argument: --no-such-flag" in str(watched.worker.reason)


async def test_busy_port(binary: EngineBinary, home: Home, folder: RunFolder) -> None:
    """A TCP port that somebody holds is named in the reason."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with Watched(quick_config(DEMO_MODEL, listen="tcp", port=port), binary, home, folder) as watched:
            await watched.reaches(WorkerState.FAILED)

    assert f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}" in str(watched.worker.reason)


async def test_restart_of_a_mended_model(binary: EngineBinary, home: Home, folder: RunFolder, tmp_path: Path) -> None:
    """Once the model is there a restart gets the worker out of `failed`."""
    model = tmp_path / "late.gguf"
    async with Watched(quick_config(model), binary, home, folder) as watched:
        await watched.reaches(WorkerState.FAILED)
        model.symlink_to(DEMO_MODEL)
        watched.worker.restart()
        await watched.gets_ready()
        is_ready_now = await watched.spawn.client.is_healthy(5)
        await eventually(lambda: watched.worker.reason is None)

    assert is_ready_now
