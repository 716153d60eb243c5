"""The flags of llama-server that the wheel's `CommonParams` can hold: name, attribute, how to read the value, variable.

Read by `embedded_flags.py` where the wheel does not export llama.cpp's own parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp as x


@dataclass(frozen=True)
class Value:
    """A flag that takes a value: `read` turns the text into what every attribute in `to` is set to (or grows by)."""

    names: str
    to: str
    read: Callable[[str], Any]
    env: str = ""
    sampling: str = ""  # the name by which llama.cpp notes that the user, not the model's metadata, chose this


@dataclass(frozen=True)
class Switch:
    """A flag without a value. `off` are the spellings that undo it; `on` and `off` are what `to` is set to."""

    names: str
    to: str
    off_names: str = ""
    on: Any = True
    off: Any = False
    env: str = ""


@dataclass(frozen=True)
class Ignored:
    """A flag about how the log looks. The wheel offers no way to change that, and nothing depends on it."""

    names: str
    takes_value: bool = False


Flag = Value | Switch | Ignored


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text not in choices:
            raise ValueError(f"invalid value '{text}', one of: {', '.join(choices)}")
        return choices[text]

    return read


def _members(enum: Any, prefix: str, names: str) -> Callable[[str], Any]:
    """Reads the name of an enum member as llama-server spells it: in lower case, without the prefix, with hyphens."""
    return _one_of({name: enum[prefix + name.upper().replace("-", "_").replace("+", "_")] for name in names.split()})


def _count_of_layers(text: str) -> int:
    return {"auto": -1, "all": -2}.get(text) or int(text)


def _count_of_slots(text: str) -> int:
    count = int(text)
    if count == 0:
        raise ValueError("error: invalid value for n_parallel")
    return count


def _directory(text: str) -> str:
    """With a slash at the end: the engine puts file names right behind it."""
    if not Path(text).is_dir():
        raise ValueError(f"not a directory: {text}")
    return text if text.endswith("/") else f"{text}/"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _word_set(text: str) -> set[str]:
    return set(_words(text))


def _text_of_file(text: str) -> str:
    return Path(text).read_text(encoding="utf-8")


def _keys_in_file(text: str) -> list[str]:
    return [line for line in _text_of_file(text).splitlines() if line and not line.startswith("#")]


def _proportions(text: str) -> list[float]:
    """The engine's array has one place for each device it could ever have."""
    places = len(x.CommonParams().tensor_split)
    given = [float(word) for word in _words(text.replace("/", ","))]
    if len(given) > places:
        raise ValueError(f"more than {places} devices")
    return given + [0.0] * (places - len(given))


def _adapters(text: str) -> list[x.CommonAdapterLoraInfo]:
    return [_adapter(path, 1.0) for path in _words(text)]


def _scaled_adapters(text: str) -> list[x.CommonAdapterLoraInfo]:
    pairs = [word.rpartition(":") for word in _words(text)]
    if not all(colon for _, colon, _ in pairs):
        raise ValueError("lora-scaled format: FNAME:SCALE")
    return [_adapter(path, float(scale)) for path, _, scale in pairs]


def _adapter(path: str, scale: float) -> x.CommonAdapterLoraInfo:
    adapter = x.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


def _template_variables(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - reported as a bad value, like its neighbours
    return {name: json.dumps(value, separators=(",", ":")) for name, value in found.items()}


def _inverse_scale(text: str) -> float:
    return 1.0 / float(text)


_on_off = _one_of({"on": True, "off": False})
_flash = _one_of(
    {
        **dict.fromkeys(("on", "enabled", "true", "1"), x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED),
        **dict.fromkeys(("off", "disabled", "false", "0"), x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED),
        **dict.fromkeys(("auto", "-1"), x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO),
    }
)
_cache_type = _members(x.ggml_type, "GGML_TYPE_", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
_pooling = _members(x.llama_pooling_type, "LLAMA_POOLING_TYPE_", "none mean cls last rank")
_split = _members(x.llama_split_mode, "LLAMA_SPLIT_MODE_", "none layer row tensor")
_lazy = _members(x.llama_lazy_mode, "LLAMA_LAZY_MODE_", "on auto off")
_rope = _members(x.llama_rope_scaling_type, "LLAMA_ROPE_SCALING_TYPE_", "none linear yarn")
_numa = _members(x.ggml_numa_strategy, "GGML_NUMA_STRATEGY_", "distribute isolate numactl")
_thinking = _members(x.common_reasoning_format, "COMMON_REASONING_FORMAT_", "none auto deepseek deepseek-legacy")
_load = _one_of(
    {
        "dio": x.llama_load_mode.LLAMA_LOAD_MODE_DIRECT_IO,
        **{
            name: x.llama_load_mode["LLAMA_LOAD_MODE_" + name.upper().replace("+", "_")]
            for name in ("auto", "none", "mmap", "mlock", "mmap+mlock")
        },
    }
)
_speculation = _members(
    x.common_speculative_type,
    "COMMON_SPECULATIVE_TYPE_",
    "none draft-simple draft-eagle3 draft-mtp draft-dflash draft-dspark "
    "ngram-simple ngram-map-k ngram-map-k4v ngram-mod ngram-cache",
)


def _speculations(text: str) -> list[Any]:
    return [_speculation(word) for word in _words(text)]


# fmt: off
FLAGS: tuple[Flag, ...] = (
    # the model
    Value("-m --model", "model.path", str, "MODEL"),
    Value("-mm --mmproj", "mmproj.path", str, "MMPROJ"),
    Switch("--mmproj-auto", "no_mmproj", "--no-mmproj --no-mmproj-auto", on=False, off=True, env="MMPROJ_AUTO"),
    Switch("--mmproj-offload", "mmproj_use_gpu", "--no-mmproj-offload", env="MMPROJ_OFFLOAD"),
    Value("-a --alias", "model_alias", _word_set, "ALIAS"),
    Value("--tags", "model_tags", _word_set, "TAGS"),
    Value("--lora", "lora_adapters+", _adapters),
    Value("--lora-scaled", "lora_adapters+", _scaled_adapters),
    Switch("--lora-init-without-apply", "lora_init_without_apply"),
    Value("-lm --load-mode", "load_mode", _load, "LOAD_MODE"),
    Value("-lzm --lazy-mode", "lazy_mode", _lazy, "LAZY_MODE"),
    Switch("--check-tensors", "check_tensors"),
    Switch("--repack", "no_extra_bufts", "-nr --no-repack", on=False, off=True, env="REPACK"),
    Switch("--warmup", "warmup", "--no-warmup"),
    # where it computes
    Value("-t --threads", "cpuparams.n_threads", int, "THREADS"),
    Value("-tb --threads-batch", "cpuparams_batch.n_threads", int),
    Value("-ngl --gpu-layers --n-gpu-layers", "n_gpu_layers", _count_of_layers, "N_GPU_LAYERS"),
    Value("-sm --split-mode", "split_mode", _split, "SPLIT_MODE"),
    Value("-ts --tensor-split", "tensor_split", _proportions, "TENSOR_SPLIT"),
    Value("-mg --main-gpu", "main_gpu", int, "MAIN_GPU"),
    Value("-ot --override-tensor", "tensor_buft_overrides", str, "OVERRIDE_TENSOR"),
    Value("-fit --fit", "fit_params", _on_off, "FIT"),
    Value("-fitc --fit-ctx", "fit_params_min_ctx", int, "FIT_CTX"),
    Value("--numa", "numa", _numa, "NUMA"),
    Switch("-kvo --kv-offload", "no_kv_offload", "-nkvo --no-kv-offload", on=False, off=True, env="KV_OFFLOAD"),
    Switch("--op-offload", "no_op_offload", "--no-op-offload", on=False, off=True),
    Switch("--no-host", "no_host", env="NO_HOST"),
    # context and cache
    Value("-c --ctx-size", "n_ctx", int, "CTX_SIZE"),
    Value("-n --predict --n-predict", "n_predict", int, "N_PREDICT"),
    Value("-b --batch-size", "n_batch", int, "BATCH"),
    Value("-ub --ubatch-size", "n_ubatch", int, "UBATCH"),
    Value("--keep", "n_keep", int),
    Value("-np --parallel", "n_parallel", _count_of_slots, "N_PARALLEL"),
    Value("-fa --flash-attn", "flash_attn_type", _flash, "FLASH_ATTN"),
    Value("-ctk --cache-type-k", "cache_type_k", _cache_type, "CACHE_TYPE_K"),
    Value("-ctv --cache-type-v", "cache_type_v", _cache_type, "CACHE_TYPE_V"),
    Value("-cram --cache-ram", "cache_ram_mib", int, "CACHE_RAM"),
    Value("--cache-reuse", "n_cache_reuse", int, "CACHE_REUSE"),
    Value("-ctxcp --ctx-checkpoints --swa-checkpoints", "n_ctx_checkpoints", int, "CTX_CHECKPOINTS"),
    Value("-cms --checkpoint-min-step", "checkpoint_min_step", int, "CHECKPOINT_MIN_SPACING_NT"),
    Value("--kv-unified-per-slot", "kv_unified_per_slot", int, "KV_UNIFIED_PER_SLOT"),
    Switch("-kvu --kv-unified", "kv_unified", "-no-kvu --no-kv-unified", env="KV_UNIFIED"),
    Switch("--cache-prompt", "cache_prompt", "--no-cache-prompt", env="CACHE_PROMPT"),
    Switch("--cache-idle-slots", "cache_idle_slots", "--no-cache-idle-slots", env="CACHE_IDLE_SLOTS"),
    Switch("--context-shift", "ctx_shift", "--no-context-shift", env="CONTEXT_SHIFT"),
    Switch("--swa-full", "swa_full", env="SWA_FULL"),
    Value("--rope-scaling", "rope_scaling_type", _rope, "ROPE_SCALING_TYPE"),
    Value("--rope-scale", "rope_freq_scale", _inverse_scale, "ROPE_SCALE"),
    Value("--rope-freq-base", "rope_freq_base", float, "ROPE_FREQ_BASE"),
    Value("--rope-freq-scale", "rope_freq_scale", float, "ROPE_FREQ_SCALE"),
    Value("--yarn-orig-ctx", "yarn_orig_ctx", int, "YARN_ORIG_CTX"),
    Value("--yarn-ext-factor", "yarn_ext_factor", float, "YARN_EXT_FACTOR"),
    Value("--yarn-attn-factor", "yarn_attn_factor", float, "YARN_ATTN_FACTOR"),
    Value("--yarn-beta-slow", "yarn_beta_slow", float, "YARN_BETA_SLOW"),
    Value("--yarn-beta-fast", "yarn_beta_fast", float, "YARN_BETA_FAST"),
    # speculation
    Value("-md --model-draft --spec-draft-model", "speculative.draft.mparams.path", str, "SPEC_DRAFT_MODEL"),
    Value("--spec-type", "speculative.types+", _speculations, "SPEC_TYPE"),
    Value("--spec-draft-n-max", "speculative.draft.n_max", int, "SPEC_DRAFT_N_MAX"),
    Value("--spec-draft-n-min", "speculative.draft.n_min", int, "SPEC_DRAFT_N_MIN"),
    Value("--spec-draft-p-min --draft-p-min", "speculative.draft.p_min", float, "SPEC_DRAFT_P_MIN"),
    Value("--spec-draft-p-split --draft-p-split", "speculative.draft.p_split", float, "SPEC_DRAFT_P_SPLIT"),
    Value("-ngld --spec-draft-ngl --gpu-layers-draft --n-gpu-layers-draft",
          "speculative.draft.n_gpu_layers", _count_of_layers, "N_GPU_LAYERS_DRAFT"),
    Value("-ctkd --cache-type-k-draft --spec-draft-type-k",
          "speculative.draft.cache_type_k", _cache_type, "SPEC_DRAFT_CACHE_TYPE_K"),
    Value("-ctvd --cache-type-v-draft --spec-draft-type-v",
          "speculative.draft.cache_type_v", _cache_type, "SPEC_DRAFT_CACHE_TYPE_V"),
    Value("-td --threads-draft --spec-draft-threads", "speculative.draft.cpuparams.n_threads", int),
    Value("-tbd --threads-batch-draft --spec-draft-threads-batch", "speculative.draft.cpuparams_batch.n_threads", int),
    # sampling, where a request does not say
    Value("--samplers", "sampling.samplers", str, sampling="SAMPLERS"),
    Value("-s --seed", "sampling.seed", lambda text: int(text) & 0xFFFFFFFF),
    Value("--temp --temperature", "sampling.temp", float, "TEMPERATURE", sampling="TEMP"),
    Value("--top-k", "sampling.top_k", int, "TOP_K", sampling="TOP_K"),
    Value("--top-p", "sampling.top_p", float, "TOP_P", sampling="TOP_P"),
    Value("--min-p", "sampling.min_p", float, "MIN_P", sampling="MIN_P"),
    Value("--typical --typical-p", "sampling.typ_p", float),
    Value("--xtc-probability", "sampling.xtc_probability", float, sampling="XTC_PROBABILITY"),
    Value("--xtc-threshold", "sampling.xtc_threshold", float, sampling="XTC_THRESHOLD"),
    Value("--repeat-last-n", "sampling.penalty_last_n", int, sampling="PENALTY_LAST_N"),
    Value("--repeat-penalty", "sampling.penalty_repeat", float, "REPEAT_PENALTY", sampling="PENALTY_REPEAT"),
    Value("--presence-penalty", "sampling.penalty_present", float, "PRESENCE_PENALTY"),
    Value("--frequency-penalty", "sampling.penalty_freq", float, "FREQUENCY_PENALTY"),
    Value("--mirostat", "sampling.mirostat", int, sampling="MIROSTAT"),
    Value("--mirostat-lr", "sampling.mirostat_eta", float, sampling="MIROSTAT_ETA"),
    Value("--mirostat-ent", "sampling.mirostat_tau", float, sampling="MIROSTAT_TAU"),
    Switch("--ignore-eos", "sampling.ignore_eos"),
    # what is served
    Switch("--embedding --embeddings", "embedding", env="EMBEDDINGS"),
    Switch("--rerank --reranking", "embedding=true pooling_type", on=_pooling("rank"), env="RERANKING"),
    Value("--pooling", "pooling_type", _pooling, "POOLING"),
    Value("--embd-normalize", "embd_normalize", int),
    Switch("--jinja", "use_jinja", "--no-jinja", env="JINJA"),
    Value("--chat-template", "chat_template", str, "CHAT_TEMPLATE"),
    Value("--chat-template-file", "chat_template", _text_of_file, "CHAT_TEMPLATE_FILE"),
    Value("--chat-template-kwargs", "default_template_kwargs+", _template_variables, "CHAT_TEMPLATE_KWARGS"),
    Value("--reasoning-format", "reasoning_format", _thinking, "THINK"),
    Value("--reasoning-budget", "sampling.reasoning_budget_tokens", int, "THINK_BUDGET"),
    Switch("--prefill-assistant", "prefill_assistant", "--no-prefill-assistant", env="PREFILL_ASSISTANT"),
    Switch("--skip-chat-parsing", "force_pure_content_parser", "--no-skip-chat-parsing", env="SKIP_CHAT_PARSING"),
    Value("--image-min-tokens", "image_min_tokens", int, "IMAGE_MIN_TOKENS"),
    Value("--image-max-tokens", "image_max_tokens", int, "IMAGE_MAX_TOKENS"),
    Value("--media-path", "media_path", _directory),
    Switch("-sp --special", "special"),
    # how it is served
    Value("--host", "hostnames", _words, "HOST"),
    Value("--port", "port", int, "PORT"),
    Switch("--reuse-port", "reuse_port", env="REUSE_PORT"),
    Value("--api-prefix", "api_prefix", str, "API_PREFIX"),
    Value("--path", "public_path", str, "STATIC_PATH"),
    Value("--api-key", "api_keys+", _words, "LLAMA_API_KEY"),
    Value("--api-key-file", "api_keys+", _keys_in_file, "API_KEY_FILE"),
    Value("--ssl-key-file", "ssl_file_key", str, "SSL_KEY_FILE"),
    Value("--ssl-cert-file", "ssl_file_cert", str, "SSL_CERT_FILE"),
    Value("--cors-origins", "cors_origins cors_origins_explicit=true", str, "CORS_ORIGINS"),
    Value("-to --timeout", "timeout_read timeout_write", int, "TIMEOUT"),
    Value("--sse-ping-interval", "sse_ping_interval", int, "SSE_PING_INTERVAL"),
    Value("--threads-http", "n_threads_http", int, "THREADS_HTTP"),
    Value("--sleep-idle-seconds", "sleep_idle_seconds", int),
    Value("--slot-save-path", "slot_save_path", _directory, "SLOT_SAVE_PATH"),
    Value("-sps --slot-prompt-similarity", "slot_prompt_similarity", float),
    Switch("-cb --cont-batching", "cont_batching", "-nocb --no-cont-batching", env="CONT_BATCHING"),
    Switch("--metrics", "endpoint_metrics", env="ENDPOINT_METRICS"),
    Switch("--props", "endpoint_props", env="ENDPOINT_PROPS"),
    Switch("--slots", "endpoint_slots", "--no-slots", env="ENDPOINT_SLOTS"),
    Switch("--ui --webui", "ui", "--no-ui --no-webui", env="UI"),
    Switch("--offline", "offline", env="OFFLINE"),
    # the log
    Value("-lv --verbosity --log-verbosity", "verbosity", int, "LOG_VERBOSITY"),
    Switch("-v --verbose --log-verbose", "verbosity", on=0x7FFFFFFF),
    Switch("--perf", "no_perf sampling.no_perf", "--no-perf", on=False, off=True, env="PERF"),
    Ignored("--log-prefix --no-log-prefix --log-timestamps --no-log-timestamps"),
    Ignored("--log-colors", takes_value=True),
)
# fmt: on
