"""How much memory does a model take? Pure.

Caches as llama.cpp b11434 and b11549 lay them out (`src/llama-kv-cache.cpp`, `src/llama-memory-recurrent.cpp`,
`n_embd_r` and `n_embd_s` in `src/llama-hparams.cpp`); what it computes in was fitted to its load log.
"""

from __future__ import annotations

from dataclasses import dataclass

from hugind.supervisor.config import Config
from hugind.supervisor.llama.command import CHECKPOINTS, MAX_POOLED_BATCH
from hugind.supervisor.models.family import (
    CELL_PADDING,
    ELEMENT_BYTES,
    Family,
    family_of,
    layers_with_window,
    number_of,
    sliding_window,
    windowed_cells,
)
from hugind.supervisor.models.gguf import GgufHeader

_STATE_BYTES = 4  # a state is kept in f32
_DEFAULT_UBATCH = 512
_DEFAULT_BATCH = 2048
_MASK_BYTES = 2
_ACTIVATION_BYTES = 4
_PROCESS_BYTES = 48 << 20
"""A worker of the embedded engine without a model: measured 35 to 40 MB; of the native one 22."""
_TOKEN_BYTES = 512
"""For each token of the vocabulary, kept beside the weights: measured 180, and more where there are merges."""
_GPU_CONTEXT_BYTES = 512 << 20
"""What a process takes of a GPU before it loads anything."""
_KDA_KERNEL = 4
_DEFAULT_INTERVAL = 4
_WITHOUT_CACHE = {
    "bert",
    "dream",
    "eurobert",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "rnd1",
}
"""They read a text as a whole: `create_memory` in `src/llama-model.cpp` gives them none."""
_LAYERS_IN_TURN = ("qwen35", "qwen35moe", "qwen3next", "qwen4exp")


@dataclass(frozen=True)
class Footprint:
    """Memory that an engine takes, of both kinds."""

    ram_bytes: int
    vram_bytes: int


@dataclass(frozen=True)
class Parts:
    """What one worker needs memory for, in bytes."""

    weights: int
    kv: int
    """Of all slots together."""
    state: int
    """What recurrent layers remember, of all slots together."""
    checkpoints: int
    """Copies of what cannot be gone back in, at most; in RAM."""
    compute: int
    process: int


def footprint_of(header: GgufHeader, config: Config, *, gpu: bool, extra_bytes: int = 0) -> Footprint:
    """The memory of all workers of an engine, once its slots are full.

    Args:
        gpu: its llama-server computes on a GPU with memory of its own. Not so on Apple's, which share the RAM.
        extra_bytes: files beside the model that are loaded too: projector, draft, adapters, further parts of a split
            model (`extra_bytes` in `library.py` adds them up).

    An upper bound in the details: weights in RAM that are only mapped can be shared by workers, and checkpoints are
    made where needed.
    """
    parts = parts_of(header, config, extra_bytes=extra_bytes)
    share = _gpu_share(header, config) if gpu else 0.0
    movable = parts.weights + parts.kv + parts.state
    ram = movable - int(share * movable) + parts.checkpoints + parts.process
    vram = int(share * movable)
    if share:
        ram += _token_table_bytes(header)
        vram += parts.compute + _GPU_CONTEXT_BYTES
    if share < 1:
        ram += parts.compute
    workers = config.server.concurrency
    return Footprint(ram_bytes=workers * ram, vram_bytes=workers * vram)


def parts_of(header: GgufHeader, config: Config, *, extra_bytes: int = 0) -> Parts:
    """What one worker needs memory for."""
    slots, layers = config.server.max_slots, _layers(header, config)
    cells = _cells(config)
    short = windowed_cells(sliding_window(header.values, header.architecture), cells, _ubatch(config))
    full = int(cells * sum(layer.per_token for layer in layers if not layer.is_short))
    windowed = int(short * sum(layer.per_token for layer in layers if layer.is_short))
    state = sum(layer.state for layer in layers)
    return Parts(
        weights=max(0, header.size_bytes - header.data_offset) + extra_bytes,
        kv=slots * (full + windowed),
        state=slots * state,
        checkpoints=slots * CHECKPOINTS * (windowed + state),
        compute=_compute_bytes(header, config),
        process=_PROCESS_BYTES + _TOKEN_BYTES * _vocabulary(header),
    )


@dataclass(frozen=True)
class _Layer:
    """What one layer keeps of a slot, in bytes."""

    per_token: float
    is_short: bool
    """It keeps the last tokens only."""
    state: int


def _layers(header: GgufHeader, config: Config) -> list[_Layer]:
    values, architecture = header.values, header.architecture
    family, count = family_of(values, architecture), header.layers or 0
    recurrent = _recurrent_layers(header, family, count)
    has_window = [False] * count
    if sliding_window(values, architecture):
        has_window = layers_with_window(values, architecture, count)
    kv_heads = header.kv_heads
    heads = kv_heads if isinstance(kv_heads, tuple) else (kv_heads or 0,) * count
    if family is Family.RECURRENT or architecture in _WITHOUT_CACHE:
        heads = (0,) * count
    elif _has_layers_in_turn(header):
        heads = tuple(0 if layer in recurrent else one for layer, one in enumerate(heads))
    sharing = number_of(values, architecture, "attention.shared_kv_layers")
    widths = {windowed: _bytes_of_head(header, config, windowed=windowed) for windowed in (False, True)}
    state = _state_bytes(header)
    return [
        _Layer(
            per_token=one * widths[windowed] if layer < count - sharing else 0,
            is_short=windowed and not config.context.swa_full,
            state=state if layer in recurrent else 0,
        )
        for layer, (one, windowed) in enumerate(zip(heads, has_window, strict=False))
    ]


def _bytes_of_head(header: GgufHeader, config: Config, *, windowed: bool) -> float:
    """Of one token, in one head of the cache."""
    values, architecture = header.values, header.architecture
    key, value = header.key_length or 0, header.value_length or 0
    if windowed:
        key = number_of(values, architecture, "attention.key_length_swa", key)
        value = number_of(values, architecture, "attention.value_length_swa", value)
    if number_of(values, architecture, "attention.key_length_mla"):
        value = 0  # latent attention: V is a part of K
    return key * ELEMENT_BYTES[config.context.cache_type_k] + value * ELEMENT_BYTES[config.context.cache_type_v]


def _recurrent_layers(header: GgufHeader, family: Family, count: int) -> set[int]:
    if family is Family.RECURRENT:
        return set(range(count))
    if family is not Family.HYBRID:
        return set()
    if _has_layers_in_turn(header):
        period = number_of(header.values, header.architecture, "full_attention_interval", _DEFAULT_INTERVAL)
        return {layer for layer in range(count) if (layer + 1) % max(1, period)}
    heads = header.kv_heads
    if isinstance(heads, tuple) and 0 in heads:
        feed = header.values.get(f"{header.architecture}.feed_forward_length")
        is_other = header.architecture.startswith("nemotron_h") and isinstance(feed, tuple)
        wide = feed if is_other and isinstance(feed, tuple) else (0,) * count
        return {layer for layer, (one, ff) in enumerate(zip(heads, wide, strict=False)) if not one and not ff}
    return set(range(count))


def _has_layers_in_turn(header: GgufHeader) -> bool:
    """All layers but every so many are recurrent, and the file does not say so layer by layer."""
    return header.architecture in _LAYERS_IN_TURN and not isinstance(header.kv_heads, tuple)


def _state_bytes(header: GgufHeader) -> int:
    """Of one recurrent layer and one slot."""
    heads = header.heads
    most = max(heads, default=0) if isinstance(heads, tuple) else heads or 0

    def number(key: str, default: int = 0) -> int:
        return number_of(header.values, header.architecture, key, default)

    width, kernel = number("embedding_length"), number("ssm.conv_kernel")
    if wkv := number("wkv.head_size"):
        return (number("token_shift_count", 2) * width + width * wkv) * _STATE_BYTES
    if conv := number("shortconv.l_cache"):
        return width * (conv - 1) * _STATE_BYTES
    if kda := number("kda.head_dim"):
        return (3 * ((kernel or _KDA_KERNEL) - 1) * most * kda + kda * kda * most) * _STATE_BYTES
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    moved = max(0, kernel - 1) * (inner + 2 * number("ssm.group_count") * state)
    return (moved + state * inner) * _STATE_BYTES


def _compute_bytes(header: GgufHeader, config: Config) -> int:
    """What one batch is computed in."""
    values, architecture, context = header.values, header.architecture, config.context
    batch, slots = _ubatch(config), config.server.max_slots
    heads = header.heads
    most = max(heads, default=0) if isinstance(heads, tuple) else heads or 0
    width = number_of(values, architecture, "embedding_length")
    wide = max(
        number_of(values, architecture, "feed_forward_length"),
        most * (header.key_length or 0),
        number_of(values, architecture, "ssm.inner_size"),
    )
    cells = _cells(config)
    outputs = slots if config.model.task == "chat" else batch
    if architecture in _WITHOUT_CACHE:
        cells, outputs = batch, 0
    scores = batch * cells * (_MASK_BYTES if context.flash_attn else _MASK_BYTES + _ACTIVATION_BYTES * most)
    return scores + _ACTIVATION_BYTES * (batch * (6 * width + 3 * wide) + outputs * _vocabulary(header))


def _cells(config: Config) -> int:
    """Tokens that one slot has room for."""
    return -(-config.context.ctx_size // CELL_PADDING) * CELL_PADDING


def _vocabulary(header: GgufHeader) -> int:
    return header.lengths.get("tokenizer.ggml.tokens", 0)


def _ubatch(config: Config) -> int:
    """Tokens computed at once, as `command.py` starts the engine."""
    context = config.context
    if config.model.task != "chat":
        pooled = context.batch_size or min(context.ctx_size, MAX_POOLED_BATCH)
        return context.ubatch_size or pooled
    return min(context.ubatch_size or _DEFAULT_UBATCH, context.batch_size or _DEFAULT_BATCH)


def _gpu_share(header: GgufHeader, config: Config) -> float:
    """How much of the layers is on the GPU: those that the config names, counted from the end, the output first."""
    asked, layers = config.device.gpu_layers, (header.layers or 0) + 1
    return min(1.0, asked / layers) if isinstance(asked, int) else 1.0


def _token_table_bytes(header: GgufHeader) -> int:
    """The table of the vocabulary, which stays in RAM: its share of the file by its share of the numbers."""
    if not header.parameters:
        return 0
    return (header.size_bytes - header.data_offset) * header.token_parameters // header.parameters
