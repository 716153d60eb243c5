"""What a slot file depends on, as two digests: of the model, and of everything about the engine that made it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import orjson

from hugind.supervisor.config import Config
from hugind.supervisor.models.family import Family, family_of, sliding_window
from hugind.supervisor.models.gguf import GgufError, read_header
from hugind.supervisor.paths import Home

SLOT_FILE_VERSION = 4

_FIRST_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
"""As `llama_split_path` names them."""


@dataclass(frozen=True)
class Identity:
    """An engine, as far as its slot files are concerned."""

    family: Family
    window: int
    """Tokens that a sliding attention sees; 0 where it sees all."""
    model: str
    """Digest of the model with its projector, adapters and template: a session is with that."""
    fingerprint: str
    """Digest of all that must be equal for a slot file to be restored. The slot count is not in it (the file is
    rewritten for another one), nor the context size (tokens are counted)."""


def identify(config: Config, build: str, home: Home) -> Identity:
    """Read the files that a config names. Blocks on the disk; a file that cannot be read has no say: the engine has."""
    model_path = config.path_of(config.model.model_path, home)
    others = ((config.model.mmproj_path,), config.model.lora_paths, (config.chat.template_file,))
    model = _digest(
        [_gguf_digest(part) for part in _parts(model_path)],
        [[_gguf_digest(config.path_of(path, home)) for path in paths if path] for paths in others],
        config.chat.template,
    )
    context = config.context
    fingerprint = _digest(
        model,
        build,
        SLOT_FILE_VERSION,
        "split",
        [context.cache_type_k, context.cache_type_v, context.flash_attn, context.swa_full],
        list(config.engine.extra_args),  # rope settings come that way
        sorted(config.engine.env.items()),
    )
    return Identity(*_family(model_path), model, fingerprint)


def _family(path: Path) -> tuple[Family, int]:
    try:
        header = read_header(path)
    except (GgufError, OSError):
        return Family.ATTENTION, 0
    return family_of(header.values, header.architecture), sliding_window(header.values, header.architecture)


def _parts(path: Path) -> list[Path]:
    """The files of a model: it is named by the first of them."""
    named = _FIRST_PART.fullmatch(path.name)
    if named is None:
        return [path]
    stem, count = named.groups()
    return [path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def _gguf_digest(path: Path) -> list[object]:
    try:
        status = path.stat()
        known: list[object] = [status.st_size, status.st_mtime_ns]
    except OSError:
        return ["missing"]
    try:
        header = read_header(path)
        return [*known, header.digest, header.sample_digest]
    except (GgufError, OSError):
        return known


def _digest(*parts: object) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]
