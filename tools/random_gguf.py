"""Write llama models of random weights: real enough for llama.cpp to load and serve, small enough for a test.

Such a model knows nothing. It answers with noise, but with noise that can be read: only letters, digits, punctuation
and spaces are ever likely, so that what it says is valid UTF-8.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

_SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
_UNK, _BOS, _EOS = 0, 1, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how sentencepiece writes a space
_PRINTABLE = (_SPACE, *map(chr, range(33, 127)))
_MULTIPLE = 32  # a vocabulary of a multiple of this can also be quantised

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_ANCHOR = 6.0
"""The first number of every hidden state, by construction the same everywhere: what a bias can hang on."""
_NEVER = -60.0
_SELDOM = -3.0

_ATTENTION_GAIN = 8.0  # so that a word attends to few others; with 1 it attends to all alike
_CONTEXT_GAIN = 3.0  # so that the next token depends on more than the last; with 1 it soon repeats itself
_SPREAD = 2.0  # of the likelihoods: with more, the likeliest token nearly always wins


def make_llama_gguf(
    path: Path,
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    ctx: int = 32768,
    seed: int = 0,
    name: str = "tiny",
    half: bool = False,
    ends: bool = False,
) -> Path:
    """Write a llama model with a chat template to `path`; the same arguments write the same bytes.

    Args:
        ctx: the context length that the model says it was trained on.
        half: matrices in f16 instead of f32.
        ends: let it end its answers at some point. Otherwise only a limit does.
    """
    tokens, types = _vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    _add_tokenizer(writer, tokens, types)
    weights = _weights(
        tokens, types, dim=dim, layers=layers, kv_dim=dim // heads * kv_heads, ff=ff, seed=seed, ends=ends
    )
    for tensor, values in weights.items():
        is_matrix = values.ndim > 1
        writer.add_tensor(tensor, values.astype(np.float16) if half and is_matrix else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> tuple[list[str], list[gguf.TokenType]]:
    """Special tokens, a token for every byte, one for every printable character, and padding."""
    kinds = gguf.TokenType
    pairs = [(text, kinds.UNKNOWN if text == "<unk>" else kinds.CONTROL) for text in _SPECIAL]
    pairs += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    pairs += [(text, kinds.NORMAL) for text in _PRINTABLE]
    pairs += [(f"<pad{at}>", kinds.UNUSED) for at in range(-len(pairs) % _MULTIPLE)]
    return [text for text, _ in pairs], [kind for _, kind in pairs]


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: list[str], types: list[gguf.TokenType]) -> None:
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(_EOS)
    writer.add_unk_token_id(_UNK)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_CHATML)


def _weights(
    tokens: list[str],
    types: list[gguf.TokenType],
    *,
    dim: int,
    layers: int,
    kv_dim: int,
    ff: int,
    seed: int,
    ends: bool,
) -> dict[str, Weights]:
    dice = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Weights:
        """With `gain` 1 it keeps the size of what it is applied to."""
        values: Weights = dice.standard_normal((rows, columns)).astype(np.float32)
        return values * np.float32(gain / np.sqrt(columns))

    def into_stream(columns: int) -> Weights:
        """A matrix for what is added to the hidden state: leaves the anchor alone."""
        values = matrix(dim, columns, _CONTEXT_GAIN)
        values[0] = 0
        return values

    one = np.ones(dim, np.float32)
    embedding = matrix(len(tokens), dim, np.sqrt(dim))
    embedding[:, 0] = _ANCHOR
    output = matrix(len(tokens), dim, _SPREAD)
    output[:, 0] = _biases(tokens, types, ends=ends)
    weights = {"token_embd.weight": embedding, "output_norm.weight": one, "output.weight": output}
    for layer in range(layers):
        weights |= {
            f"blk.{layer}.attn_norm.weight": one,
            f"blk.{layer}.attn_q.weight": matrix(dim, dim, _ATTENTION_GAIN),
            f"blk.{layer}.attn_k.weight": matrix(kv_dim, dim),
            f"blk.{layer}.attn_v.weight": matrix(kv_dim, dim),
            f"blk.{layer}.attn_output.weight": into_stream(dim),
            f"blk.{layer}.ffn_norm.weight": one,
            f"blk.{layer}.ffn_gate.weight": matrix(ff, dim),
            f"blk.{layer}.ffn_up.weight": matrix(ff, dim),
            f"blk.{layer}.ffn_down.weight": into_stream(ff),
        }
    return weights


def _biases(tokens: list[str], types: list[gguf.TokenType], *, ends: bool) -> list[float]:
    """How much each token is disliked. Letters and spaces make the noise look a little like words."""
    biases = []
    for token, kind in zip(tokens, types, strict=True):
        if kind is gguf.TokenType.NORMAL:
            biases.append(0.0 if token.islower() or token == _SPACE else _SELDOM)
        else:
            biases.append(_NEVER)
    if ends:
        biases[_EOS] = _SELDOM
    return biases
