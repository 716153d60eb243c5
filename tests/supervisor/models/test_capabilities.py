"""What a model can do is read from its file, and the engine agrees where it can be asked."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import httpx
import pytest

from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.models.capabilities import (
    FILE_TYPES,
    capabilities_of,
    parameter_size,
    quantization_level,
    task_of,
)
from hugind.supervisor.models.gguf import GgufHeader, read_header
from tests.engines import DEMO_MODEL, engine_binary
from tools.random_gguf import make_llama_gguf

HEADER = read_header(DEMO_MODEL)


def header(template: str | None = None, **values: Any) -> GgufHeader:
    """A llama's header with these values, `__` for each dot."""
    keys = {name.replace("__", "."): value for name, value in values.items()}
    if template is not None:
        keys["tokenizer.chat_template"] = template
    return replace(HEADER, architecture="llama", values=keys)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (header(), ("completion",)),
        (header("{{ messages }}"), ("completion",)),
        (header("{% if tools %}{{ tools | tojson }}{% endif %}"), ("completion", "tools")),
        (header("my toolset"), ("completion",)),
        (header("{{ '<think>' }}"), ("completion", "thinking")),
        (header("{% if enable_thinking is defined %}"), ("completion", "thinking")),
        (header("effort: {{ reasoning_effort }} {{ tools }}"), ("completion", "tools", "thinking")),
        (header(tokenizer__ggml__prefix_token_id=1), ("completion", "insert")),
        (header(tokenizer__ggml__fim_pre_token_id=1), ("completion", "insert")),
        (header(llama__pooling_type=1), ("embedding",)),
        (header(llama__pooling_type=0), ("embedding",)),
        (header("{{ tools }}", llama__pooling_type=3), ("embedding",)),
        (header(llama__pooling_type=4), ()),
    ],
)
def test_capabilities(model: GgufHeader, expected: tuple[str, ...]) -> None:
    """By its template, its tokens and how it sums up."""
    assert expected == capabilities_of(model, has_mmproj=False, task=None)


def test_config_beats_file() -> None:
    """What the config says it serves counts, and what is loaded beside it."""
    model = header("{{ tools }}")
    assert ("embedding",) == capabilities_of(model, has_mmproj=False, task="embedding")
    assert () == capabilities_of(model, has_mmproj=False, task="rerank")
    assert ("completion", "tools", "vision") == capabilities_of(model, has_mmproj=True, task="chat")
    assert ("completion",) == capabilities_of(header(llama__pooling_type=1), has_mmproj=False, task="chat")


def test_tasks() -> None:
    """What it is for, by the file alone."""
    assert ["chat", "embedding", "rerank"] == [
        task_of(one) for one in (header(), header(llama__pooling_type=3), header(llama__pooling_type=4))
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7_615_616_512, "7.6B"),
        (8_000_000_000, "8B"),
        (134_515_008, "134.5M"),
        (1_040_000_000_000, "1T"),
        (2_500, "2.5K"),
        (7, "7"),
    ],
)
def test_parameter_size(count: int, text: str) -> None:
    """As people write it, counted where it can be."""
    assert text == parameter_size(header(general__size_label="x"), count)
    assert text == parameter_size(header(general__parameter_count=count))
    assert text == parameter_size(replace(header(), parameters=count))


def test_parameter_size_of_a_part() -> None:
    """One part of a split model has not all of them: then its label says it, or nothing does."""
    part = replace(header(split__count=3, general__size_label="8x7B"), parameters=1000)
    assert "8x7B" == parameter_size(part)
    assert "unknown" == parameter_size(replace(part, values={"split.count": 3}))


def test_quantization_level() -> None:
    """By llama.cpp's list, which the library `gguf` knows too."""
    assert "Q4_K_M" == quantization_level(header(general__file_type=15))
    assert ["unknown", "unknown"] == [quantization_level(one) for one in (header(), header(general__file_type=1024))]
    named = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {38: "MXFP4_MOE"} == {k: named[k] for k, name in FILE_TYPES.items() if named.get(k, name) != name}


def test_parameters_are_counted(tmp_path: Path) -> None:
    """All numbers of all tensors, and those of the table of the vocabulary."""
    path = make_llama_gguf(tmp_path / "m.gguf")
    tensors = {tensor.name: int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors}
    found = read_header(path)
    assert (sum(tensors.values()), tensors["token_embd.weight"]) == (found.parameters, found.token_parameters)


@pytest.mark.e2e
@pytest.mark.parametrize("calls", [True, False])
def test_tools_need_a_template(tmp_path: Path, *, calls: bool) -> None:
    """The engine makes tool calls only where the template mentions tools.

    With another template it neither shows the tools to the model nor holds it to `tool_choice: required`.
    """
    model = make_llama_gguf(tmp_path / "m.gguf", calls=calls)
    path = tmp_path / "s.sock"
    argv = [*resolve_binary(engine_binary()).argv, "-m", str(model), "--host", str(path), "-c", "2048", "-np", "1"]
    function = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}}}
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "max_tokens": 60,
    }
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stderr is not None
        while "listening on" not in (line := engine.stderr.readline()):
            assert line, "it ended"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine") as client:
            message = client.post("/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["message"]
        engine.kill()

    can = "tools" in capabilities_of(read_header(model), has_mmproj=False, task=None)
    assert calls == can == bool(message.get("tool_calls"))
