"""Write a llama model of random weights with nothing but the standard library: what it computes costs what it would.

80 million parameters in Q8_0, 12 KB of KV for a token at f16. It knows nothing: it answers with noise that can be read,
until a limit ends it.
"""

from __future__ import annotations

import math
import random
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

_F32, _Q8_0 = 0, 8
_BLOCK, _BLOCK_BYTES = 32, 34  # of Q8_0: an f16 scale and 32 numbers of 8 bits
_INT8_DEVIATION = 73.9
_NO_MINIMUM = bytes(0 if byte == 0x80 else byte for byte in range(256))  # -128 is not used by quantisers
_ALIGNMENT = 32

_CONTROL = ("<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
_PRINTABLE = ("\N{LOWER ONE EIGHTH BLOCK}", *map(chr, range(33, 127)))  # the first is how sentencepiece writes a space
_UNKNOWN_KIND, _NORMAL_KIND, _CONTROL_KIND, _UNUSED_KIND, _BYTE_KIND = 2, 1, 3, 5, 6
# Marks of one token each: a turn of 8 tokens is one of 3 characters.
_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_ANCHOR = 6.0
"""The first number of every hidden state, the same everywhere: what makes tokens likely or not hangs on it."""
_NEVER = -60.0


@dataclass(frozen=True)
class Shape:
    """How large a model is. KV of a token: 4 bytes x layers x `kv_heads` x `dim` / `heads` at f16."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    ff: int = 2240
    ctx: int = 131072


def write_random_model(path: Path, shape: Shape = Shape(), seed: int = 0) -> Path:
    """Write the model to `path`; the same arguments write the same bytes. Blocks for a second or two."""
    tensors = list(_tensors(shape))
    offsets = accumulate((_padded(tensor.size_bytes) for tensor in tensors), initial=0)
    dice = random.Random(seed)  # noqa: S311 - weights are no secret
    with path.open("wb") as file:
        fields = _fields(shape)
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
        for name, value in fields.items():
            file.write(_string(name) + _typed(value))
        for tensor, offset in zip(tensors, offsets, strict=False):  # the last offset is the end
            sizes = struct.pack(f"<I{len(tensor.sizes)}Q", len(tensor.sizes), *tensor.sizes)
            file.write(_string(tensor.name) + sizes + struct.pack("<IQ", tensor.kind, offset))
        _pad(file)
        for tensor in tensors:
            file.write(tensor.data(dice))
            _pad(file)
    return path


@dataclass(frozen=True)
class _Tensor:
    """A norm of ones; or a matrix that keeps the size of what it is applied to."""

    name: str
    sizes: tuple[int, ...]
    """Columns first, as GGUF has it."""
    kind: int = _Q8_0
    first_row: bool = True
    """False: it is all zero, so that what is added to the hidden state leaves the anchor alone."""
    first_column: tuple[float, ...] = ()
    """Instead of random numbers."""

    @property
    def size_bytes(self) -> int:
        count = math.prod(self.sizes)
        return count // _BLOCK * _BLOCK_BYTES if self.kind == _Q8_0 else count * 4

    def data(self, dice: random.Random) -> bytes:
        if len(self.sizes) == 1:
            return array("f", [1.0] * self.sizes[0]).tobytes()
        columns, rows = self.sizes
        if self.kind == _F32:
            numbers = array("f", [dice.gauss(0, 1) for _ in range(rows * columns)])
            numbers[::columns] = array("f", self.first_column)
            return numbers.tobytes()
        blocks = self.size_bytes // _BLOCK_BYTES
        data = bytearray(dice.randbytes(self.size_bytes).translate(_NO_MINIMUM))
        scale = struct.pack("<e", 1 / _INT8_DEVIATION / math.sqrt(columns))
        data[0::_BLOCK_BYTES], data[1::_BLOCK_BYTES] = scale[:1] * blocks, scale[1:] * blocks
        if not self.first_row:
            data[: self.size_bytes // rows] = bytes(self.size_bytes // rows)
        return bytes(data)


def _tensors(shape: Shape) -> Iterator[_Tensor]:
    dim, ff, kv = shape.dim, shape.ff, shape.dim // shape.heads * shape.kv_heads
    tokens, kinds = _vocabulary()
    likes = tuple(0.0 if kind == _NORMAL_KIND else _NEVER for kind in kinds)
    yield _Tensor("token_embd.weight", (dim, len(tokens)), _F32, first_column=(_ANCHOR,) * len(tokens))
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield _Tensor(f"{block}.attn_norm.weight", (dim,), _F32)
        for name, rows in (("attn_q", dim), ("attn_k", kv), ("attn_v", kv)):
            yield _Tensor(f"{block}.{name}.weight", (dim, rows))
        yield _Tensor(f"{block}.attn_output.weight", (dim, dim), first_row=False)
        yield _Tensor(f"{block}.ffn_norm.weight", (dim,), _F32)
        for name in ("ffn_gate", "ffn_up"):
            yield _Tensor(f"{block}.{name}.weight", (dim, ff))
        yield _Tensor(f"{block}.ffn_down.weight", (ff, dim), first_row=False)
    yield _Tensor("output_norm.weight", (dim,), _F32)
    yield _Tensor("output.weight", (dim, len(tokens)), _F32, first_column=likes)


def _fields(shape: Shape) -> dict[str, Any]:
    tokens, kinds = _vocabulary()
    return {
        "general.architecture": "llama",
        "general.name": "random weights",
        "general.file_type": 7,  # mostly Q8_0
        "general.quantization_version": 2,
        "llama.context_length": shape.ctx,
        "llama.embedding_length": shape.dim,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.ff,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": shape.dim // shape.heads,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": _TEMPLATE,
    }


def _vocabulary() -> tuple[list[str], list[int]]:
    """Special tokens, a token for every byte, one for every printable character, and padding."""
    pairs = [("<unk>", _UNKNOWN_KIND), *((token, _CONTROL_KIND) for token in _CONTROL)]
    pairs += [(f"<0x{byte:02X}>", _BYTE_KIND) for byte in range(256)]
    pairs += [(text, _NORMAL_KIND) for text in _PRINTABLE]
    pairs += [(f"<pad{at}>", _UNUSED_KIND) for at in range(-len(pairs) % _BLOCK)]
    return [text for text, _ in pairs], [kind for _, kind in pairs]


def _typed(value: Any) -> bytes:
    """A value with its type before it: bool, u32, f32, string, or an array of strings, f32 or i32."""
    if isinstance(value, list):
        kind, items = {str: (8, map(_string, value)), float: (6, (struct.pack("<f", item) for item in value))}.get(
            type(value[0]), (5, (struct.pack("<i", item) for item in value))
        )
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case _:
            return struct.pack("<I", 8) + _string(value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_padded(file.tell()) - file.tell()))
