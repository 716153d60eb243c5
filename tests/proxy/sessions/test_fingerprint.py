"""Two engines have the same fingerprint only if one could have written the other's slot files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.fingerprint import Identity, identify
from hugind.supervisor.config import Config
from hugind.supervisor.models.family import Family
from hugind.supervisor.paths import Home
from tools.random_gguf import make_llama_gguf, make_recurrent_gguf, make_swa_gguf

SMALL: Any = {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "ff": 32}
NOON = 1_700_000_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of a time that does not change."""
    return _at_noon(make_llama_gguf(tmp_path / "model.gguf", **SMALL))


def _at_noon(path: Path) -> Path:
    os.utime(path, (NOON, NOON))
    return path


def look(path: Path, build: str = "b1", **sections: dict[str, Any]) -> Identity:
    """The identity of an engine; `sections` as in the YAML file."""
    sections["model"] = {"model_path": str(path), **sections.get("model", {})}
    return identify(Config.model_validate(sections), build, Home(path.parent))


def _other_weights(model: Path) -> None:
    size = model.stat().st_size
    _at_noon(make_llama_gguf(model, **SMALL, seed=1))
    assert size == model.stat().st_size


OTHER_FILES: dict[str, Callable[[Path], object]] = {
    "weights of the same shape": _other_weights,
    "another time": lambda model: os.utime(model, (NOON + 1, NOON + 1)),
    "another shape": lambda model: _at_noon(make_llama_gguf(model, **{**SMALL, "layers": 2})),
    "other texts": lambda model: _at_noon(make_llama_gguf(model, **SMALL, name="tinx")),
    "it is gone": lambda model: model.unlink(),
    "no model": lambda model: model.write_bytes(b"GGUF"),
}


@pytest.mark.parametrize("change", OTHER_FILES)
def test_another_model(model: Path, change: str) -> None:
    """Every change of the file counts: its slot files would be restored without a word, and be wrong."""
    before = look(model)
    OTHER_FILES[change](model)
    after = look(model)

    assert before.model != after.model
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    "sections",
    [
        {"context": {"cache_type_k": "q8_0"}},
        {"context": {"cache_type_v": "q8_0"}},
        {"context": {"flash_attn": False}},
        {"context": {"flash_attn": "auto"}},
        {"context": {"swa_full": True}},
        {"engine": {"extra_args": ("--rope-freq-base", "20000")}},
        {"engine": {"extra_args": ("--yarn-orig-ctx", "4096")}},
        {"engine": {"env": {"LLAMA_ARG_ROPE_SCALE": "2"}}},
    ],
    ids=str,
)
def test_another_engine(model: Path, sections: dict[str, Any]) -> None:
    """What changes the file or its meaning makes it useless; the conversation is with the same model all the same."""
    before, after = look(model), look(model, **sections)

    assert before.fingerprint != after.fingerprint
    assert before.model == after.model


def test_another_build(model: Path) -> None:
    """Another llama-server may write another format."""
    before, after = look(model), look(model, "b2")

    assert before.fingerprint != after.fingerprint
    assert before.model == after.model


@pytest.mark.parametrize(
    "sections",
    [
        {"chat": {"template": "chatml"}},
        {"chat": {"template_file": "a.jinja"}},
        {"model": {"mmproj_path": "a.gguf"}},
        {"model": {"lora_paths": ("a.gguf",)}},
        {"model": {"lora_paths": ("a.gguf", "a.gguf")}},
        {"model": {"mmproj_path": "a.gguf", "lora_paths": ("a.gguf",)}},
    ],
    ids=str,
)
def test_what_belongs_to_the_model(model: Path, sections: dict[str, Any]) -> None:
    """With another template, projector or adapter it is another one: its sessions are not seen."""
    for name in ("a.gguf", "a.jinja"):
        _at_noon(make_llama_gguf(model.parent / name, **SMALL))
    before, after = look(model), look(model, **sections)

    assert before.model != after.model
    assert before.fingerprint != after.fingerprint


def test_each_has_its_place(model: Path) -> None:
    """The same file is not the same as a projector, an adapter or a template."""
    _at_noon(make_llama_gguf(model.parent / "a", **SMALL))
    ways: list[dict[str, Any]] = [
        {"model": {"mmproj_path": "a"}},
        {"model": {"lora_paths": ("a",)}},
        {"chat": {"template_file": "a"}},
    ]

    assert 3 == len({look(model, **sections).model for sections in ways})


def test_an_adapter_that_changed(model: Path) -> None:
    """The other files are looked at as the model is."""
    adapter = _at_noon(make_llama_gguf(model.parent / "a.gguf", **SMALL))
    before = look(model, model={"lora_paths": ("a.gguf",)})
    _other_weights(adapter)

    assert before.model != look(model, model={"lora_paths": ("a.gguf",)}).model


def test_a_template_that_changed(model: Path) -> None:
    """Even in the same second, by its size or its time."""
    template = model.parent / "a.jinja"
    template.write_text("one")
    before = look(model, chat={"template_file": "a.jinja"})
    template.write_text("two!")

    assert before.model != look(model, chat={"template_file": "a.jinja"}).model


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_part_of_a_model_counts(tmp_path: Path, number: int) -> None:
    """A model in several files is named by its first."""
    parts = [tmp_path / f"model-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
    for part in parts:
        _at_noon(make_llama_gguf(part, **SMALL))
    before = look(parts[0])
    _other_weights(parts[number - 1])

    assert before.fingerprint != look(parts[0]).fingerprint


@pytest.mark.parametrize(
    "sections",
    [
        {"server": {"max_slots": 7}},
        {"server": {"concurrency": 3}},
        {"context": {"ctx_size": 8192}},
        {"context": {"batch_size": 64, "ubatch_size": 64}},
        {"device": {"threads": 1}},
        {"sampling": {"temp": 0.5}},
        {"sessions": {"min_tokens": 1, "compress": True}},
        {"chat": {"system_prompt": "Be kind."}},
        {"limits": {"max_queue": 1}},
    ],
    ids=str,
)
def test_what_does_not_count(model: Path, sections: dict[str, Any]) -> None:
    """More slots, a larger context, other defaults: the files are as good as they were."""
    assert look(model) == look(model, **sections)


def test_the_same_from_another_place(model: Path, tmp_path: Path) -> None:
    """Where a file lies says nothing."""
    moved = tmp_path / "elsewhere" / "m.gguf"
    moved.parent.mkdir()
    before = look(model)
    model.rename(moved)

    assert before == look(moved)


def test_families(tmp_path: Path) -> None:
    """What kind of memory a model has is told, too; of what cannot be read, the usual is supposed."""
    swa = make_swa_gguf(tmp_path / "swa.gguf", **SMALL, window=48)
    recurrent = make_recurrent_gguf(tmp_path / "r.gguf", dim=32, layers=1)
    found = [look(path) for path in (swa, recurrent, tmp_path / "none.gguf")]

    assert [Family.SWA, Family.RECURRENT, Family.ATTENTION] == [one.family for one in found]
    assert [48, 0, 0] == [one.window for one in found]
