"""Files with so many bits to a weight."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.supervisor.aliases import AliasError
from hugind.supervisor.models.library import Library, LibraryModel
from hugind.supervisor.models.quantized import Quantization, choose_quantized
from hugind.supervisor.paths import Home


@pytest.fixture
def models(tmp_path: Path) -> list[LibraryModel]:
    """Two repositories and a file of somebody's own."""
    files = {
        "maker/Qwen-GGUF": ("Qwen-F16", "Qwen-Q8_0", "Qwen-Q4_0", "Qwen-Q4_K_S", "Qwen-Q6_K"),
        "other/Small-GGUF": ("Small-F16",),
        "local/mine": ("mine",),
    }
    for folder, stems in files.items():
        (tmp_path / folder).mkdir(parents=True)
        for stem in stems:
            (tmp_path / folder / f"{stem}.gguf").write_bytes(b"GGUF")
    return Library(Home(tmp_path)).models()


@pytest.mark.parametrize(
    ("model", "wanted", "chosen"),
    [
        ("Qwen-F16", "8bit", "Qwen-Q8_0"),
        ("Qwen-F16", "4bit", "Qwen-Q4_K_S"),
        ("maker/Qwen-GGUF:Q6_K", "4bit", "Qwen-Q4_K_S"),
        ("qwen-f16", "8bit", "Qwen-Q8_0"),
        ("Qwen-Q4_0", "4bit", "Qwen-Q4_0"),
    ],
)
def test_the_best_beside_it(models: list[LibraryModel], model: str, wanted: Quantization, chosen: str) -> None:
    """Of the same repository, unless it is one itself."""
    assert chosen == choose_quantized(models, model, wanted).name


def test_by_its_file(models: list[LibraryModel]) -> None:
    """A config names one so."""
    path = next(model.path for model in models if model.name == "Qwen-F16")

    assert "Qwen-Q8_0" == choose_quantized(models, path, "8bit").name
    with pytest.raises(AliasError, match="no model of the library"):
        choose_quantized(models, path.with_name("else.gguf"), "8bit")


@pytest.mark.parametrize(
    ("model", "wanted", "hint"),
    [
        ("Small-F16", "8bit", "hugind pull other/Small-GGUF:Q8_0"),
        ("Small-F16", "4bit", "hugind pull other/Small-GGUF:Q4_K_M"),
        ("unknown", "8bit", "leave the quantization out"),
    ],
)
def test_there_is_none(models: list[LibraryModel], model: str, wanted: Quantization, hint: str) -> None:
    """The next command to try is named."""
    with pytest.raises(AliasError) as refused:
        choose_quantized(models, model, wanted)

    assert hint == refused.value.hint
