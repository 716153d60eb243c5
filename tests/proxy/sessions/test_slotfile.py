"""A slot file is accepted only if every byte of it is understood."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.cli.bench.standin_slotfile import read_slot_file, write_slot_file
from hugind.proxy.sessions.slotfile import SlotFileError, parse, token_ids, tokens_digest, with_streams
from tests.proxy.sessions import slotfile_parts as parts

TOKENS = (5, 6, 7, 8, 9, 10)
HEAD = parts.header(TOKENS)


def attention(n_stream: int = 2, at: int = 1) -> bytes:
    """The full cache of six tokens."""
    return parts.cache(parts.stream(range(6)), n_stream=n_stream, at=at)


def window(n_stream: int = 2, at: int = 1) -> bytes:
    """The last two cells of the same."""
    return parts.cache(parts.stream((4, 5), layers=3), n_stream=n_stream, at=at)


STATE = parts.recurrent(5)
ODD_VALUES = parts.stream(range(6), is_transposed=True).replace(
    struct.pack("=iII", 1, 2, 4), struct.pack("=iII", 8, 2, 4)
)
EARLIER = parts.recurrent(2)
EARLIER_WINDOW = parts.cache(parts.stream((1, 2), layers=3), n_stream=2, at=1)
EARLIER_BOTH = EARLIER_WINDOW + EARLIER

FILES = {
    "attention": HEAD + attention(),
    "swa": HEAD + attention() + window(),
    "recurrent": HEAD + STATE,
    "hybrid": HEAD + attention() + STATE,
    "hybrid-swa": HEAD + attention() + window() + STATE,
}
WITH_CHECKPOINTS = {
    "swa": FILES["swa"] + parts.checkpoints(EARLIER_WINDOW, EARLIER_WINDOW, tokens=4),
    "recurrent": FILES["recurrent"] + parts.checkpoints(EARLIER, tokens=4),
    "hybrid": FILES["hybrid"] + parts.checkpoints(EARLIER, EARLIER, tokens=4),
    "hybrid-swa": FILES["hybrid-swa"] + parts.checkpoints(EARLIER_BOTH, tokens=4, draft=b""),
}
BOTH = [*FILES.items(), *WITH_CHECKPOINTS.items()]


@pytest.mark.parametrize(("layout", "data"), BOTH)
def test_layouts(layout: str, data: bytes) -> None:
    """Each kind of model is recognised by its caches alone."""
    file = parse(data)

    assert layout == file.layout
    assert (6, 0, len(data)) == (file.tokens, file.media, file.size_bytes)
    assert ((0, None) if layout == "recurrent" else (6, 2)) == (file.cells, file.n_stream)


@pytest.mark.parametrize(("layout", "data"), BOTH)
def test_every_cut_is_noticed(layout: str, data: bytes) -> None:
    """No shorter file passes for the same snapshot: cut behind a cache, it is one of another layout, or has no V."""
    for size in range(len(data)):
        try:
            file = parse(data[:size])
        except SlotFileError:
            continue
        assert size == file.size_bytes
        assert file.layout != layout or not file.checkpoints
        if data == FILES.get(layout):
            assert file.layout != layout or not file.caches[-1].has_values


@pytest.mark.parametrize(("layout", "data"), BOTH)
@pytest.mark.parametrize("more", [b"x", bytes(4), bytes(64), b"SCKP", b"SCKP" + struct.pack("=II", 1, 1)])
def test_nothing_may_be_appended(layout: str, data: bytes, more: bytes) -> None:
    """An engine ignores what follows; to us it means that the file is not what was saved."""
    with pytest.raises(SlotFileError, match="at byte"):
        parse(data + more)


@given(st.sampled_from([data for _, data in BOTH]), st.data())
def test_damage_is_no_crash(data: bytes, draw: st.DataObject) -> None:
    """Whatever four bytes become, parsing ends soon with a file or with the one error."""
    at = draw.draw(st.integers(0, len(data) - 4))
    value = draw.draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF))
    damaged = data[:at] + struct.pack("=I", value) + data[at + 4 :]
    try:
        file = parse(damaged)
    except SlotFileError:
        return

    assert len(data) == file.size_bytes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "a number would take 12 bytes where 0 are left"),
        (parts.header(TOKENS, magic=1), "not a slot file of version 4"),
        (parts.header(TOKENS, version=3), "not a slot file of version 4"),
        (parts.header(()) + bytes(4), "no tokens"),
        (struct.pack("=III", 0x67677371, 4, 3) + struct.pack("=iii", 1, 2, 3), "another format"),
        (struct.pack("=III", 0x67677371, 4, 4) + struct.pack("=iIII", -1, 2, 1, 0), "another format"),
        (struct.pack("=III", 0x67677371, 4, 0xFFFFFFFF), "the tokens would take"),
        (struct.pack("=III", 0x67677371, 4, 4) + struct.pack("=iIII", -1, 1, 0xFFFFFFFF, 0), "the tokens would take"),
        (struct.pack("=III", 0x67677371, 4, 6) + struct.pack("=iIIiII", -1, 1, 1, 5, 0, 0), "4 bytes too many"),
        (HEAD, "at byte"),
        (HEAD + attention() + parts.cache(parts.stream((4, 5)), n_stream=3), "different numbers of streams"),
        (HEAD + parts.cache(ODD_VALUES), "at byte"),
        (HEAD + attention() + window() + window(), "no head of a recurrent cache"),
    ],
)
def test_refused(data: bytes, words: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(SlotFileError, match=words):
        parse(data)


def test_media() -> None:
    """Images and sounds lie in the header; their size need not be a multiple of four."""
    data = parts.header((5, -1, -1, 8, 9, 10), [b"an image", b"a sound, which is longer"]) + attention()

    assert 2 == parse(data).media
    assert [5, -1, -1, 8, 9, 10] == token_ids(data).tolist()


def test_tokens() -> None:
    """The tokens can be read, and compared, without the caches."""
    data = FILES["attention"]
    other = parts.header((5, 6, 7, 8, 9, 11)) + attention()

    assert list(TOKENS) == token_ids(data).tolist()
    assert tokens_digest(data) == tokens_digest(HEAD + attention(n_stream=1, at=0))
    assert tokens_digest(data) != tokens_digest(other)
    assert tokens_digest(data) != tokens_digest(parts.header(TOKENS, [b"image"]) + attention())


def test_is_whole() -> None:
    """A snapshot of the last window, or of a state, is good for going on from its end only."""
    short = parts.cache(parts.stream(range(6), layers=3), n_stream=2)

    assert [True, False, False, False, False] == [parse(data).is_whole for data in FILES.values()]
    assert parse(HEAD + attention() + short).is_whole


@pytest.mark.parametrize(("layout", "data"), BOTH)
@pytest.mark.parametrize("n_stream", [1, 2, 5])
def test_with_streams(layout: str, data: bytes, n_stream: int) -> None:
    """The same snapshot for another slot count: the same cells and tensors, in the first stream."""
    made = joined(data, n_stream)
    before, after = parse(data), parse(made)

    assert (layout, before.tokens, len(before.checkpoints)) == (after.layout, after.tokens, len(after.checkpoints))
    assert [data[cache.body] for cache in before.all_caches] == [made[cache.body] for cache in after.all_caches]
    assert {(n_stream, 0)} >= {(cache.n_stream, cache.stream) for cache in after.all_caches}
    assert tokens_digest(data) == tokens_digest(made)
    assert made == joined(joined(made, 3), n_stream)


def test_restreaming_copies_no_tensors() -> None:
    """What is new is a few bytes; all else is slices of the original."""
    data = WITH_CHECKPOINTS["swa"]

    assert sum(len(piece) for piece in with_streams(parse(data), 3) if isinstance(piece, bytes)) < 100


def test_mapped_file(tmp_path: Path) -> None:
    """A mapped file is parsed in place, and can be closed even while an error about it is held."""
    path = tmp_path / "slot.bin"
    path.write_bytes(FILES["swa"][:-1])
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            parse(mapped)
        except SlotFileError as error:
            held = error

    assert held.__traceback__ is not None
    assert mapped.closed


def test_standin_writes_such_files() -> None:
    """What the stand-in llama-server saves is a slot file, and it reads what we make of it."""
    tokens = struct.pack("=6I", *TOKENS)
    data = write_slot_file(tokens, stream=1, n_stream=2)

    assert ("attention", 2) == (parse(data).layout, parse(data).n_stream)
    assert tokens == read_slot_file(joined(data, 4), n_stream=4)


def joined(data: bytes, n_stream: int) -> bytes:
    """The file that `with_streams` describes."""
    pieces = with_streams(parse(data), n_stream)
    return b"".join(data[piece] if isinstance(piece, slice) else piece for piece in pieces)
