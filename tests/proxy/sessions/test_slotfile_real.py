"""What a real engine saves is understood, and what is made of it restores: `HUGIND_TEST_ENGINE` says which engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hugind.proxy.sessions.slotfile import SlotFile, SlotFileError, parse, token_ids, tokens_digest, with_streams
from tests.proxy.sessions.real_engine import RealEngine, real_engine
from tools.random_gguf import make_hybrid_gguf, make_llama_gguf, make_recurrent_gguf, make_swa_gguf

pytestmark = pytest.mark.e2e

PROMPT = "".join(f"line {line} of {line * 7 % 13}. " for line in range(20))
MORE = [270, 280, 290, 300]
"""Tokens that are letters."""


@dataclass(frozen=True)
class Kind:
    """A model and how to run it."""

    layout: str
    make: Callable[..., Path]
    flags: tuple[str, ...] = ()


KINDS = {
    "attention": Kind("attention", make_llama_gguf),
    "swa": Kind("swa", make_swa_gguf),
    "swa-full": Kind("swa", make_swa_gguf, ("--swa-full",)),
    "recurrent": Kind("recurrent", make_recurrent_gguf),
    "hybrid": Kind("hybrid", make_hybrid_gguf),
}


@dataclass(frozen=True)
class Saves:
    """One conversation, saved from each of two slots, and how it goes on where it was saved."""

    kind: Kind
    model: Path
    files: tuple[bytes, bytes]
    said: tuple[tuple[int, int], tuple[int, int]]
    next_turn: tuple[int, str]
    other_turn: tuple[int, str]


@pytest.fixture(scope="module", params=KINDS)
def saves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saves]:
    """The same for each kind of model."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp("saves")
    model = kind.make(folder / "model.gguf", ctx=4096)
    with real_engine(model, folder / "2", *kind.flags) as engine:
        said = tuple(save(engine, slot) for slot in (0, 1))
        files = tuple((engine.folder / f"{slot}.bin").read_bytes() for slot in (0, 1))
        turns = []
        for dropped in (0, 5):
            assert engine.restore(0, files[1]) == said[1][0]
            turns.append(go_on(engine, files[1], slot=0, dropped=dropped))
        yield Saves(kind, model, (files[0], files[1]), (said[0], said[1]), turns[0], turns[1])


def save(engine: RealEngine, slot: int) -> tuple[int, int]:
    """Hold the conversation in a slot and save it. What the engine says."""
    engine.complete(PROMPT, slot=slot)
    return engine.save(slot, f"{slot}.bin")


def go_on(engine: RealEngine, data: bytes, *, slot: int, dropped: int = 0) -> tuple[int, str]:
    """A turn that begins with what was saved, less its end: the tokens that it found computed, and the answer."""
    tokens = token_ids(data)
    answer = engine.complete([*tokens[: len(tokens) - dropped], *MORE], slot=slot)
    return answer["timings"]["cache_n"], answer["content"]


def restreamed(data: bytes, n_stream: int) -> bytes:
    """The file that `with_streams` describes."""
    return b"".join(data[one] if isinstance(one, slice) else one for one in with_streams(parse(data), n_stream))


def test_what_was_saved(saves: Saves) -> None:
    """The engine's own counts agree with what is in the file, from whichever slot it comes."""
    parsed = [parse(data) for data in saves.files]

    assert list(saves.said) == [(file.tokens, file.size_bytes) for file in parsed]
    assert {saves.kind.layout} == {file.layout for file in parsed}
    assert 1 == len({tokens_digest(data) for data in saves.files})
    if saves.kind.layout == "recurrent":
        assert [None, None] == [file.n_stream for file in parsed]
    else:
        assert [(0, 2), (1, 2)] == [(file.caches[0].stream, file.caches[0].n_stream) for file in parsed]


def test_cuts(saves: Saves) -> None:
    """No part of the file passes for the whole."""
    data = saves.files[1]
    whole = parse(data)
    size = len(data)
    for end in {*(size * part // 17 for part in range(17)), size - 3, size - 2, size - 1}:
        with pytest.raises(SlotFileError):
            parse(data[:end])
    for end in boundaries(whole) - {size}:
        assert whole != parsed_or_none(data[:end])


def test_appended(saves: Saves) -> None:
    """Nothing may follow, not even what the file ends with."""
    for more in (b"\0", bytes(4), b"SCKP", saves.files[0]):
        with pytest.raises(SlotFileError):
            parse(saves.files[0] + more)


def test_another_slot_count(saves: Saves, tmp_path: Path) -> None:
    """A snapshot that was made for another slot count restores as well as the one that the engine wrote."""
    with real_engine(saves.model, tmp_path / "3", *saves.kind.flags, slots=3) as engine:
        for slot, data in ((2, saves.files[0]), (0, saves.files[1])):
            assert saves.said[0][0] == engine.restore(slot, restreamed(data, 3))
            assert saves.next_turn == go_on(engine, data, slot=slot)

    needs_checkpoint = saves.kind is KINDS["swa"]
    has_checkpoint = bool(parse(saves.files[0]).checkpoints)
    assert (saves.next_turn[0] > 0) == (has_checkpoint or not needs_checkpoint)


def test_checkpoints_move_too(saves: Saves, tmp_path: Path) -> None:
    """An engine with another slot count goes back to a checkpoint as the one that wrote it does."""
    data = saves.files[1]
    if not parse(data).checkpoints:
        pytest.skip("this engine, or this kind of model, saves none")
    with real_engine(saves.model, tmp_path / "3", *saves.kind.flags, slots=3) as engine:
        engine.restore(2, restreamed(data, 3))
        assert saves.other_turn == go_on(engine, data, slot=2, dropped=5)

    assert 0 < saves.other_turn[0] < saves.said[0][0]


def test_saved_state_has_its_length(saves: Saves) -> None:
    """All but plain attention holds less than would be needed to go back, with `--swa-full` as well."""
    assert (saves.kind.layout == "attention") == parse(saves.files[0]).is_whole


@pytest.mark.parametrize("flags", [(), ("--flash-attn", "off"), ("-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on")])
def test_unified(flags: tuple[str, ...], tmp_path: Path) -> None:
    """A unified cache's file becomes a split one's, and the other way round, whatever the types of the cache."""
    model = make_llama_gguf(tmp_path / "model.gguf", heads=2, ctx=4096)
    with (
        real_engine(model, tmp_path / "u", "--kv-unified", *flags) as unified,
        real_engine(model, tmp_path / "s", *flags) as split,
    ):
        save(unified, 0), save(unified, 1), save(split, 1)
        together, apart = ((engine.folder / "1.bin").read_bytes() for engine in (unified, split))
        turns = []
        for engine, data, n_stream in ((unified, apart, 1), (split, together, 2)):
            assert parse(data).tokens == engine.restore(0, restreamed(data, n_stream))
            turns.append(go_on(engine, data, slot=0))

    assert (1, 2) == (parse(together).n_stream, parse(apart).n_stream)
    assert len(restreamed(apart, 1)) == len(together)
    assert turns[0] == turns[1]
    assert parse(apart).tokens == turns[0][0]


def test_going_back_within_the_window(tmp_path: Path) -> None:
    """Why `is_whole` is asked: with `--swa-full`, a restored conversation whose last words change is answered wrongly.

    Where this fails, the engine has learned to save all of the window's cache, or to see that it is not all there.
    """
    model = make_swa_gguf(tmp_path / "model.gguf", layers=6, ctx=4096)
    with real_engine(model, tmp_path / "e", "--swa-full") as engine:
        save(engine, 0)
        data = (engine.folder / "0.bin").read_bytes()
        changed = [*token_ids(data)[:-40], *MORE]
        stayed = engine.complete(changed, slot=0, tokens=40)
        engine.erase(0)
        engine.restore(0, data)
        returned = engine.complete(changed, slot=0, tokens=40)

    reused = len(changed) - len(MORE)
    assert (reused, reused) == (stayed["timings"]["cache_n"], returned["timings"]["cache_n"])
    assert stayed["content"] != returned["content"]


def boundaries(file: SlotFile) -> set[int]:
    """Where a cache ends: a file that ends there is a whole file of another kind."""
    ends = {cache.end for cache in file.all_caches}
    return ends | {file.checkpoints[0].size_at - 28} if file.checkpoints else ends


def parsed_or_none(data: bytes) -> SlotFile | None:
    """What `parse` says, if anything."""
    try:
        return parse(data)
    except SlotFileError:
        return None
