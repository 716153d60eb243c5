"""Models made of files that clients sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from hugind.supervisor.models.gguf import GgufError
from hugind.supervisor.models.library import Library
from hugind.supervisor.models.local import LocalModelError, LocalModels
from hugind.supervisor.paths import Home


def write(path: Path, architecture: str = "llama", **values: Any) -> Path:
    """A GGUF file that is all header. `split`: which part it is, and of how many; `type`: what it says it is."""
    writer = gguf.GGUFWriter(path, architecture)
    if split := values.get("split"):
        writer.add_uint64("split.no", split[0])
        writer.add_uint64("split.count", split[1])
    if kind := values.get("type"):
        writer.add_type(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture
def local(tmp_path: Path) -> LocalModels:
    return LocalModels(Home(tmp_path))


def test_a_model_and_its_projector(tmp_path: Path, local: LocalModels) -> None:
    """The library finds them, under names of ours, and no byte was copied."""
    model, projector = write(tmp_path / "a"), write(tmp_path / "b", "clip")
    path, adapters = local.place("mine", [projector, model])
    (found,) = Library(Home(tmp_path)).models()

    assert (tmp_path / "local" / "mine" / "mine.gguf", []) == (path, adapters)
    assert ("mine", path) == (found.name, found.path)
    assert found.mmproj is not None
    assert found.mmproj.samefile(projector)
    assert path is not None
    assert path.samefile(model)
    assert not local.has_adapters("mine")


def test_a_model_in_parts(tmp_path: Path, local: LocalModels) -> None:
    """Its header says which part is which, whatever the files were called."""
    parts = [write(tmp_path / str(at), split=(at, 3)) for at in (2, 0, 1)]
    path, _ = local.place("big", parts)

    assert path == tmp_path / "local" / "big" / "big-00001-of-00003.gguf"
    assert path.samefile(parts[1])
    assert ["big"] == [model.name for model in Library(Home(tmp_path)).models()]


def test_adapters(tmp_path: Path, local: LocalModels) -> None:
    """They are no models of the library."""
    adapter = write(tmp_path / "a", type="adapter")
    path, adapters = local.place("mine", [], [adapter], "llama")

    assert path is None
    assert [tmp_path / "local" / "mine" / "adapters" / "0.gguf"] == adapters
    assert local.has_adapters("mine")
    assert [] == Library(Home(tmp_path)).models()


def test_another_takes_its_place(tmp_path: Path, local: LocalModels) -> None:
    """Nothing of the older one is left."""
    first, second, adapter = write(tmp_path / "1"), write(tmp_path / "2"), write(tmp_path / "a", type="adapter")
    local.place("mine", [first, write(tmp_path / "p", "clip")], [adapter])
    path, _ = local.place("mine", [second])

    assert path is not None
    assert path.samefile(second)
    assert [path] == list(path.parent.iterdir())
    assert [path.parent] == list(path.parent.parent.iterdir())


def test_remove(tmp_path: Path, local: LocalModels) -> None:
    """Its folder goes, and the last one's parent."""
    for name in ("one", "two"):
        local.place(name, [write(tmp_path / name)])
    local.remove("one")
    left = [path.name for path in (tmp_path / "local").iterdir()]
    local.remove("two")
    local.remove("two")

    assert ["two"] == left
    assert not (tmp_path / "local").exists()


def test_what_makes_no_model(tmp_path: Path, local: LocalModels) -> None:
    """It is said why, and what was there before stays."""
    model, other, adapter = write(tmp_path / "m"), write(tmp_path / "o"), write(tmp_path / "a", type="adapter")
    foreign, text = write(tmp_path / "f", "qwen2", type="adapter"), tmp_path / "text"
    text.write_bytes(b"GGUF or so")
    local.place("mine", [model])
    for files, adapters, words in (
        ([model, other], [], "two of the files"),
        ([adapter], [], "send it as one of 'adapters'"),
        ([write(tmp_path / "p", "clip")], [], "no model among the files"),
        ([write(tmp_path / "s", split=(0, 3))], [], "in 3 parts, 1 came"),
        ([write(tmp_path / "e", split=(0, 1 << 60))], [], "parts, 1 came"),
        ([model], [other], "must be a LoRA adapter"),
        ([model], [foreign], "is for qwen2, and the model is llama"),
    ):
        with pytest.raises(LocalModelError, match=words):
            local.place("mine", files, adapters)
    with pytest.raises(GgufError):
        local.place("mine", [text])

    assert (tmp_path / "local" / "mine" / "mine.gguf").samefile(model)


@pytest.mark.parametrize("name", ["../mine", "a/b", "", ".hidden", "x" * 65])
def test_no_name_becomes_a_path(local: LocalModels, name: str) -> None:
    """Only what a config could be called."""
    with pytest.raises(ValueError, match="is no name for a folder"):
        local.place(name, [])


@pytest.mark.parametrize("name", ["mmproj-mine", "my-imatrix", "mine-00001-of-00002"])
def test_a_name_that_means_something_else(tmp_path: Path, local: LocalModels, name: str) -> None:
    """The library would never find the model: nothing is left of it."""
    with pytest.raises(LocalModelError, match="choose another name"):
        local.place(name, [write(tmp_path / "m")])

    assert not (tmp_path / "local").exists()
