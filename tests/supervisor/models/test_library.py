"""The library is what lies in the folders of users, and nothing else that lies in a home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hugind.supervisor.config import Config
from hugind.supervisor.models.gguf import GgufError
from hugind.supervisor.models.library import Library, LibraryError, described, extra_bytes
from hugind.supervisor.paths import CONFIG_NAME, Home
from tests.model_files import write_split
from tools.random_gguf import make_llama_gguf


def put(home: Home, path: str, size: int = 1) -> Path:
    """A file in the home; a listing does not look into it."""
    file = home.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def names(home: Home) -> list[str]:
    return [model.name for model in Library(home).models()]


def test_what_is_listed(home: Home) -> None:
    """Files two folders deep, and of split models those that are all there."""
    put(home, "a/tiny/tiny-Q4_0.gguf", 7)
    put(home, "a/tiny/mmproj-F16.gguf")
    put(home, "b/big/big-00001-of-00002.gguf", 3)
    put(home, "b/big/big-00002-of-00002.gguf", 4)
    for ignored in (
        *("top.gguf", "a/shallow.gguf", "a/tiny/deep/x.gguf", "a/tiny/x.gguf.part", "a/tiny/.x.gguf", ".a/b/x.gguf"),
        *("a/.b/x.gguf", "b/half/half-00001-of-00002.gguf", "a/tiny/imatrix.gguf"),
        *(
            f"{own}/b/x.gguf"
            for own in ("configs", "logs", "run", "slots", "sessions", "session_keys", "usage", "blobs")
        ),
    ):
        put(home, ignored)

    big, tiny = Library(home).models()
    assert ("big", "b", "big", 7, None) == (big.name, big.user, big.repo, big.size_bytes, big.mmproj)
    assert home.root / "b/big/big-00001-of-00002.gguf" == big.path
    assert ("tiny-Q4_0", 7, home.root / "a/tiny/mmproj-F16.gguf") == (tiny.name, tiny.size_bytes, tiny.mmproj)
    assert abs(tiny.path.stat().st_mtime - tiny.modified_at.timestamp()) < 1e-3
    assert tiny == Library(home).at(tiny.path)


def test_other_names(home: Home) -> None:
    """A repository's name is its default model; each quant has a name while only one file has it."""
    for name in ("m-Q4_K_M", "m-Q8_0", "n-Q8_0"):
        put(home, f"a/b/{name}.gguf")

    found = {model.name: model.other_names for model in Library(home).models()}
    assert ("a/b", "a/b:Q4_K_M", "hf.co/a/b", "hf.co/a/b:Q4_K_M", "m-Q4_K_M.gguf") == found["m-Q4_K_M"]
    assert ("m-Q8_0.gguf",) == found["m-Q8_0"]


def test_names_are_unique(home: Home) -> None:
    """Whatever the files are called, each has a name of its own that a config could have; order does not matter."""
    files = ["a/r/model.gguf", "b/s/MODEL.gguf", "c/t/m.gguf", "d/t/m.gguf", f"e/u/{'x' * 90}.gguf", "f/v/_ü.gguf"]
    for file in files:
        put(home, file)

    found = {str(model.path.relative_to(home.root)): model.name for model in Library(home).models()}
    assert len(files) == len({name.casefold() for name in found.values()})
    assert all(CONFIG_NAME.fullmatch(name) for name in found.values())
    assert ("r-model", "s-MODEL") == (found["a/r/model.gguf"], found["b/s/MODEL.gguf"])
    assert found["c/t/m.gguf"].startswith("m-")

    (home.root / "b/s/MODEL.gguf").unlink()
    assert "model" in names(home)


def test_no_home(tmp_path: Path) -> None:
    """A home that is not there has no models."""
    assert [] == Library(Home(tmp_path / "none")).models()


def test_remove(home: Home) -> None:
    """Its files go; a projector with the last model that it belongs to; folders when nothing is left in them."""
    for file in ("a/b/m.gguf", "a/b/n-00001-of-00002.gguf", "a/b/n-00002-of-00002.gguf", "a/b/mmproj-F16.gguf"):
        put(home, file)
    library = Library(home)

    library.remove("n")
    assert ["m.gguf", "mmproj-F16.gguf"] == sorted(path.name for path in (home.root / "a/b").iterdir())
    library.remove("m")
    assert not (home.root / "a").exists()
    assert home.configs.exists()
    with pytest.raises(LibraryError, match="no model 'm'"):
        library.remove("m")


def test_remove_keeps_what_is_not_ours(home: Home) -> None:
    """What else lies in the folder stays."""
    put(home, "a/b/m.gguf")
    put(home, "a/b/notes.txt")
    Library(home).remove("m")
    assert (home.root / "a/b/notes.txt").exists()


def test_described(tmp_path: Path) -> None:
    """Read once, and again when the file has changed; two models of the same shape differ."""
    path = make_llama_gguf(tmp_path / "m.gguf")
    first = described(path)
    assert first is described(path)
    assert 64 == len(bytes.fromhex(first.digest)) * 2
    assert path.stat().st_size == first.size_bytes
    assert ("completion",) == first.capabilities(has_mmproj=False)
    assert ("embedding",) == first.capabilities(has_mmproj=False, task="embedding")

    other = described(make_llama_gguf(tmp_path / "o.gguf", seed=1))
    assert first.digest != other.digest
    make_llama_gguf(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert other.digest == described(path).digest


def test_described_split(tmp_path: Path) -> None:
    """Of all parts, sizes and parameters are added up; every part counts for the digest."""
    first, second = write_split(tmp_path)

    found = described(first)
    assert 2 * 4 * 32 == found.parameters
    assert first.stat().st_size + second.stat().st_size == found.size_bytes


def test_not_described(tmp_path: Path) -> None:
    """What is no model says so."""
    (tmp_path / "m.gguf").write_bytes(b"not one")
    for name in ("m.gguf", "none.gguf"):
        with pytest.raises(GgufError, match=name):
            described(tmp_path / name)


def test_extra_bytes(home: Home) -> None:
    """What an engine loads beside its model file."""
    model = put(home, "a/b/m-00001-of-00002.gguf", 5)
    put(home, "a/b/m-00002-of-00002.gguf", 7)
    projector, adapter = put(home, "a/b/mmproj.gguf", 11), put(home, "a/b/lora.gguf", 13)
    section = {
        "model_path": str(model),
        "mmproj_path": str(projector),
        "lora_paths": [str(adapter)],
        "draft_path": "no",
    }

    assert 7 + 11 + 13 == extra_bytes(Config.model_validate({"model": section}), home)
