"""The stand-in's command line: llama-server's flags as it takes them, and the flags that break it on purpose. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_CTX = 4096


class FlagError(Exception):
    """A command line that llama-server would refuse; the message is what it prints."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and when."""

    slow_load_s: float = 0
    """Says 503 so long, and prints a line of dots every 0.1 s."""
    silent_load_s: float = 0
    """Says 503 so long, and prints nothing."""
    fail_start: str | None = None
    """Once loaded, prints this and ends with `exit_code`."""
    crash_at_start: bool = False
    """Once listening, dies by SIGABRT."""
    hang_after: int | None = None
    """After so many POST requests nothing is answered any more; sockets stay open, and new ones are accepted.
    0: from the first byte on, health included."""
    hollow_after: int | None = None
    """After so many restores, one brings nothing back and says that it did."""
    extend_only: bool = False
    """As recurrent models: a slot is of use only to a prompt that begins with all of it."""
    ignore_sigterm: bool = False
    exit_after_s: float | None = None
    """Ends with `exit_code` so long after it was ready."""
    exit_code: int = 1


@dataclass(frozen=True)
class Options:
    """One stand-in, as its command line describes it."""

    model: str
    alias: str
    host: str
    port: int
    slots: int
    ctx_size: int
    is_unified: bool
    task: Literal["chat", "embedding", "rerank"]
    api_keys: tuple[str, ...]
    slot_folder: Path | None
    has_metrics: bool
    has_slots: bool
    files: tuple[str, ...]
    """Further files that must exist: projector, adapters, draft."""
    token_ms: float
    prefill_ms: float
    batch_ms: float
    """Length of a batch of simulated prefill: a client that leaves frees its slot at the next boundary."""
    faults: Faults

    @property
    def n_ctx(self) -> int:
        """Tokens that one slot holds."""
        return self.ctx_size if self.is_unified else self.ctx_size // self.slots


def parse_flags(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read a command line.

    Raises:
        FlagError: an unknown flag, a missing or unusable value, no model, no slot directory.
    """
    given = _read(argv)
    switches, values = {name for name, value in given if value is None}, {n: v for n, v in given if v is not None}
    slot_folder = values.get("--slot-save-path")
    if slot_folder is not None and not Path(slot_folder).is_dir():
        raise FlagError(f'error while handling argument "--slot-save-path": not a directory: {slot_folder}')
    if "--model" not in values:
        raise FlagError("error: the stand-in needs --model")
    reader = _Numbers(values)
    keys = values.get("--api-key") or environment.get("LLAMA_API_KEY", "")
    return Options(
        model=values["--model"],
        alias=values.get("--alias", Path(values["--model"]).name),
        host=values.get("--host", "127.0.0.1"),
        port=reader.integer("--port", 8080),
        slots=max(1, reader.integer("--parallel", 1)),
        ctx_size=reader.integer("--ctx-size", 0) or DEFAULT_CTX,
        is_unified="--kv-unified" in switches,
        task="embedding" if "--embedding" in switches else "rerank" if "--rerank" in switches else "chat",
        api_keys=tuple(key for key in keys.split(",") if key),
        slot_folder=Path(slot_folder) if slot_folder is not None else None,
        has_metrics="--metrics" in switches,
        has_slots="--no-slots" not in switches,
        files=tuple(value for name, value in given if name in _FILE_FLAGS and value is not None),
        token_ms=reader.number("--token-ms", 0),
        prefill_ms=reader.number("--prefill-ms", 0),
        batch_ms=reader.number("--batch-ms", 100),
        faults=Faults(
            slow_load_s=reader.number("--slow-load", 0),
            silent_load_s=reader.number("--silent-load", 0),
            fail_start=values.get("--fail-start"),
            crash_at_start="--crash-at-start" in switches,
            hang_after=reader.integer("--hang-after", 0) if "--hang-after" in values else None,
            hollow_after=reader.integer("--hollow-after", 0) if "--hollow-after" in values else None,
            extend_only="--extend-only" in switches,
            ignore_sigterm="--ignore-sigterm" in switches,
            exit_after_s=reader.number("--exit-after", 0) if "--exit-after" in values else None,
            exit_code=reader.integer("--exit-code", 1),
        ),
    )


def help_text() -> str:
    """As llama-server lays it out: a flag at the start of a line, its meaning from column 40."""
    lines = [f"{flag:<40}as llama-server" for flag in sorted(_SWITCHES)]
    lines += [f"{flag + ' VALUE':<40}as llama-server" for flag in sorted(_VALUES)]
    lines += [f"{flag:<40}{meaning}" for flag, meaning in _FAULT_HELP.items()]
    return "----- a stand-in for llama-server: no model is run -----\n" + "\n".join(lines) + "\n"


def _read(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """The flags under their long names, in order; None for a switch."""
    given: list[tuple[str, str | None]] = []
    rest = iter(argv)
    for flag in rest:
        name = _LONG.get(flag, flag)
        if flag in _SWITCHES or flag in _FAULT_SWITCHES:
            given.append((name, None))
        elif flag in _VALUES or flag in _FAULT_VALUES:
            value = next(rest, None)
            if value is None:
                raise FlagError(f'error while handling argument "{flag}": expected value for argument')
            given.append((name, value))
        else:
            raise FlagError(f"error: invalid argument: {flag}")
    return given


class _Numbers:
    """Reads numbers out of the values; refuses what is none in llama-server's words."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def integer(self, name: str, default: int) -> int:
        try:
            return int(self._values.get(name, default))
        except ValueError:
            raise FlagError(f'error while handling argument "{name}": stoi') from None

    def number(self, name: str, default: float) -> float:
        try:
            return float(self._values.get(name, default))
        except ValueError:
            raise FlagError(f'error while handling argument "{name}": stof') from None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILE_FLAGS = ("--mmproj", "--model-draft", "--lora", "--chat-template-file")
_LONG = {
    "-m": "--model",
    "-a": "--alias",
    "-np": "--parallel",
    "-c": "--ctx-size",
    "-kvu": "--kv-unified",
    "--embeddings": "--embedding",
    "--reranking": "--rerank",
    "-mm": "--mmproj",
    "-md": "--model-draft",
}

_FAULT_HELP = {
    "--token-ms MS": "time of one generated token (default: 0, all at once)",
    "--prefill-ms MS": "time of one prompt (default: 0)",
    "--batch-ms MS": "time of one batch of a prompt (default: 100)",
    "--slow-load SECONDS": "load so long, with a line of output every 0.1 s",
    "--silent-load SECONDS": "load so long without a word",
    "--fail-start TEXT": "after loading: print TEXT, end with --exit-code",
    "--crash-at-start": "after listening: die by SIGABRT",
    "--hang-after N": "answer nothing after N POST requests (0: nothing at all)",
    "--hollow-after N": "after N restores, one brings nothing back",
    "--extend-only": "a slot is of use only to a prompt that begins with all of it",
    "--ignore-sigterm": "only SIGKILL ends it",
    "--exit-after SECONDS": "end with --exit-code so long after being ready",
    "--exit-code N": "see --exit-after and --fail-start (default: 1)",
}
_FAULT_SWITCHES = frozenset(entry for entry in _FAULT_HELP if " " not in entry)
_FAULT_VALUES = frozenset(entry.split()[0] for entry in _FAULT_HELP if " " in entry)

# Of llama-server b11434, and `--mlock` and `--no-mmap` of the builds before it.
_SWITCHES = _names(
    """
    --swa-full --perf --no-perf -e --escape --no-escape -kvo --kv-offload -nkvo --no-kv-offload --repack -nr
    --no-repack --no-host -cmoe --cpu-moe --check-tensors --op-offload --no-op-offload --log-disable --log-jsonl
    --no-log-jsonl -v --verbose --log-verbose --offline --log-prefix --no-log-prefix --log-timestamps
    --no-log-timestamps --ignore-eos -bs --backend-sampling -cmoed --cpu-moe-draft -kvu --kv-unified -no-kvu
    --no-kv-unified --cache-idle-slots --no-cache-idle-slots --context-shift --no-context-shift -sp --special
    --warmup --no-warmup --spm-infill -cb --cont-batching -nocb --no-cont-batching --mmproj-auto --no-mmproj
    --no-mmproj-auto --mmproj-offload --no-mmproj-offload --reuse-port --cors-credentials --no-cors-credentials
    --ui --webui --no-ui --no-webui --embedding --embeddings --rerank --reranking --cache-prompt
    --no-cache-prompt --metrics --props --slots --no-slots --jinja --no-jinja --reasoning-preserve
    --no-reasoning-preserve --skip-chat-parsing --no-skip-chat-parsing --prefill-assistant
    --no-prefill-assistant --lora-init-without-apply --mlock --no-mmap
    """
)
_VALUES = _names(
    """
    -t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb
    --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch -c --ctx-size -n
    --predict --n-predict -b --batch-size -ub --ubatch-size --keep -fa --flash-attn --rope-scaling --rope-scale
    --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow
    --yarn-beta-fast -ctk --cache-type-k -ctv --cache-type-v -dt --defrag-thold --rpc -lm --load-mode -lzm
    --lazy-mode --numa -dev --device -ot --override-tensor -ncmoe --n-cpu-moe -ncffn --n-cpu-ffn -ngl
    --gpu-layers --n-gpu-layers -sm --split-mode -ts --tensor-split -mg --main-gpu -fit --fit -fitt --fit-target
    -fitc --fit-ctx --override-kv --lora --lora-scaled --control-vector --control-vector-scaled -m --model
    --log-file --log-colors -lv --verbosity --log-verbosity -ctkd --cache-type-k-draft -ctvd
    --cache-type-v-draft --samplers -s --seed --sampler-seq --sampling-seq --temp --temperature --top-k --top-p
    --min-p --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p --repeat-last-n
    --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length
    --dry-penalty-last-n --dry-sequence-breaker --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr
    --mirostat-ent -l --logit-bias --grammar --grammar-file -j --json-schema -jf --json-schema-file -td
    --threads-draft -tbd --threads-batch-draft --spec-draft-n-max --spec-draft-n-min --draft-p-min -devd
    --device-draft -ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-model -md --model-draft
    --spec-type --kv-unified-per-slot -ctxcp --ctx-checkpoints --swa-checkpoints -cms --checkpoint-min-step
    -cram --cache-ram -r --reverse-prompt --pooling -np --parallel -mm --mmproj --image-min-tokens
    --image-max-tokens -a --alias --tags --embd-normalize --host --port --path --cors-origins --cors-methods
    --cors-headers --api-prefix --api-key --chat-template-kwargs -to --timeout --sse-ping-interval
    --threads-http --cache-reuse --slot-save-path --media-path --reasoning-format -rea --reasoning
    --reasoning-effort --reasoning-budget --chat-template --chat-template-file -sps --slot-prompt-similarity
    --sleep-idle-seconds
    """
)
