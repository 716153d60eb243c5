"""The schema of `configs/<name>.yml`: what one engine is. Frozen; unknown keys are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home
from hugind.supervisor.yamlfile import load_model

MAX_TOTAL_CONTEXT = 2**31 - 1
"""llama-server takes the context of all slots together, as a 32-bit number."""

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` would count as 1: one layer on the GPU, one slot."""
        if isinstance(value, bool) and bool not in _kinds(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must not be true or false")
        return value


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


class ModelSection(_Section):
    """Which GGUF files, and what they are for."""

    model_path: str = Field(
        description="The GGUF file. `~` and variables are expanded; a relative path starts at the hugind home."
    )
    mmproj_path: str | None = Field(None, description="A vision projector GGUF beside the model.")
    draft_path: str | None = Field(None, description="A small GGUF of the same vocabulary, for speculative decoding.")
    lora_paths: tuple[str, ...] = Field((), description="LoRA adapters in GGUF form.")
    task: Literal["chat", "embedding", "rerank"] = Field(
        "chat", description="What the engine serves. An embedding or rerank engine holds no sessions."
    )
    pooling: Literal["mean", "cls", "last"] | None = Field(
        None, description="How an embedding engine sums up its tokens, where the GGUF does not say."
    )


class DeviceSection(_Section):
    """Where the weights live."""

    gpu_layers: int | Literal["auto", "all"] = Field(
        "auto", description="Layers offloaded to the GPU; a number larger than the model's means all."
    )
    mlock: bool = Field(False, description="Keep the model in RAM, never swapped.")
    no_mmap: bool = Field(False, description="Read the file instead of mapping it: slower to start.")
    threads: int | None = Field(None, ge=1, le=512, description="CPU threads for decoding.")
    threads_batch: int | None = Field(None, ge=1, le=512, description="CPU threads for prompts.")


class ContextSection(_Section):
    """The size and the layout of the KV cache."""

    ctx_size: int = Field(4096, ge=64, le=16_777_216, description="Context of ONE slot, in tokens.")
    batch_size: int | None = Field(
        None, ge=1, le=65536, description="Tokens of a prompt processed at once; smaller lets neighbours in sooner."
    )
    ubatch_size: int | None = Field(None, ge=1, le=65536, description="Tokens computed at once.")
    flash_attn: bool | Literal["auto"] = Field(True, description="Flash attention; a quantised V cache needs it.")
    cache_type_k: CacheType = Field("f16", description="Type of the K cache.")
    cache_type_v: CacheType = Field("f16", description="Type of the V cache.")
    swa_full: bool = Field(
        False,
        description="Models with sliding windows only: keep the whole context in the slot, so that going back far is "
        "cheap. Costs memory (`hugind doctor` shows how much), and sessions cannot be brought back then.",
    )

    @model_validator(mode="after")
    def _quantised_v_needs_flash_attention(self) -> ContextSection:
        if self.flash_attn is False and self.cache_type_v not in ("f32", "f16", "bf16"):
            raise ValueError("a quantised cache_type_v needs flash_attn: true (llama.cpp refuses it otherwise)")
        return self


class SamplingSection(_Section):
    """Defaults for requests that do not say."""

    temp: float | None = Field(None, ge=0, le=10, description="Temperature; 0 always takes the likeliest token.")
    top_k: int | None = Field(None, ge=0, description="Choose among so many tokens; 0 among all.")
    top_p: float | None = Field(None, ge=0, le=1, description="Choose among the likeliest tokens of this total share.")
    min_p: float | None = Field(None, ge=0, le=1, description="Leave out tokens below this share of the likeliest.")


class ChatSection(_Section):
    """How messages become a prompt."""

    template: str | None = Field(
        None, description="Name of a template that llama.cpp ships (chatml, gemma ...); none: the GGUF's own."
    )
    template_file: str | None = Field(None, description="A Jinja file used instead of the GGUF's own template.")
    system_prompt: str | None = Field(
        None, description="Put before conversations that bring no system message; computed once for all."
    )
    system_prompt_file: str | None = Field(None, description="A text file with the system prompt.")
    history: Literal["client", "server"] = Field(
        "client",
        description="`server`: the gateway keeps conversations whose request names a session or a `user`, and clients "
        "send only what is new. The header X-Hugind-History says it for one request.",
    )

    @model_validator(mode="after")
    def _one_system_prompt(self) -> ChatSection:
        if self.system_prompt is not None and self.system_prompt_file is not None:
            raise ValueError("give system_prompt or system_prompt_file, not both")
        return self


class ServerSection(_Section):
    """Where the gateway listens when this config is started alone, and how many can be served at once."""

    host: str | None = Field(None, description="Address of the gateway; beyond loopback an API key is required.")
    port: int | None = Field(None, ge=0, le=65535, description="Port of the gateway; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="A key that opens this config's engine and no other.")
    concurrency: int = Field(1, ge=1, le=64, description="Workers: llama-server processes of this model.")
    max_slots: int = Field(2, ge=1, le=256, description="Slots of each worker: turns served at the same time.")
    scheduling: Literal["batch", "turns"] = Field(
        "batch",
        description="`batch` fills the slots; `turns` gives a worker to one turn at a time, the whole of it, and its "
        "slots only keep who was there.",
    )


class SessionsSection(_Section):
    """How conversations are kept: in a slot, in memory, on disk."""

    enabled: bool = Field(True, description="Save conversations that leave their slot, and bring them back.")
    memory_mb: int | None = Field(
        None, ge=0, description="Snapshots of this engine in memory; none: an eighth of RAM, half of the tmpfs at most."
    )
    memory_folder: str | None = Field(None, description="A tmpfs to keep them in; none: /dev/shm.")
    memory_ttl_s: float = Field(3600, ge=0, description="Idle seconds after which a snapshot is only on disk.")
    disk_gb: float = Field(20, ge=0, description="Snapshots of this engine on disk; 0: none are kept there.")
    user_disk_gb: float | None = Field(None, ge=0, description="Of these, at most so much for one user; none: all.")
    disk_ttl_days: float = Field(30, gt=0, description="Idle days after which a session is forgotten.")
    disk_after_s: float = Field(
        10, ge=0, description="Quiet seconds before a snapshot is copied to disk; a power cut loses what is younger."
    )
    min_tokens: int = Field(256, ge=1, description="Shorter conversations are computed anew rather than saved.")
    compress: bool = Field(False, description="zstd on disk: a tenth smaller, and slower to bring back.")
    encrypt: bool = Field(False, description="ChaCha20-Poly1305 on disk, with a key for each user.")


class LimitsSection(_Section):
    """What protects the engine from its callers."""

    max_queue: int = Field(64, ge=0, le=100_000, description="Requests that may wait for a slot; more get 503.")
    max_wait_s: float = Field(120, gt=0, description="Seconds that a request waits for a slot, then it gets 503.")
    max_load_wait_s: float = Field(
        600, gt=0, description="Seconds that a request waits for an engine that loads; `max_wait_s` begins after that."
    )
    keepalive_s: float = Field(
        10,
        ge=0,
        description="A stream that waits says so to its client after so many seconds, again and again; 0: never.",
    )
    image_urls: bool = Field(
        False,
        description="Let the engine fetch pictures that requests name by a URL. It asks from this machine, which may "
        "reach what its callers may not.",
    )
    max_body_mb: float = Field(20, gt=0, le=1024, description="Largest request body.")


class EngineSection(_Section):
    """The llama-server process itself."""

    binary: str | None = Field(
        None, description="A llama-server, a folder that holds one, a libllama beside one, or `embedded`."
    )
    extra_args: tuple[str, ...] = Field((), description="Further llama-server flags, passed as they are.")
    env: dict[str, str] = Field({}, description="Environment variables for the workers.")
    listen: Literal["unix", "tcp"] = Field(
        "unix", description="How the gateway reaches the workers: a UNIX socket in a private folder, or loopback TCP."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="With `listen: tcp`: the first worker's port; none: a free one for each."
    )
    load_stall_s: float = Field(120, gt=0, description="A loading worker that gives no sign for so long is ended.")
    probe_interval_s: float = Field(5, gt=0, description="Seconds between two looks at a ready worker.")
    probe_timeout_s: float = Field(10, gt=0, description="Seconds that one look may take.")
    probe_failures: int = Field(3, ge=1, description="Failed looks in a row, without progress, that make a hang.")
    compute_stall_s: float = Field(
        600, gt=0, description="A worker that computes for so long without an answer is ended."
    )
    drain_s: float = Field(10, ge=0, description="Seconds that running turns get to finish when stopping.")
    save_s: float = Field(60, ge=0, description="Seconds that the last saves may take when stopping.")
    stop_s: float = Field(5, gt=0, description="Seconds between SIGTERM and SIGKILL.")
    max_deaths: int = Field(5, ge=1, description="Deaths within `death_window_s` after which a worker is given up.")
    death_window_s: float = Field(300, gt=0, description="See `max_deaths`.")
    backoff_s: float = Field(0.5, ge=0, description="Wait before the first restart; doubles with each death.")
    backoff_max_s: float = Field(30, ge=0, description="Longest wait before a restart; up to half is added at random.")

    @field_validator("extra_args")
    @classmethod
    def _ours_alone(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            flag = arg.split("=", 1)[0].replace("_", "-")  # llama.cpp takes either
            if flag in RESERVED_FLAGS:
                raise ValueError(f"{flag} is set by hugind itself ({RESERVED_FLAGS[flag]})")
        return args


RESERVED_FLAGS = {
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo"), "use model.model_path"),
    **dict.fromkeys(("--host", "--port", "--reuse-port"), "use engine.listen and engine.port"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "each spawn gets a key of its own"),
    **dict.fromkeys(("--api-prefix", "--ssl-key-file", "--ssl-cert-file"), "the gateway would not find the worker"),
    **dict.fromkeys(("-a", "--alias"), "the config's name"),
    **dict.fromkeys(("-fa", "--flash-attn"), "use context.flash_attn"),
    **dict.fromkeys(("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"), "use context.cache_type_k and _v"),
    "--pooling": "use model.pooling",
    **dict.fromkeys(("-np", "--parallel"), "use server.max_slots"),
    **dict.fromkeys(("-c", "--ctx-size"), "use context.ctx_size"),
    **dict.fromkeys(("-cram", "--cache-ram"), "another user's prompt could be restored"),
    **dict.fromkeys(("--cache-idle-slots", "--no-cache-idle-slots"), "idle slots would be emptied"),
    **dict.fromkeys(("-sps", "--slot-prompt-similarity"), "a request could land on another user's slot"),
    **dict.fromkeys(("--slots", "--no-slots", "--metrics", "--slot-save-path"), "supervision needs it"),
    "--swa-full": "use context.swa_full",
    **dict.fromkeys(("-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified"), "slots are kept apart"),
    **dict.fromkeys(("--embedding", "--embeddings", "--rerank", "--reranking"), "use model.task"),
    **dict.fromkeys(("--log-disable", "--log-file", "--daemon"), "the worker's output is read here"),
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max"), "one worker holds one model"),
}
"""Flags that `engine.extra_args` may not carry, with what to use or why."""


class Config(_Section):
    """One engine: a model, its context and how it is served."""

    model: ModelSection
    device: DeviceSection = DeviceSection()
    context: ContextSection = ContextSection()
    sampling: SamplingSection = SamplingSection()
    chat: ChatSection = ChatSection()
    server: ServerSection = ServerSection()
    sessions: SessionsSection = SessionsSection()
    limits: LimitsSection = LimitsSection()
    engine: EngineSection = EngineSection()

    @model_validator(mode="after")
    def _context_that_can_be_counted(self) -> Config:
        if self.context.ctx_size * self.server.max_slots > MAX_TOTAL_CONTEXT:
            raise ValueError(f"context.ctx_size times server.max_slots is more than {MAX_TOTAL_CONTEXT:,} tokens")
        return self

    def path_of(self, value: str, home: Home) -> Path:
        """A path as this config means it: expanded, and relative to the home."""
        expanded = os.path.expanduser(os.path.expandvars(value))  # noqa: PTH111 - leaves an unknown `~name` as it is
        return home.root / expanded


def load_config(path: Path) -> Config:
    """The config in `path`. Blocks on the disk; whether its files exist is `missing_files`' question.

    Raises:
        ConfigError: with file, line and key.
    """
    return load_model(path, Config)


def find_config(name_or_path: str, home: Home) -> tuple[str, Path]:
    """The name and the file of a config given by name or by path.

    Raises:
        ConfigError: there is none, or the name is not one.
    """
    given = Path(name_or_path).expanduser()
    if given.suffix in (".yml", ".yaml") or "/" in name_or_path:
        path, name = given, given.stem
    else:
        name = name_or_path
        try:
            path = home.config(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if not path.is_file():
        known = ", ".join(home.config_names()) or "none yet"
        raise ConfigError(f"there is no config '{name_or_path}'", hint=f"configs in {home.configs}: {known}")
    try:
        home.config(name)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from None
    return name, path


def missing_files(config: Config, home: Home) -> list[tuple[str, Path]]:
    """Keys of the config whose file does not exist, with the path looked at. Blocks on the disk."""
    named: list[tuple[str, str | None]] = [
        ("model.model_path", config.model.model_path),
        ("model.mmproj_path", config.model.mmproj_path),
        ("model.draft_path", config.model.draft_path),
        ("chat.template_file", config.chat.template_file),
        ("chat.system_prompt_file", config.chat.system_prompt_file),
        *((f"model.lora_paths.{i}", path) for i, path in enumerate(config.model.lora_paths)),
    ]
    paths = [(key, config.path_of(value, home)) for key, value in named if value]
    return [(key, path) for key, path in paths if not path.is_file()]


def json_schema() -> dict[str, Any]:
    """The JSON Schema that editors check configs with."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hugind config"}
