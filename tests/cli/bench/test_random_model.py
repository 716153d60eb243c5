"""A model written without numpy: what GGUF's own reader and the engine make of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest

from hugind.cli.bench.child import start_child
from hugind.cli.bench.conversation import Chat
from hugind.cli.bench.random_model import Shape, write_random_model
from hugind.cli.bench.target import Target, is_answering
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.models.gguf import read_header
from hugind.supervisor.settings import worker_environment
from hugind.supervisor.spawn import free_port
from tests.engines import engine_binary

TINY = Shape(dim=64, layers=2, heads=4, kv_heads=2, ff=96, ctx=2048)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "tiny.gguf", TINY)


def test_default_has_the_kv_of_the_reference(tmp_path: Path) -> None:
    """A token of the default model takes 12 KB of KV at f16, and there are about 80 million parameters."""
    header = read_header(write_random_model(tmp_path / "default.gguf"))
    assert isinstance(header.kv_heads, int)
    assert header.layers
    assert header.key_length
    assert header.value_length

    assert 12288 == header.layers * header.kv_heads * (header.key_length + header.value_length) * 2
    assert 80e6 * 34 / 32 == pytest.approx(header.size_bytes, rel=0.05)


def test_same_arguments_same_bytes(model: Path, tmp_path: Path) -> None:
    """The seed decides; nothing else does."""
    again = write_random_model(tmp_path / "again.gguf", TINY)
    other = write_random_model(tmp_path / "other.gguf", TINY, seed=1)

    assert model.read_bytes() == again.read_bytes() != other.read_bytes()


def test_weights_keep_sizes(model: Path) -> None:
    """A vector that goes through a matrix keeps its size; what is added to the hidden state leaves its first number."""
    reader = gguf.GGUFReader(model)
    gains = {}
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            matrix = gguf.dequantize(tensor.data, tensor.tensor_type)
            gains[tensor.name] = float(matrix.std() * np.sqrt(matrix.shape[1]))
            if tensor.name.endswith(("attn_output.weight", "ffn_down.weight")):
                assert not matrix[0].any()

    assert 7 * TINY.layers == len(gains)
    assert all(gain == pytest.approx(1, abs=0.05) for gain in gains.values())


async def test_engine_answers_with_it(model: Path, tmp_path: Path) -> None:
    """The engine loads it; what it says can be read, and only a limit ends it. A turn of 3 letters is 8 tokens."""
    binary, port = resolve_binary(engine_binary()), free_port()
    argv = [*binary.argv, *f"--model {model} --host 127.0.0.1 --port {port} --parallel 1 --ctx-size 2048".split()]
    target = Target("engine", ("127.0.0.1", port))
    async with AsyncExitStack() as stack:
        await start_child(
            stack, argv,
            name="engine", folder=tmp_path, env=worker_environment({}, "key"),
            is_ready=lambda: is_answering(target, "/health"), timeout_s=40, stop_s=5,
        )  # fmt: skip
        chat = await stack.enter_async_context(Chat("engine", f"http://127.0.0.1:{port}", model="any", key="key"))
        said = [{"role": "user", "content": "Hello, who is there?"}]
        async with asyncio.timeout(40):
            first = await chat.ask(said, max_tokens=50)
            said += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "abc"}]
            second = await chat.ask(said, max_tokens=50)

    assert 50 == len(first.text)
    assert first.text.isprintable()
    assert 8 == second.computed_tokens
