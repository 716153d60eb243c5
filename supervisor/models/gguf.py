"""Read what a GGUF file says of its model, without reading the weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hugind.supervisor.errors import HugindError

Value = bool | int | float | str | tuple[bool | int | float | str, ...]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MAX_HEADER_BYTES = 256 << 20
_MAX_DIMENSIONS = 4
_LONGEST_ARRAY = 1024  # LLAMA_MAX_LAYERS is 512
_MOST_LAYERS = 1024
_MOST_KEPT = 1 << 17
"""Values that are kept of one header, of which real ones have hundreds: as objects they are many times as large."""
_MOST_PARAMETERS = 2**63 - 1
"""As many as a reader of JSON can take."""
_CHUNK_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_TOKENS = "token_embd.weight"
_LENGTH = struct.Struct("<Q")


class GgufError(HugindError):
    """A file that is no GGUF file, or not all of one."""


@dataclass(frozen=True)
class GgufHeader:
    """What a file said when it was read; it is not looked at again."""

    architecture: str
    values: Mapping[str, Value]
    """Everything but long arrays."""
    lengths: Mapping[str, int]
    """Of all arrays, also those that `values` leaves out, such as the vocabulary."""
    tensors: int
    data_offset: int
    size_bytes: int
    mtime_ns: int
    digest: str
    """SHA-256 of the header: the same for models of the same shape and texts, whatever their weights."""
    sample_digest: str
    """SHA-256 of pieces all over the weights: tells apart what `digest` does not."""
    parameters: int = 0
    """Numbers in its tensors: of a split model, in those of this file."""
    token_parameters: int = 0
    """Of these, in the table of the vocabulary, which stays in RAM whatever runs on a GPU."""

    @property
    def layers(self) -> int | None:
        """Blocks of the model, those that only predict further tokens included."""
        return self._int("block_count")

    @property
    def heads(self) -> int | tuple[int, ...] | None:
        """Attention heads; where layers differ, of each."""
        return self._ints("attention.head_count")

    @property
    def kv_heads(self) -> int | tuple[int, ...] | None:
        """Heads of the KV cache; where layers differ, of each: a layer without attention has 0."""
        found = self._ints("attention.head_count_kv")
        return self.heads if found is None else found

    @property
    def key_length(self) -> int | None:
        """Numbers in a key of one head."""
        return self._int("attention.key_length") or self._even_share()

    @property
    def value_length(self) -> int | None:
        """Numbers in a value of one head."""
        return self._int("attention.value_length") or self._even_share()

    @property
    def context_length(self) -> int | None:
        """Tokens that it was trained for."""
        return self._int("context_length")

    @property
    def chat_template(self) -> str | None:
        """Jinja, as its author wrote it."""
        found = self.values.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    def _even_share(self) -> int | None:
        width, heads = self._int("embedding_length"), self.heads
        most = max(heads, default=0) if isinstance(heads, tuple) else heads
        return width // most if width and most else None

    def _int(self, key: str) -> int | None:
        found = self._ints(key)
        return max(found, default=None) if isinstance(found, tuple) else found

    def _ints(self, key: str) -> int | tuple[int, ...] | None:
        found = self.values.get(f"{self.architecture}.{key}")
        if isinstance(found, tuple):
            return tuple(one for one in found if isinstance(one, int))
        return found if isinstance(found, int) else None


def read_header(path: Path, *, is_further_part: bool = False) -> GgufHeader:
    """Read the header of a GGUF file of version 2 or 3. Blocks on the disk; the weights are only sampled.

    Args:
        is_further_part: of a split model, of which only the first part names the architecture.

    Raises:
        GgufError: there is no such file, it is no GGUF file, or it ends too early.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            return _read(stream, is_further_part=is_further_part)
    except GgufError as error:
        raise GgufError(f"{path}: {error}", hint="download the file again, or check where it comes from") from None
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror or error}") from error


def _read(stream: BinaryIO, *, is_further_part: bool) -> GgufHeader:
    stat = os.fstat(stream.fileno())
    reader = _Reader(stream)
    magic, version, tensors, count = reader.numbers("<4sIQQ", "not a GGUF file: too short")
    if magic != _MAGIC:
        raise GgufError("not a GGUF file")
    if version not in _VERSIONS:
        big_endian = version & 0xFFFF == 0
        raise GgufError("a big-endian GGUF file" if big_endian else f"GGUF version {version}, which is not known")
    values, lengths = _read_values(reader, count)
    weights = _skip_tensors(reader, tensors)
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_HEADER_BYTES:
        raise GgufError(f"an alignment of {alignment}")
    data_offset = -(-reader.at // alignment) * alignment
    if tensors and data_offset + weights.furthest >= stat.st_size:
        raise GgufError(f"it is cut: its last tensor begins behind its {stat.st_size} bytes")
    architecture = values.get("general.architecture", "" if is_further_part else None)
    if not isinstance(architecture, str):
        raise GgufError("it names no architecture")
    header = GgufHeader(
        architecture=architecture,
        values=values,
        lengths=lengths,
        tensors=tensors,
        data_offset=data_offset,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        digest=reader.digest(),
        sample_digest=_sample(stream, data_offset, stat.st_size),
        parameters=weights.parameters,
        token_parameters=weights.token_parameters,
    )
    if (header.layers or 0) > _MOST_LAYERS:
        raise GgufError(f"{header.layers} layers")
    return header


def _read_values(reader: _Reader, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    kept = 0
    for _ in range(count):
        key = reader.string()
        kept += 1
        if kept > _MOST_KEPT:
            raise GgufError(f"more than {_MOST_KEPT} values in its header")
        (kind,) = reader.numbers("<I")
        if kind != _ARRAY:
            values[key] = reader.value(kind)
            continue
        kind, length = reader.numbers("<IQ")
        lengths[key] = length
        if length <= _LONGEST_ARRAY:
            kept += length
            values[key] = tuple(reader.value(kind) for _ in range(length))
        else:
            reader.skip_array(kind, length)
    return values, lengths


@dataclass(frozen=True)
class _Weights:
    furthest: int
    """How far into the data the last tensor begins."""
    parameters: int
    token_parameters: int


def _skip_tensors(reader: _Reader, count: int) -> _Weights:
    furthest = parameters = token_parameters = 0
    for _ in range(count):
        name = reader.string()
        (dimensions,) = reader.numbers("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError(f"tensor {name!r} with {dimensions} dimensions")
        *shape, _kind, offset = reader.numbers(f"<{dimensions}QIQ")
        furthest = max(furthest, offset)
        numbers = math.prod(shape)
        parameters += numbers
        if parameters > _MOST_PARAMETERS:
            raise GgufError(f"tensor {name!r} with {numbers} numbers")
        if name == _TOKENS:
            token_parameters = numbers
    return _Weights(furthest, parameters, token_parameters)


def _sample(stream: BinaryIO, start: int, end: int) -> str:
    """Of 64 pieces, evenly spaced from the first byte to the last."""
    digest = hashlib.sha256()
    span = end - start - _SAMPLE_BYTES
    for i in range(_SAMPLES):
        stream.seek(start + max(0, span) * i // (_SAMPLES - 1))
        digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


class _Reader:
    """Reads a header from front to end. Not a mapped file: if that shrinks under us, the process dies."""

    def __init__(self, stream: BinaryIO) -> None:
        self.at = 0
        self._stream = stream
        self._data = bytearray()

    def digest(self) -> str:
        """Of all that was read."""
        with memoryview(self._data) as view:
            return hashlib.sha256(view[: self.at]).hexdigest()

    # What `struct` makes of a format cannot be said in types.
    def numbers(self, form: str, otherwise: str | None = None) -> tuple[Any, ...]:
        """The next ones."""
        start = self._advance(struct.calcsize(form), otherwise)
        return struct.unpack_from(form, self._data, start)

    def string(self) -> str:
        """The next one."""
        (size,) = self.numbers("<Q")
        start = self._advance(size)
        return self._data[start : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> bool | int | float | str:
        """The next one, which is no array."""
        if kind == _STRING:
            return self.string()
        value: bool | int | float = self.numbers(f"<{_form(kind)}")[0]
        return value

    def skip_array(self, kind: int, length: int) -> None:
        """Go past elements of an array."""
        if kind != _STRING:
            self._advance(struct.calcsize(f"<{_form(kind)}") * length)
            return
        at = self.at
        for _ in range(length):
            if at + 8 > len(self._data):
                self._fill(at + 8)
            at += 8 + _LENGTH.unpack_from(self._data, at)[0]
        self._fill(at)
        self.at = at

    def _advance(self, size: int, otherwise: str | None = None) -> int:
        """Go past so many bytes. Where they begin."""
        start, end = self.at, self.at + size
        if end > len(self._data):
            self._fill(end, otherwise)
        self.at = end
        return start

    def _fill(self, end: int, otherwise: str | None = None) -> None:
        if end > _MAX_HEADER_BYTES:
            raise GgufError(f"a length that leads to byte {end} of its header")
        while len(self._data) < end:
            more = self._stream.read(_CHUNK_BYTES)
            if not more:
                raise GgufError(otherwise or f"it is cut: its header does not end within {len(self._data)} bytes")
            self._data += more


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise GgufError(f"a value of type {kind}")
    return _SCALARS[kind]
