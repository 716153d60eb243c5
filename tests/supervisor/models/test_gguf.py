"""What a GGUF file says is read as its writer meant it, and nothing else is taken for one."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.models.gguf import GgufError, read_header
from tests.engines import DEMO_MODEL
from tests.model_files import write_split
from tools.random_gguf import make_llama_gguf

WORDS = 5000


def write(path: Path, *, seed: int = 0, alignment: int | None = None) -> Path:
    """A file with every kind of value."""
    writer = gguf.GGUFWriter(path, "lfm2")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(3)
    writer.add_context_length(4096)
    writer.add_embedding_length(96)
    writer.add_head_count(6)
    writer.add_head_count_kv([0, 2, 0])
    writer.add_uint8("x.u8", 200)
    writer.add_int8("x.i8", -100)
    writer.add_uint16("x.u16", 60000)
    writer.add_int16("x.i16", -30000)
    writer.add_int32("x.i32", -5)
    writer.add_uint64("x.u64", 1 << 63)
    writer.add_int64("x.i64", -(1 << 62))
    writer.add_float32("x.f32", 0.5)
    writer.add_float64("x.f64", 0.1)
    writer.add_bool("x.yes", True)
    writer.add_string("x.text", "größer")
    writer.add_array("x.flags", [True, False])
    writer.add_array("x.texts", ["a", "bc", ""])
    writer.add_token_list([f"token {i}" for i in range(WORDS)])
    writer.add_token_scores([0.0] * WORDS)
    writer.add_chat_template("{{ messages }}")
    dice = np.random.default_rng(seed)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, dice.standard_normal((512, 512)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One such file; tests leave it as it is."""
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def test_values(model: Path) -> None:
    """Numbers, texts and short arrays are read; of long arrays, the length."""
    header = read_header(model)
    found = {key[2:]: value for key, value in header.values.items() if key.startswith("x.")}

    assert "lfm2" == header.architecture
    assert {
        "u8": 200,
        "i8": -100,
        "u16": 60000,
        "i16": -30000,
        "i32": -5,
        "u64": 1 << 63,
        "i64": -(1 << 62),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "größer",
        "flags": (True, False),
        "texts": ("a", "bc", ""),
    } == found
    assert "tokenizer.ggml.tokens" not in header.values
    assert (WORDS, WORDS, 3) == tuple(
        header.lengths[key] for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "x.texts")
    )


def test_shape(model: Path) -> None:
    """What sizes of caches are made of has names; what is not written is as llama.cpp takes it."""
    header = read_header(model)

    assert (3, 6, (0, 2, 0)) == (header.layers, header.heads, header.kv_heads)
    assert (16, 16, 4096) == (header.key_length, header.value_length, header.context_length)
    assert "{{ messages }}" == header.chat_template


def test_defaults() -> None:
    """As many KV heads as heads where nothing else is said; no size where none is known."""
    header = read_header(DEMO_MODEL)

    assert header.kv_heads is not None
    assert "llama" == header.architecture
    assert header.key_length == header.value_length


@pytest.mark.parametrize("alignment", [None, 64, 4096])
def test_extent(tmp_path: Path, alignment: int | None) -> None:
    """Where the weights begin is known to the byte."""
    path = write(tmp_path / "model.gguf", alignment=alignment)
    ours, theirs = read_header(path), gguf.GGUFReader(path)

    assert theirs.data_offset == ours.data_offset
    assert (len(theirs.tensors), path.stat().st_size) == (ours.tensors, ours.size_bytes)
    assert path.stat().st_mtime_ns == ours.mtime_ns


def test_digests(tmp_path: Path) -> None:
    """Other weights of the same shape have the same header and another sample."""
    model, other = (read_header(make_llama_gguf(tmp_path / f"{seed}.gguf", seed=seed)) for seed in (0, 1))
    same = read_header(make_llama_gguf(tmp_path / "again.gguf"))
    renamed = read_header(make_llama_gguf(tmp_path / "renamed.gguf", name="other"))

    assert (model.digest, model.sample_digest) == (same.digest, same.sample_digest)
    assert model.digest == other.digest
    assert model.sample_digest != other.sample_digest
    assert (model.digest, model.sample_digest) != (renamed.digest, renamed.sample_digest)
    assert model.digest != renamed.digest


@pytest.mark.parametrize("where", ["first", "last"])
def test_sample_reaches_the_ends(model: Path, tmp_path: Path, where: str) -> None:
    """The first and the last bytes of the weights are in the sample."""
    before = read_header(model)
    data = bytearray(model.read_bytes())
    data[before.data_offset if where == "first" else -1] ^= 0xFF
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data)

    assert before.sample_digest != read_header(changed).sample_digest


@given(cut=st.integers(0, 1 << 20))
def test_cut_header(model: Path, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A header that is not all there is never half read."""
    header = read_header(model)
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(model.read_bytes()[: cut % header.data_offset])

    with pytest.raises(GgufError, match=r"cut|too short"):
        read_header(path)


def test_cut_weights(model: Path, tmp_path: Path) -> None:
    """A download that stopped within the weights is noticed, if a tensor is missing."""
    header = read_header(model)
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[: header.data_offset + 512 * 512 * 4])

    with pytest.raises(GgufError, match="last tensor begins behind"):
        read_header(path)


@given(at=st.integers(4, 4000), value=st.sampled_from([0xFF, 0x7F, 0x00, 0x08]), width=st.sampled_from([1, 4, 8]))
def test_damage(model: Path, tmp_path_factory: pytest.TempPathFactory, at: int, value: int, width: int) -> None:
    """Whatever the numbers become, reading ends soon with a header or with the one error."""
    data = bytearray(model.read_bytes())
    data[at : at + width] = bytes([value]) * width
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data)
    try:
        header = read_header(path)
    except GgufError:
        return

    assert len(data) == header.size_bytes


def text(value: bytes) -> bytes:
    """A string as GGUF writes it."""
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"<!DOCTYPE html><html><body>sign in to download</body></html>", "not a GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "GGUF version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "names no architecture"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), "it is cut"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 62), "a length that leads to byte"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<I", 13), "a value of type 13"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "a value of type 9"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 60), "a length that"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60), "it is cut"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text(b"t") + struct.pack("<I", 99), "99 dimensions"),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
            "an alignment of 0",
        ),
    ],
)
def test_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)

    with pytest.raises(GgufError, match=f"odd.gguf: .*{words}"):
        read_header(path)


def test_version_2(model: Path, tmp_path: Path) -> None:
    """Version 2 differs in nothing that matters here."""
    data = bytearray(model.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path = tmp_path / "old.gguf"
    path.write_bytes(data)

    assert read_header(model).values == read_header(path).values


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there, or no file, is the same kind of error."""
    with pytest.raises(GgufError, match=os.strerror(2)):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(GgufError, match=os.strerror(21)):
        read_header(tmp_path)


def test_further_part(tmp_path: Path) -> None:
    """Of a split model only the first part names the architecture; the others are read where they are meant."""
    first, second = write_split(tmp_path)

    assert ("llama", 128) == (read_header(first).architecture, read_header(first).parameters)
    with pytest.raises(GgufError, match="names no architecture"):
        read_header(second)
    assert 128 == read_header(second, is_further_part=True).parameters


def test_a_header_that_asks_for_too_much(tmp_path: Path) -> None:
    """Numbers that nothing here can hold, and values without end: it is refused, before they are there."""
    path = tmp_path / "model.gguf"
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    alignment = text(b"general.alignment") + struct.pack("<IQ", 10, 2**64 - 1)
    layers = text(b"llama.block_count") + struct.pack("<II", 4, 2**32 - 1)
    flags = text(b"x") + struct.pack("<IIQ", 9, 7, 1024) + bytes(1024)
    tensor = text(b"x") + struct.pack("<I4QIQ", 4, *[2**63] * 4, 0, 0) + bytes(64)
    for values, tensors, words in (
        ([architecture, alignment], [], "alignment"),
        ([architecture], [tensor], "numbers"),
        ([architecture, layers], [], "4294967295 layers"),
        ([architecture, *[flags] * 200], [], "values in its header"),
    ):
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
        path.write_bytes(head + b"".join([*values, *tensors]))
        with pytest.raises(GgufError, match=words):
            read_header(path)
