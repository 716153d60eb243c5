"""From a config to llama-server's command line. Pure.

Why each of the fixed flags is there: reference page `docs/engine.md`, and the measurements that it names.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hugind.supervisor.config import Config
from hugind.supervisor.models.family import Family
from hugind.supervisor.paths import Home

MAX_POOLED_BATCH = 8192
"""An embedding input must fit one physical batch; beyond this the compute buffer grows out of proportion."""

CHECKPOINTS = 4
"""llama-server's 32 made slot files of a model with a window 2.7 times as large, and are 150 MB each for large hybrids
(llama.cpp PR 20819); the last few are those that a conversation goes back to."""


@dataclass(frozen=True)
class UnixEndpoint:
    """A worker on a UNIX socket."""

    path: Path


@dataclass(frozen=True)
class TcpEndpoint:
    """A worker on loopback TCP."""

    port: int


Endpoint = UnixEndpoint | TcpEndpoint


def build_flags(
    name: str,
    config: Config,
    home: Home,
    *,
    endpoint: Endpoint,
    slot_folder: Path,
    known: Collection[str],
    family: Family = Family.ATTENTION,
) -> list[str]:
    """The flags of one worker. `known` are the flags that its binary understands."""
    flags = [
        *("--model", str(config.path_of(config.model.model_path, home))),
        *("--alias", name),
        *_listen(endpoint),
        *_slots(config, slot_folder),
        *_memory(config, known),
        *_task(config),
        *_sampling(config),
        *_extras(config, home),
        *_memory_family(config, family, known),
    ]
    for quiet in (("--no-ui", "--no-webui"), ("--offline",)):
        flags += [flag for flag in quiet if flag in known][:1]
    return [*flags, *config.engine.extra_args]


def _listen(endpoint: Endpoint) -> list[str]:
    match endpoint:
        case UnixEndpoint(path):
            return ["--host", str(path)]
        case TcpEndpoint(port):
            return ["--host", "127.0.0.1", "--port", str(port)]


def _slots(config: Config, slot_folder: Path) -> list[str]:
    """Slots that are never shared, emptied or chosen behind our back."""
    slots = config.server.max_slots
    return [
        *("--parallel", str(slots)),
        *("--ctx-size", str(config.context.ctx_size * slots)),
        "--no-kv-unified",
        *("--cache-ram", "0"),
        "--no-cache-idle-slots",
        *("--slot-prompt-similarity", "0"),
        "--slots",
        "--metrics",
        *("--slot-save-path", str(slot_folder)),
    ]


def _memory(config: Config, known: Collection[str]) -> list[str]:
    context, device = config.context, config.device
    batch, ubatch = context.batch_size, context.ubatch_size
    if config.model.task != "chat":
        batch = batch or min(context.ctx_size, MAX_POOLED_BATCH)
        ubatch = ubatch or batch
    attention = {True: "on", False: "off"}.get(context.flash_attn, "auto") if context.flash_attn != "auto" else "auto"
    flags = [
        *("--flash-attn", attention),
        *("--cache-type-k", context.cache_type_k),
        *("--cache-type-v", context.cache_type_v),
        *_given("--batch-size", batch),
        *_given("--ubatch-size", ubatch),
        *_given("--threads", device.threads),
        *_given("--threads-batch", device.threads_batch),
    ]
    if device.gpu_layers != "auto":
        flags += ["--n-gpu-layers", "999" if device.gpu_layers == "all" else str(device.gpu_layers)]
    return flags + _load_mode(mlock=device.mlock, no_mmap=device.no_mmap, known=known)


def _memory_family(config: Config, family: Family, known: Collection[str]) -> list[str]:
    """Models that cannot go back in their memory go back to checkpoints, which are part of each slot file."""
    if family is Family.ATTENTION:
        return []
    flags = ["--ctx-checkpoints", str(CHECKPOINTS)] if "--ctx-checkpoints" in known else []
    return flags + (["--swa-full"] if family is Family.SWA and config.context.swa_full else [])


def _load_mode(*, mlock: bool, no_mmap: bool, known: Collection[str]) -> list[str]:
    """llama.cpp replaced `--mlock` and `--no-mmap` by `--load-mode` before b11434."""
    if "--load-mode" not in known:
        return ["--mlock"] * mlock + ["--no-mmap"] * no_mmap
    modes = {(True, True): "mlock", (True, False): "mmap+mlock", (False, True): "none"}
    mode = modes.get((mlock, no_mmap))
    return ["--load-mode", mode] if mode else []


def _task(config: Config) -> list[str]:
    match config.model.task:
        case "embedding":
            return ["--embedding", *_given("--pooling", config.model.pooling)]
        case "rerank":
            return ["--rerank"]
        case "chat":
            return []


def _sampling(config: Config) -> list[str]:
    sampling = config.sampling
    return [
        *_given("--temp", sampling.temp),
        *_given("--top-k", sampling.top_k),
        *_given("--top-p", sampling.top_p),
        *_given("--min-p", sampling.min_p),
    ]


def _extras(config: Config, home: Home) -> list[str]:
    model, chat = config.model, config.chat
    files = (("--mmproj", model.mmproj_path), ("--model-draft", model.draft_path),
             ("--chat-template-file", chat.template_file))  # fmt: skip
    flags = [part for flag, value in files if value for part in (flag, str(config.path_of(value, home)))]
    for adapter in model.lora_paths:
        flags += ["--lora", str(config.path_of(adapter, home))]
    return flags + _given("--chat-template", chat.template)


def _given(flag: str, value: float | str | None) -> list[str]:
    return [] if value is None else [flag, str(value)]
