"""What a model takes is computed as the engine allocates it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.config import Config
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.llama.command import CHECKPOINTS
from hugind.supervisor.models.gguf import GgufHeader, read_header
from hugind.supervisor.models.sizing import Footprint, footprint_of, parts_of
from tests.engines import DEMO_MODEL, engine_binary
from tools.random_gguf import make_hybrid_gguf, make_swa_gguf

MIB = 1 << 20
HEADER = read_header(DEMO_MODEL)
LINES = {
    "weights": r"model buffer size = +([\d.]+) MiB",
    "kv": r"KV buffer size = +([\d.]+) MiB",
    "state": r"RS buffer size = +([\d.]+) MiB",
    "compute": r"compute buffer size = +([\d.]+) MiB",
}


def header(architecture: str, **values: Any) -> GgufHeader:
    """A header with nothing but these values: `a__b` stands for the key `<architecture>.a.b`."""
    keys = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    return replace(HEADER, architecture=architecture, values=keys, lengths={"tokenizer.ggml.tokens": 1000})


def config(*, slots: int = 1, concurrency: int = 1, gpu_layers: int | str = "auto", **context: Any) -> Config:
    """One with these sizes; `task` is the model's."""
    model = {"model_path": "m.gguf", "task": context.pop("task", "chat")}
    return Config.model_validate(
        {
            "model": model,
            "context": {"ctx_size": 4096, **context},
            "server": {"max_slots": slots, "concurrency": concurrency},
            "device": {"gpu_layers": gpu_layers},
        }
    )


LLAMA = header(
    "llama",
    block_count=32,
    embedding_length=4096,
    attention__head_count=32,
    attention__head_count_kv=8,
    feed_forward_length=14336,
)
"""The shape of an 8B model: 128 KiB for each token in f16."""


def test_llama_8b() -> None:
    """128 KiB a token, not the megabyte that people fear; by cache type and slots."""
    assert 4096 * (128 << 10) == parts_of(LLAMA, config()).kv
    assert 3 * 512 * MIB == parts_of(LLAMA, config(slots=3)).kv
    assert 512 * MIB * 17 // 32 == parts_of(LLAMA, config(cache_type_k="q8_0", cache_type_v="q8_0")).kv
    assert parts_of(LLAMA, config(ctx_size=4097)).kv == parts_of(LLAMA, config(ctx_size=4352)).kv


@pytest.mark.parametrize(
    ("model", "kv", "state"),
    [
        (
            header("deepseek2", block_count=27, attention__head_count=16, attention__head_count_kv=1,
                   attention__key_length=576, attention__value_length=512, attention__key_length_mla=192),
            27 * 576 * 2 * 4096,
            0,
        ),
        (
            header("gemma3", block_count=6, attention__head_count=8, attention__head_count_kv=4,
                   attention__key_length=256, attention__value_length=256, attention__sliding_window=512),
            4 * 512 * 2 * (4096 + 5 * 1024),
            0,
        ),
        (
            header("qwen3next", block_count=8, embedding_length=2048, attention__head_count=16,
                   attention__head_count_kv=2, attention__key_length=256, attention__value_length=256,
                   ssm__conv_kernel=4, ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=16),
            2 * 2 * 512 * 2 * 4096,
            6 * 4 * (3 * (4096 + 2 * 16 * 128) + 4096 * 128),
        ),
        (
            header("rwkv7", block_count=2, embedding_length=768, wkv__head_size=64, token_shift_count=2),
            0,
            2 * 4 * (2 * 768 + 768 * 64),
        ),
        (
            header("lfm2", block_count=3, embedding_length=1024, attention__head_count=16,
                   attention__head_count_kv=(0, 8, 0), shortconv__l_cache=3),
            8 * 128 * 2 * 4096,
            2 * 4 * 1024 * 2,
        ),
        (
            header("kimi-linear", block_count=2, embedding_length=256, attention__head_count=4, kda__head_dim=64,
                   attention__head_count_kv=(0, 1), attention__key_length=64, attention__value_length=64,
                   ssm__conv_kernel=4),
            128 * 2 * 4096,
            4 * (3 * 3 * 4 * 64 + 64 * 64 * 4),
        ),
        (
            header("nemotron_h", block_count=3, embedding_length=256, attention__head_count=4,
                   attention__head_count_kv=(0, 0, 2), feed_forward_length=(0, 512, 0), ssm__conv_kernel=4,
                   ssm__inner_size=512, ssm__state_size=16, ssm__group_count=1),
            2 * 128 * 2 * 4096,
            4 * (3 * (512 + 32) + 512 * 16),
        ),
        (
            header("falcon-h1", block_count=2, embedding_length=256, attention__head_count=4,
                   attention__head_count_kv=4, ssm__conv_kernel=4, ssm__inner_size=512, ssm__state_size=16),
            2 * 4 * 128 * 2 * 4096,
            2 * 4 * (3 * 512 + 512 * 16),
        ),
        (header("gemma3n", block_count=4, embedding_length=64, attention__head_count=1, attention__shared_kv_layers=2,
                attention__key_length=64, attention__value_length=64), 2 * 128 * 2 * 4096, 0),
        (header("bert", block_count=12, embedding_length=384, attention__head_count=12), 0, 0),
    ],
    ids=lambda value: value.architecture if isinstance(value, GgufHeader) else None,
)  # fmt: skip
def test_families(model: GgufHeader, kv: int, state: int) -> None:
    """Each keeps what llama.cpp keeps for it: latent attention, windows, states, layers without."""
    parts = parts_of(model, config())
    assert (kv, state) == (parts.kv, parts.state)


def test_windows() -> None:
    """A window bounds the cache, and its copies; the whole context is kept where the config says so."""
    model = header(
        "gemma3",
        block_count=6,
        attention__head_count=8,
        attention__head_count_kv=4,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=512,
    )
    short, long = parts_of(model, config(slots=2)), parts_of(model, config(slots=2, swa_full=True))

    assert 2 * CHECKPOINTS * 5 * 1024 * 4 * 512 * 2 == short.checkpoints
    assert 2 * 6 * 4096 * 4 * 512 * 2 == long.kv
    assert 0 == long.checkpoints
    assert 2 * (4096 + 5 * 1024) * 4 * 512 * 2 == short.kv


def test_gpu_layers() -> None:
    """By layers: all, none or a share; the vocabulary's table and the process itself stay in RAM."""
    model = replace(LLAMA, size_bytes=4_000 * MIB, data_offset=0, parameters=100, token_parameters=5)
    cpu = footprint_of(model, config(), gpu=False)
    whole, none = footprint_of(model, config(), gpu=True), footprint_of(model, config(gpu_layers=0), gpu=True)
    some = footprint_of(model, config(gpu_layers=16), gpu=True)

    assert 0 == cpu.vram_bytes
    assert cpu == none
    assert whole == footprint_of(model, config(gpu_layers="all"), gpu=True)
    assert whole == footprint_of(model, config(gpu_layers=99), gpu=True)
    assert whole.vram_bytes > 4_512 * MIB
    assert 200 * MIB < whole.ram_bytes < 300 * MIB
    assert none.vram_bytes < some.vram_bytes < whole.vram_bytes
    assert whole.ram_bytes < some.ram_bytes < none.ram_bytes
    assert 0.4 < (some.vram_bytes - 512 * MIB) / (whole.vram_bytes - 512 * MIB) < 0.6


def test_workers_and_files() -> None:
    """Each worker has its own; files beside the model count as weights do."""
    one, three = footprint_of(LLAMA, config(), gpu=False), footprint_of(LLAMA, config(concurrency=3), gpu=False)
    assert Footprint(3 * one.ram_bytes, 0) == three
    assert one.ram_bytes + 1000 == footprint_of(LLAMA, config(), gpu=False, extra_bytes=1000).ram_bytes


def test_embedding_computes_wide() -> None:
    """An input is computed at once, and for every token of it the whole vocabulary."""
    chat, embedding = (parts_of(LLAMA, config(task=task, ctx_size=8192)) for task in ("chat", "embedding"))
    assert embedding.compute > 16 * chat.compute


@given(ctx=st.integers(64, 1 << 20), slots=st.integers(1, 8), cache=st.sampled_from(["f32", "f16", "q8_0", "q4_0"]))
def test_more_takes_more(ctx: int, slots: int, cache: str) -> None:
    """Never less for a longer context, another slot or a finer cache."""
    asked = config(ctx_size=ctx, slots=slots, cache_type_k=cache)
    less = footprint_of(LLAMA, asked, gpu=True)
    for more in (config(ctx_size=ctx + 1, slots=slots, cache_type_k=cache), config(ctx_size=ctx, slots=slots + 1,
                 cache_type_k=cache), config(ctx_size=ctx, slots=slots, cache_type_k="f32")):  # fmt: skip
        found = footprint_of(LLAMA, more, gpu=True)
        assert found.ram_bytes >= less.ram_bytes
        assert found.vram_bytes >= less.vram_bytes


def test_a_header_that_says_nothing() -> None:
    """Then the weights are all that is known."""
    empty = header("newcomer")
    parts = parts_of(empty, config())
    assert (0, 0, 0) == (parts.kv, parts.state, parts.checkpoints)
    assert empty.size_bytes - empty.data_offset == parts.weights


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("make", "context"),
    [
        (partial(make_swa_gguf, dim=256, layers=4, window=512, ff=768), {"cache_type_k": "q8_0"}),
        (partial(make_hybrid_gguf, dim=256, layers=4, state=16, ff=768), {"ctx_size": 2048}),
    ],
    ids=["swa", "hybrid"],
)
def test_against_the_engine(tmp_path: Path, make: Callable[[Path], Path], context: dict[str, Any]) -> None:
    """Its own load log names the same sizes: caches, states and weights, and within a fifth what it computes in."""
    asked = config(slots=2, **context)
    parts = parts_of(read_header(make(tmp_path / "m.gguf")), asked)
    logged = load_log(tmp_path, asked)

    for part, form in LINES.items():
        theirs = sum(float(size) for size in re.findall(form, logged))
        tolerance = 0.2 if part == "compute" else 0.02
        assert abs(getattr(parts, part) / MIB - theirs) <= tolerance * theirs + 0.02, part


def load_log(folder: Path, asked: Config) -> str:
    """What the engine says while it loads `m.gguf`."""
    context, slots = asked.context, asked.server.max_slots
    flags = {
        "--model": folder / "m.gguf",
        "--host": folder / "s.sock",
        "--parallel": slots,
        "--ctx-size": slots * context.ctx_size,
        "--cache-type-k": context.cache_type_k,
        "--cache-type-v": context.cache_type_v,
        "--flash-attn": "on",
        "--fit": "off",  # it would load a first time to see what is needed, and log that too
    }
    argv = [*resolve_binary(engine_binary()).argv, "--no-kv-unified", "--verbose"]
    argv += [str(word) for pair in flags.items() for word in pair]
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stderr is not None
        for line in engine.stderr:
            lines.append(line)
            if "listening on" in line:
                engine.kill()
    return "".join(lines)
