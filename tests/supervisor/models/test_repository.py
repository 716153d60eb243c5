"""What people type names a repository or nothing; what its files are is told by their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.models.repository import (
    Reference,
    ReferenceProblem,
    choose_default,
    choose_projector,
    first_parts,
    is_model_file,
    is_name,
    model_stem,
    parse_reference,
    part_names,
    quant_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Reference("a", "b")),
        (" a/b ", Reference("a", "b")),
        ("a/b:latest", Reference("a", "b")),
        ("a/b:Q4_K_M", Reference("a", "b", quant="Q4_K_M")),
        ("hf.co/a/b:q8_0", Reference("a", "b", quant="q8_0")),
        ("huggingface.co/a/b", Reference("a", "b")),
        ("https://hf.co/a/b", Reference("a", "b")),
        ("a/b/c.gguf", Reference("a", "b", file="c.gguf")),
        ("a/b/Q8_0/c-00001-of-00002.gguf", Reference("a", "b", file="Q8_0/c-00001-of-00002.gguf")),
        ("https://hf.co/a/b/blob/main/c.gguf", Reference("a", "b", file="c.gguf", revision="main")),
        ("a/b@v1.0:Q4_0", Reference("a", "b", quant="Q4_0", revision="v1.0")),
        ("The-Bloke/Mistral.7B_v0-GGUF", Reference("The-Bloke", "Mistral.7B_v0-GGUF")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    """All the ways in which people write a model of the hub."""
    assert expected == parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/a/b", "../b", "a/..", "a/b/../c.gguf", "a/b/c.bin", "a/.b", ".a/b", "a//b", "a/b:"),
        *(
            "a/b/c/d",
            "a/b c",
            "a/b\n",
            "a\\b/c",
            "a/b/.c.gguf",
            "a/b/x/..gguf",
            "http://example.org/a/b",
            "a" * 97 + "/b",
        ),
        *("a/b\x00", "~/b", "a/b:../c", "a/b@../c", "%2e%2e/b", "a/b..c"),
    ],
)
def test_no_references(text: str) -> None:
    """Anything else is refused, with an example of what would do."""
    with pytest.raises(ReferenceProblem) as caught:
        parse_reference(text.replace("\n", "\n\n") + ("!" if text.endswith("\n") else ""))
    assert caught.value.hint is not None
    assert "user/repo" in caught.value.hint


@given(st.text(alphabet="ab./:@-_\\ ~%\x00", max_size=24))
def test_a_reference_never_leaves_its_folder(text: str) -> None:
    """Whatever is typed: user and repository are plain names, or it is refused."""
    try:
        found = parse_reference(text)
    except ReferenceProblem:
        return
    assert is_name(found.user)
    assert is_name(found.repo)
    assert found == parse_reference(str(found))


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-iq2_xxs.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("x.BF16.gguf", "BF16"),
        ("Q8_0/x-00001-of-00002.gguf", "Q8_0"),
        ("x-Q8_0-00001-of-00002.gguf", "Q8_0"),
        ("model.gguf", None),
        ("Q-learning.gguf", None),
    ],
)
def test_quants(name: str, quant: str | None) -> None:
    """The last of what a name says of its weights."""
    assert quant == quant_of(name)


def test_split_models() -> None:
    """The first part stands for all, and only when all are there."""
    parts = [f"m-{at:05}-of-00003.gguf" for at in (1, 2, 3)]
    assert parts == part_names(parts[0])
    assert [parts[0]] == first_parts(parts)
    assert [] == first_parts(parts[:2])
    assert "m" == model_stem(parts[0])
    assert ["m-00001-of-99999.gguf"] == part_names("m-00001-of-99999.gguf")


def test_what_is_no_model() -> None:
    """Hidden and unfinished files, matrices of importances, and names that could do harm."""
    names = [".a.gguf", "a.gguf.part", "a.gguf.incomplete", "imatrix-a.gguf", "a.bin", "a\x00.gguf", "a\\b.gguf"]
    assert [] == [name for name in [*names, "a" * 300 + ".gguf"] if is_model_file(name)]
    assert ["a.GGUF", "b.gguf"] == first_parts(["b.gguf", "a.GGUF", "mmproj-b.gguf", *names])


def test_choices() -> None:
    """The common quant, else the smallest; the f16 projector, else any."""
    assert "a-Q4_K_M.gguf" == choose_default({"a-Q8_0.gguf": 2, "a-Q4_K_M.gguf": 3, "a-Q2_K.gguf": 1})
    assert "b.gguf" == choose_default({"a.gguf": 2, "b.gguf": 1})
    assert choose_default({}) is None
    assert "mmproj-F16.gguf" == choose_projector(["a.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"])
    assert "x-mmproj.gguf" == choose_projector(["x-mmproj.gguf"])
    assert choose_projector(["a.gguf"]) is None
