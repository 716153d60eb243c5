"""A model is all of its files; what is not said is chosen."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hugind.supervisor.models.download_plan import DownloadError, RemoteFile, Repository, make_plan
from hugind.supervisor.models.repository import parse_reference

REPO = "someone/tiny-GGUF"
SIZES = {
    "tiny-Q4_K_M.gguf": 10,
    "tiny-Q8_0.gguf": 20,
    "tiny-F16-00001-of-00002.gguf": 3,
    "tiny-F16-00002-of-00002.gguf": 4,
}


def repository(sizes: Mapping[str, int]) -> Repository:
    files = (RemoteFile(path, size, None) for path, size in sizes.items())
    return Repository("someone", "tiny-GGUF", "a1", tuple(files))


HAS = repository(SIZES)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (REPO, ["tiny-Q4_K_M.gguf"]),
        (f"{REPO}:latest", ["tiny-Q4_K_M.gguf"]),
        (f"{REPO}:q8_0", ["tiny-Q8_0.gguf"]),
        (f"{REPO}:tiny-Q8_0", ["tiny-Q8_0.gguf"]),
        (f"{REPO}/tiny-Q8_0.gguf", ["tiny-Q8_0.gguf"]),
        (f"{REPO}@a1:Q8_0", ["tiny-Q8_0.gguf"]),
        (f"{REPO}:F16", ["tiny-F16-00002-of-00002.gguf", "tiny-F16-00001-of-00002.gguf"]),
    ],
)
def test_plan(text: str, files: list[str]) -> None:
    """The quant that was asked for, else a common one; all parts, the first at the end."""
    found = make_plan(parse_reference(text), HAS)

    assert files == [file.name for file in found.files]
    assert ("someone", "tiny-GGUF", "a1") == (found.user, found.repo, found.revision)
    assert files[-1] == found.model
    assert sum(SIZES[name] for name in files) == found.size_bytes


def test_projector() -> None:
    """The one beside the model, or at the top; f16 rather than another."""
    found = repository({"Q4_K_M/m-Q4_K_M.gguf": 1, "mmproj-F32.gguf": 1, "mmproj-F16.gguf": 1, "x/mmproj-F16.gguf": 1})

    assert ("mmproj-F16.gguf", "Q4_K_M/m-Q4_K_M.gguf") == tuple(
        file.path for file in make_plan(parse_reference(REPO), found).files
    )


def test_smallest_where_no_quant_is_known() -> None:
    """Names that say nothing are chosen by size."""
    found = repository({"big.gguf": 2, "small.gguf": 1})

    assert "small.gguf" == make_plan(parse_reference(REPO), found).model


@pytest.mark.parametrize(
    ("text", "sizes", "problem", "words"),
    [
        (f"{REPO}:Q2_K", SIZES, "no_quant", ("Q2_K", "F16, Q4_K_M, Q8_0")),
        (f"{REPO}/other.gguf", SIZES, "not_found", ("other.gguf", "tiny-Q8_0.gguf")),
        (REPO, {}, "not_gguf", ("no GGUF", "-GGUF")),
    ],
)
def test_what_is_not_there(text: str, sizes: Mapping[str, int], problem: str, words: tuple[str, ...]) -> None:
    """It says what there is."""
    with pytest.raises(DownloadError) as caught:
        make_plan(parse_reference(text), repository(sizes))

    said = f"{caught.value.message} {caught.value.hint}"
    assert problem == caught.value.problem
    assert all(word in said for word in words), said
