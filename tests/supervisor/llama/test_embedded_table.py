"""Every row of the table does what llama.cpp's own parser does, as far as Python can see it."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from hugind.supervisor.llama import embedded_flags, embedded_library
from hugind.supervisor.llama.embedded_table import FLAGS, Ignored, Switch, Value

NOT_COMPARED = {
    "speculative.draft.mparams.hf_file",  # llama.cpp copies the draft's path there too; nobody reads it
}

SAMPLES = {
    "--alias": "a,b",
    "--api-key": "k1,k2",
    "--cache-type-k": "q8_0",
    "--cache-type-k-draft": "q4_0",
    "--cache-type-v": "iq4_nl",
    "--cache-type-v-draft": "bf16",
    "--chat-template": "chatml",
    "--chat-template-kwargs": '{"a":1,"b":{"c":"d"}}',
    "--fit": "off",
    "--flash-attn": "on",
    "--gpu-layers": "0",
    "--gpu-layers-draft": "0",
    "--host": "127.0.0.1,::1",
    "--lazy-mode": "off",
    "--load-mode": "mmap+mlock",
    "--lora": "a.gguf,b.gguf",
    "--lora-scaled": "a.gguf:0.5,b.gguf:2",
    "--numa": "isolate",
    "--override-tensor": "ffn=CPU",
    "--pooling": "mean",
    "--reasoning-format": "none",
    "--rope-scaling": "yarn",
    "--samplers": "top_k;temperature",
    "--spec-type": "ngram-simple,ngram-mod",
    "--split-mode": "none",
    "--tags": "a,b",
    "--tensor-split": "3,1",
}
"""For values that are neither numbers nor any text will do."""


HUGIND_LINE = (
    "--model m.gguf --alias demo --host /run/w.sock --parallel 4 --ctx-size 16384 --no-kv-unified --cache-ram 0 "
    "--no-cache-idle-slots --slot-prompt-similarity 0 --slots --metrics --slot-save-path . --flash-attn auto "
    "--cache-type-k f16 --cache-type-v f16 --batch-size 256 --ubatch-size 256 --threads 2 --n-gpu-layers 999 "
    "--load-mode mlock --temp 0.7 --top-k 20 --lora a.gguf --lora b.gguf --no-ui --offline"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that flags can name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("# not a key\nsecret\n")


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.names.split()[-1])
def test_flag(flag: Value | Switch | Ignored) -> None:
    """Each spelling of the flag ends up in the same attributes."""
    for names, value in _spellings(flag):
        for name in names.split():
            argv = [name, *value]

            assert _by_llama_cpp(argv) == _by_table(argv, {}), argv


@pytest.mark.parametrize(
    "flag", [f for f in FLAGS if not isinstance(f, Ignored) and f.env], ids=lambda flag: flag.env
)  # fmt: skip
def test_variable(flag: Value | Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag's environment variable ends up in the same attributes."""
    variable = flag.env if flag.env.startswith("LLAMA_") else f"LLAMA_ARG_{flag.env}"
    texts = [_sample(flag)] if isinstance(flag, Value) else ["true", "off", "1"] if flag.off_names else ["1"]
    for text in texts:
        monkeypatch.setenv(variable, text)

        assert _by_llama_cpp([]) == _by_table([], {variable: text}), text
        assert _by_llama_cpp([]) != _attributes(xllamacpp.CommonParams())


def test_hugind_command_line() -> None:
    """A whole command line, as a supervisor writes it."""
    argv = HUGIND_LINE.split()

    assert _by_llama_cpp(argv) == _by_table(argv, {})


def _spellings(flag: Value | Switch | Ignored) -> list[tuple[str, list[str]]]:
    match flag:
        case Value():
            return [(flag.names, [_sample(flag)])]
        case Switch():
            return [(flag.names, []), (flag.off_names, [])]
        case Ignored():
            return [(flag.names, ["auto"] if flag.takes_value else [])]


def _sample(flag: Value) -> str:
    for name in flag.names.split():
        if name in SAMPLES:
            return SAMPLES[name]
    if flag.read is int:
        return "3"
    if "path" in flag.names and flag.read is not str:
        return "."
    try:
        flag.read("0.5")
    except (ValueError, OSError):
        return "7" if flag.to == "sampling.seed" or flag.to == "n_parallel" else "text"
    return "0.5" if flag.read is not str else "text"


def _by_llama_cpp(argv: list[str]) -> dict[str, str]:
    params = xllamacpp.CommonParams()

    assert embedded_library.parse(params, argv)
    return _attributes(params)


def _by_table(argv: list[str], environ: dict[str, str]) -> dict[str, str]:
    params = xllamacpp.CommonParams()
    embedded_flags.parse(params, argv, environ)
    return _attributes(params)


def _attributes(holder: Any, prefix: str = "") -> dict[str, str]:
    """Every attribute that can be compared, by its dotted path."""
    found: dict[str, str] = {}
    for name in dir(holder):
        if name.startswith("_") or callable(value := getattr(holder, name)) or prefix + name in NOT_COMPARED:
            continue
        if name == "lora_adapters":
            found[prefix + name] = repr([(adapter.path, adapter.scale) for adapter in value])
        elif isinstance(value, set):
            found[prefix + name] = repr(sorted(value))
        elif isinstance(value, dict):
            found[prefix + name] = json.dumps(value, sort_keys=True)
        elif type(value).__module__.startswith("xllamacpp") and not isinstance(value, enum.Enum) and name != "grammar":
            found |= _attributes(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = repr(value)
    return found
