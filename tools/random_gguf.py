"""Write models of random weights, of every family: real enough for llama.cpp to serve, small enough for a test.

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

_TOOL_CALL = ("<tool_call>", "</tool_call>")
_CALLING = """{%- macro said(message) -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endmacro -%}
{%- if tools -%}
{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\\n\\n' }}{%- endif -%}
{{ '# Tools\\n\\nYou may call one or more functions. Their signatures:\\n<tools>' }}
{%- for tool in tools -%}{{ '\\n' }}{{ tool | tojson }}{%- endfor -%}
{{ '\\n</tools>\\n\\nFor each call, return a JSON object within tags:\\n<tool_call>' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' -%}{{ said(messages[0]) }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- if not loop.first -%}{{ said(message) }}{%- endif -%}
{%- elif message.role == 'tool' -%}
{{ '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role == 'assistant' and message.tool_calls -%}
{{ '<|im_start|>assistant' }}
{%- if message.content -%}{{ '\\n' + message.content }}{%- endif -%}
{%- for call in message.tool_calls -%}
{%- if call.function is defined -%}{%- set call = call.function -%}{%- endif -%}
{{ '\\n<tool_call>{"name": "' + call.name + '", "arguments": ' }}{{ call.arguments | tojson }}
{{- '}</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- else -%}{{ said(message) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""As Hermes and Qwen write calls: a form that llama.cpp knows."""
_EAGER = {'"': 30.0, "}": 25.0, "3": 20.0, "</tool_call>": 15.0, "<|im_end|>": 10.0}
"""What a model that calls tools likes best, above what it likes less: so it ends what a grammar lets end."""
_LINE_END = "<0x0A>"
_AFTER_LINE = 30.0
"""The second number of its hidden states after a line's end, as every prompt has one: there it begins a call."""

_ANCHOR = 6.0
"""The first number of every hidden state, by construction the same everywhere: what a bias can hang on."""
_NEVER = -60.0
_SELDOM = -3.0

_ATTENTION_GAIN = 8.0  # so that a word attends to few others; with 1 it attends to all alike
_CONTEXT_GAIN = 3.0  # so that the next token depends on more than the last; with 1 it soon repeats itself
_SLOW = -3.0  # of how fast a state forgets, before softplus
_KERNEL = 4
_EPSILON = 1e-5
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
    calls: bool = False,
) -> Path:
    """Write a llama model with a chat template to `path`; the same arguments write the same bytes.

    Args:
        ctx: the context length that the model says it was trained on.
        half: matrices in f16 instead of f32.
        ends: let it end its answers at some point. Otherwise only a limit does.
        calls: have it call a tool whenever there is one, with the shortest arguments that fit, in which every number is
            3; and answer so to a JSON schema. It says nothing else.
    """
    writer = _writer(path, "llama", name=name, half=half, ctx=ctx, dim=dim, layers=layers, ff=ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_rope_dimension_count(dim // heads)
    dice = _Dice(seed, dim, kept=2 if calls else 1)
    weights = dice.ends(ends=ends, calls=calls)
    for layer in range(layers):
        weights |= _named(layer, dice.attention(dim // heads * kv_heads) | dice.feed_forward(ff))
    return _write(path, writer, weights, half=half, calls=calls)


def make_swa_gguf(
    path: Path,
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    ctx: int = 32768,
    window: int = 64,
    period: int = 2,
    seed: int = 0,
    name: str = "tiny-swa",
    ends: bool = False,
) -> Path:
    """Write a gemma3 model: all layers but every `period`-th see the last `window` tokens only."""
    writer = _writer(path, "gemma3", name=name, half=False, ctx=ctx, dim=dim, layers=layers, ff=ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dim // heads)
    writer.add_value_length(dim // heads)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_sliding_window(window)
    writer.add_sliding_window_pattern(period)
    dice = _Dice(seed, dim)
    weights = dice.ends(ends=ends)
    weights["token_embd.weight"] /= np.float32(np.sqrt(dim))  # gemma3 multiplies by as much
    for layer in range(layers):
        norms = {f"attn_{one}_norm.weight": np.ones(dim // heads, np.float32) for one in "qk"}
        norms |= {f"post_{one}_norm.weight": np.full(dim, _CONTEXT_GAIN, np.float32) for one in ("attention", "ffw")}
        weights |= _named(layer, dice.attention(dim // heads * kv_heads) | dice.feed_forward(ff) | norms)
    return _write(path, writer, weights)


def make_recurrent_gguf(
    path: Path,
    *,
    dim: int = 64,
    layers: int = 2,
    state: int = 8,
    ctx: int = 32768,
    seed: int = 0,
    name: str = "tiny-recurrent",
    ends: bool = False,
) -> Path:
    """Write a mamba model: each layer has `state` numbers for each of twice `dim` channels."""
    writer = _writer(path, "mamba", name=name, half=False, ctx=ctx, dim=dim, layers=layers, ff=0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(_EPSILON)
    _add_state(writer, dim=dim, state=state)
    dice = _Dice(seed, dim)
    weights = dice.ends(ends=ends)
    for layer in range(layers):
        weights |= _named(layer, dice.recurrence(state))
    return _write(path, writer, weights)


def make_hybrid_gguf(
    path: Path,
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    state: int = 8,
    ctx: int = 32768,
    seed: int = 0,
    name: str = "tiny-hybrid",
    ends: bool = False,
) -> Path:
    """Write a jamba model: its layers are recurrent and attention in turn."""
    kinds = [layer % 2 == 1 for layer in range(layers)]
    writer = _writer(path, "jamba", name=name, half=False, ctx=ctx, dim=dim, layers=layers, ff=ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv([kv_heads if is_attention else 0 for is_attention in kinds])
    writer.add_layer_norm_rms_eps(_EPSILON)
    _add_state(writer, dim=dim, state=state)
    dice = _Dice(seed, dim)
    weights = dice.ends(ends=ends)
    for layer, is_attention in enumerate(kinds):
        if is_attention:
            parts = dice.attention(dim // heads * kv_heads)
        else:
            parts = dice.recurrence(state)
            sizes = {"dt": _rank(dim), "b": state, "c": state}
            parts |= {f"ssm_{one}_norm.weight": np.ones(size, np.float32) for one, size in sizes.items()}
        weights |= _named(layer, parts | dice.feed_forward(ff))
    return _write(path, writer, weights)


def _writer(
    path: Path, architecture: str, *, name: str, half: bool, ctx: int, dim: int, layers: int, ff: int
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    return writer


def _add_state(writer: gguf.GGUFWriter, *, dim: int, state: int) -> None:
    writer.add_ssm_conv_kernel(_KERNEL)
    writer.add_ssm_inner_size(2 * dim)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(_rank(dim))


def _rank(dim: int) -> int:
    return max(1, dim // 16)


def _named(layer: int, parts: dict[str, Weights]) -> dict[str, Weights]:
    return {f"blk.{layer}.{part}": values for part, values in parts.items()}


def _write(
    path: Path, writer: gguf.GGUFWriter, weights: dict[str, Weights], *, half: bool = False, calls: bool = False
) -> Path:
    _add_tokenizer(writer, *_vocabulary(calls=calls), _CALLING if calls else _CHATML)
    for tensor, values in weights.items():
        is_matrix = values.ndim > 1
        writer.add_tensor(tensor, values.astype(np.float16) if half and is_matrix else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(*, calls: bool = False) -> tuple[list[str], list[gguf.TokenType]]:
    """Special tokens, a token for every byte, one for every printable character, and padding."""
    kinds = gguf.TokenType
    pairs = [(text, kinds.UNKNOWN if text == "<unk>" else kinds.CONTROL) for text in _SPECIAL]
    pairs += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    pairs += [(text, kinds.NORMAL) for text in _PRINTABLE]
    pairs += [(text, kinds.USER_DEFINED) for text in _TOOL_CALL if calls]
    pairs += [(f"<pad{at}>", kinds.UNUSED) for at in range(-len(pairs) % _MULTIPLE)]
    return [text for text, _ in pairs], [kind for _, kind in pairs]


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: list[str], types: list[gguf.TokenType], template: str) -> None:
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
    writer.add_chat_template(template)


class _Dice:
    """Throws the weights of one model; what it gives depends on the order in which it is asked."""

    def __init__(self, seed: int, dim: int, kept: int = 1) -> None:
        """`kept`: so many numbers of a hidden state are what its token's embedding says, whatever the layers add."""
        self._kept = kept
        self._dice = np.random.default_rng(seed)
        self._dim = dim

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> Weights:
        """With `gain` 1 it keeps the size of what it is applied to."""
        values: Weights = self._dice.standard_normal((rows, columns)).astype(np.float32)
        return values * np.float32(gain / np.sqrt(columns))

    def into_stream(self, columns: int) -> Weights:
        """A matrix for what is added to the hidden state: leaves the anchor alone."""
        values = self.matrix(self._dim, columns, _CONTEXT_GAIN)
        values[: self._kept] = 0
        return values

    def ends(self, *, ends: bool, calls: bool = False) -> dict[str, Weights]:
        """What comes before and after the layers."""
        tokens, types = _vocabulary(calls=calls)
        embedding = self.matrix(len(tokens), self._dim, np.sqrt(self._dim))
        embedding[:, 0] = _ANCHOR
        output = self.matrix(len(tokens), self._dim, _SPREAD)
        output[:, 0] = _biases(tokens, types, ends=ends, calls=calls)
        if calls:
            embedding[:, 1] = output[:, 1] = 0
            embedding[tokens.index(_LINE_END), 1] = output[tokens.index(_TOOL_CALL[0]), 1] = _AFTER_LINE
        one = np.ones(self._dim, np.float32)
        return {"token_embd.weight": embedding, "output_norm.weight": one, "output.weight": output}

    def attention(self, kv_dim: int) -> dict[str, Weights]:
        """A layer's attention, and the norm before it."""
        dim = self._dim
        return {
            "attn_norm.weight": np.ones(dim, np.float32),
            "attn_q.weight": self.matrix(dim, dim, _ATTENTION_GAIN),
            "attn_k.weight": self.matrix(kv_dim, dim),
            "attn_v.weight": self.matrix(kv_dim, dim),
            "attn_output.weight": self.into_stream(dim),
        }

    def recurrence(self, state: int) -> dict[str, Weights]:
        """A layer's state space model, and the norm before it: it forgets slowly, each number at its own speed."""
        dim, inner, rank = self._dim, 2 * self._dim, _rank(self._dim)
        decay = np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1))
        return {
            "attn_norm.weight": np.ones(dim, np.float32),
            "ssm_in.weight": self.matrix(2 * inner, dim),
            "ssm_conv1d.weight": self.matrix(inner, _KERNEL),
            "ssm_conv1d.bias": np.zeros(inner, np.float32),
            "ssm_x.weight": self.matrix(rank + 2 * state, inner),
            "ssm_dt.weight": self.matrix(inner, rank),
            "ssm_dt.bias": np.full(inner, _SLOW, np.float32),
            "ssm_a": -decay,
            "ssm_d": np.ones(inner, np.float32),
            "ssm_out.weight": self.into_stream(inner),
        }

    def feed_forward(self, ff: int) -> dict[str, Weights]:
        """What a layer does with each token alone, and the norm before it."""
        return {
            "ffn_norm.weight": np.ones(self._dim, np.float32),
            "ffn_gate.weight": self.matrix(ff, self._dim),
            "ffn_up.weight": self.matrix(ff, self._dim),
            "ffn_down.weight": self.into_stream(ff),
        }


def _biases(tokens: list[str], types: list[gguf.TokenType], *, ends: bool, calls: bool) -> list[float]:
    """How much each token is disliked. Letters and spaces make the noise look a little like words."""
    biases = []
    for token, kind in zip(tokens, types, strict=True):
        if kind is gguf.TokenType.NORMAL:
            biases.append(0.0 if token.islower() or token == _SPACE else _SELDOM)
        else:
            biases.append(_NEVER)
    if ends:
        biases[_EOS] = _SELDOM
    for token, bias in _EAGER.items() if calls else ():
        biases[tokens.index(token)] = bias
    return biases
