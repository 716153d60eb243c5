"""What goes wrong with snapshots costs time at most: a served answer, a live worker, and the last good one intact."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from hugind.proxy.sessions.record import Session
from tests.e2e.conversations import (
    HAS_MEMORY,
    Conversation,
    Turn,
    crowd_out,
    keeper,
    kill_worker,
    make_slow_gguf,
    memory_folder,
    session_config,
    session_sections,
    until_saved,
)
from tests.e2e.gateway_process import running
from tests.eventually import eventually, eventually_sync
from tests.proxy.serving import Served, connect, http_request, serving
from tools.random_gguf import make_llama_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not HAS_MEMORY, reason="there is no tmpfs")]

FIRST = "Tell me how it began, from the start. " * 3
NEXT = "And then?"
LONG = "Tell me how it went on, with everything that you know. " * 25
AT_ONCE = {"disk_after_s": 0}
LARGE: dict[str, dict[str, Any]] = {
    "context": {"ctx_size": 2048, "cache_type_k": "f32", "cache_type_v": "f32"},
    "sessions": {"disk_gb": 0},
}
KILLS = 20

Fault = Callable[[Path], None]
"""Damages a snapshot."""


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


# ---- files that are not what they were


def _cut(at: int) -> Fault:
    """To so many bytes; negative: by so many."""
    return lambda path: os.truncate(path, at if at >= 0 else path.stat().st_size + at)


def _cut_share(share: float) -> Fault:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def _cut_after_header(more: int) -> Fault:
    return lambda path: os.truncate(path, _header_bytes(path) + more)


def _flip(at: int) -> Fault:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x01
        path.write_bytes(data)

    return flip


def _flip_share(share: float) -> Fault:
    return lambda path: _flip(int(path.stat().st_size * share))(path)


def _append(data: bytes) -> Fault:
    def append(path: Path) -> None:
        with path.open("ab") as file:
            file.write(data)

    return append


def _double(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _header_bytes(path: Path) -> int:
    return 12 + 4 * int.from_bytes(path.read_bytes()[8:12], "little")


def _instead(make: Callable[[Path], object]) -> Fault:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


FAULTS: dict[str, list[Fault]] = {
    "truncated": [
        *map(_cut, (0, 1, 4, 11, 12, 16, 22, 24, 26, 28, 100, -1, -2, -3)),
        *map(_cut_after_header, (0, 2, 4, 8)),
        *map(_cut_share, (0.5, 0.9)),
    ],
    "flipped": [
        *map(_flip, (0, 4, 8, 12, 16, 20, 24, 200)),  # magic, version, words, marker, count, tokens
        *map(_flip_share, (0.3, 0.5, 0.7)),
        _flip(-1),
    ],
    "longer": [_append(b"\0"), _append(b"\0" * 40), _append(os.urandom(100_000)), _double],
    "no file": [
        Path.unlink,
        _instead(Path.mkdir),
        _instead(os.mkfifo),
        _instead(lambda path: path.symlink_to("nowhere")),
        _instead(lambda path: path.symlink_to("/dev/zero")),
    ],
}

faults = pytest.mark.parametrize("kind", FAULTS)


@faults
async def test_what_memory_has_is_bad(tmp_path: Path, memory: Path, kind: str) -> None:
    """The copy on disk is restored instead; nothing bad reaches the engine, and the answer is right."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        people = await _talk_and_leave(served, len(FAULTS[kind]) + 1)
        store = keeper(served).store
        for (_, session), fault in zip(people[1:], FAULTS[kind], strict=True):
            assert session.memory
            fault(store.path(session, session.memory))
        whole, *damaged = [await talk.say(served.client, NEXT) for talk, _ in people]
        seen = store.refused
        await crowd_out(served)
        again = [await talk.say(served.client, NEXT) for talk, _ in people]

    assert "warm" == whole.label
    assert [("cold", whole.text, whole.cached_tokens)] * len(damaged) == [_gist(turn) for turn in damaged]
    assert len(damaged) == seen
    assert [("warm", again[0].text, again[0].cached_tokens)] * len(again) == [_gist(turn) for turn in again]


@faults
async def test_nothing_good_is_left(tmp_path: Path, memory: Path, kind: str) -> None:
    """Both copies are bad: all is computed anew, rightly; the neighbours' snapshots and the next one are good."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        people = await _talk_and_leave(served, len(FAULTS[kind]) + 1)
        store = keeper(served).store
        for (_, session), fault in zip(people[1:], FAULTS[kind], strict=True):
            assert session.memory
            assert session.disk
            fault(store.path(session, session.memory))
            fault(store.path(session, session.disk))
        whole, *damaged = [await talk.say(served.client, NEXT) for talk, _ in people]
        await crowd_out(served)
        again = [await talk.say(served.client, NEXT) for talk, _ in people]

    assert "warm" == whole.label
    assert [("new", whole.text, 0)] * len(damaged) == [_gist(turn) for turn in damaged]
    assert [("warm", again[0].text, again[0].cached_tokens)] * len(again) == [_gist(turn) for turn in again]


async def test_a_planted_link_is_not_followed(tmp_path: Path, memory: Path) -> None:
    """In place of snapshots and a transcript lie links to those of somebody else: these are not read, and stay."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        alice, mallory = Conversation(user="alice"), Conversation(user="mallory")
        hers = await until_saved(served, await alice.say(served.client, "This is private: 4711. " * 6))
        his = await until_saved(served, await mallory.say(served.client, FIRST))
        await _until_on_disk(served)
        await crowd_out(served)
        before = {path: path.read_bytes() for path in _files(served, hers)}
        for target, link in zip(_files(served, hers), _files(served, his), strict=True):
            link.unlink()
            link.symlink_to(target)
        turn = await mallory.say(served.client, NEXT)

        assert ("new", 0) == (turn.label, turn.cached_tokens)
        assert before == {path: path.read_bytes() for path in _files(served, hers)}
        assert "warm" == (await alice.say(served.client, NEXT)).label


async def test_a_linked_transcript_is_not_read(tmp_path: Path, memory: Path) -> None:
    """A kept history that was replaced by a link to another one is as good as lost."""
    config = session_config(
        make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE, chat={"history": "server"}
    )
    async with serving(tmp_path, {"chat": config}) as served:
        await Conversation(user="alice").say(served.client, "This is private: 4711. " * 6)
        await Conversation(user="mallory").say(served.client, FIRST)
        hers, his = keeper(served).store.sessions.values()
        hers_file, his_file = (_talk_file(tmp_path, session) for session in (hers, his))
        await eventually(lambda: hers_file.exists() and his_file.exists())
    his_file.unlink()
    his_file.symlink_to(hers_file)
    async with serving(tmp_path, {"chat": config}) as served:
        turn = await Conversation(user="mallory").say(served.client, NEXT)

    assert turn.prompt_tokens < 60


async def test_what_became_bad_in_memory_is_not_copied(tmp_path: Path, memory: Path) -> None:
    """The older copy on disk is good, and stays."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    alice = Conversation(user="alice")
    async with serving(tmp_path, {"chat": config}) as served:
        first = await alice.say(served.client, FIRST)
    async with serving(tmp_path, {"chat": config}) as served:
        session = await until_saved(served, await alice.say(served.client, NEXT))
        assert session.memory
        _flip_share(0.5)(keeper(served).store.path(session, session.memory))
    async with serving(tmp_path, {"chat": config}) as served:
        back = await alice.say(served.client, NEXT)

    assert "cold" == back.label
    assert first.computed <= back.cached_tokens


@pytest.mark.parametrize("how", ["compress", "encrypt"])
@pytest.mark.parametrize("kind", ["truncated", "flipped", "longer"])
async def test_what_is_packed_on_disk_is_bad(tmp_path: Path, memory: Path, how: str, kind: str) -> None:
    """Compressed or encrypted files are checked as well, and what was unpacked of a bad one is cleared away."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions={**AT_ONCE, how: True})
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        people = await _talk_and_leave(served, len(FAULTS[kind]) + 1)
        store = keeper(served).store
        for _, session in people:
            assert session.memory
            store.path(session, session.memory).unlink()
        for (_, session), fault in zip(people[1:], FAULTS[kind], strict=True):
            assert session.disk
            fault(store.path(session, session.disk))
        whole, *damaged = [await talk.say(served.client, NEXT) for talk, _ in people]
        await eventually(lambda: not _half_files(tmp_path, memory))

    assert "cold" == whole.label
    assert [("new", whole.text, 0)] * len(damaged) == [_gist(turn) for turn in damaged]


# ---- engines that are not what they were


async def test_a_foreign_model_of_equal_shape(tmp_path: Path, memory: Path) -> None:
    """Other weights under the same name, of the same size and age: nothing is restored there, and later it is again."""
    model, other = (make_slow_gguf(tmp_path / f"{seed}.gguf", seed=seed) for seed in (0, 1))
    path = tmp_path / "model.gguf"
    config = session_config(path, memory)
    os.utime(other, ns=(model.stat().st_atime_ns, model.stat().st_mtime_ns))
    alice, bob = Conversation(user="alice"), Conversation(user="bob")
    path.hardlink_to(model)
    async with serving(tmp_path, {"chat": config}) as served:
        for talk in (alice, bob):
            await talk.say(served.client, FIRST)
    path.unlink()
    path.hardlink_to(other)
    async with serving(tmp_path / "other", {"chat": config}) as served:
        expected = await _copy(alice).say(served.client, NEXT)
    async with serving(tmp_path, {"chat": config}) as served:
        foreign = await _copy(alice).say(served.client, NEXT)
    path.unlink()
    path.hardlink_to(model)
    async with serving(tmp_path, {"chat": config}) as served:
        back = [await talk.say(served.client, NEXT) for talk in (alice, bob)]

    assert ("new", expected.text, 0) == _gist(foreign)
    assert [("warm", back[0].text, back[0].cached_tokens)] * 2 == [_gist(turn) for turn in back]
    assert back[0].cached_tokens > 100


async def test_another_cache_type(tmp_path: Path, memory: Path) -> None:
    """A snapshot of another cache type is not offered to the engine, and is good again when the type is."""
    model = make_slow_gguf(tmp_path / "model.gguf")
    config = session_config(model, memory)
    other = session_config(model, memory, context={"ctx_size": 2048, "cache_type_k": "f32", "cache_type_v": "f32"})
    alice, bob = Conversation(user="alice"), Conversation(user="bob")
    async with serving(tmp_path, {"chat": config}) as served:
        for talk in (alice, bob):
            await talk.say(served.client, FIRST)
    async with serving(tmp_path, {"chat": other}) as served, _same_worker(served):
        changed = await alice.say(served.client, NEXT)
        refused = keeper(served).store.refused
    async with serving(tmp_path, {"chat": config}) as served:
        back = await bob.say(served.client, NEXT)

    assert ("new", 0) == (changed.label, changed.cached_tokens)
    assert 0 == refused
    assert "warm" == back.label
    assert back.cached_tokens > 100


async def test_who_says_something_else_each_time(tmp_path: Path, memory: Path) -> None:
    """Restores that save nothing end for the session that they are of, and for nobody else."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    async with serving(tmp_path, {"chat": config}) as served:
        alice = Conversation(user="alice")
        first = await alice.say(served.client, FIRST)
        labels = []
        for number in range(5):
            body = {"model": "chat", "prompt": [1, *[300 + number] * 150], "max_tokens": 3}
            headers = {"X-Hugind-Session": "odd"}
            answer = await served.client.post("/v1/completions", json=body, headers=headers)
            labels.append(answer.headers["x-hugind-session"])
            await crowd_out(served)
        turn = await alice.say(served.client, NEXT)

    assert ["new", "warm", "warm", "warm", "new"] == labels
    assert "warm" == turn.label
    assert first.computed <= turn.cached_tokens


# ---- folders and disks


async def test_the_owners_folder_cannot_be_made(tmp_path: Path, memory: Path) -> None:
    """A file is where the folder should be (which stops root, too): what is in memory serves, and nothing is lost."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        alice = Conversation(user="alice")
        session = await until_saved(served, await alice.say(served.client, FIRST))
        await _until_on_disk(served)
        folder = _owner_folder(tmp_path, session)
        folder.rename(folder.with_suffix(".away"))
        folder.touch()
        turns = []
        for _ in range(3):
            await crowd_out(served)
            turns.append(await alice.say(served.client, NEXT))
            await until_saved(served, turns[-1])
        folder.unlink()
        folder.with_suffix(".away").rename(folder)
        turns.append(await alice.say(served.client, NEXT))
    async with serving(tmp_path, {"chat": config}) as served:
        turns.append(await alice.say(served.client, NEXT))

    assert ["warm", "warm", "warm", "hot", "warm"] == [turn.label for turn in turns]
    assert turns[-2].computed <= turns[-1].cached_tokens


async def test_the_slot_folder_is_gone(tmp_path: Path, memory: Path) -> None:
    """Without it nothing is saved or restored, and turns are served; with it the copy on disk is as good as ever."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        alice, bob = Conversation(user="alice"), Conversation(user="bob")
        for talk in (alice, bob):
            first = await talk.say(served.client, FIRST)
        await _until_on_disk(served)
        await crowd_out(served)
        folder = keeper(served).store.slots.path
        folder.rename(folder.with_suffix(".away"))
        without = [await alice.say(served.client, NEXT), await alice.say(served.client, NEXT)]
        await crowd_out(served)
        without.append(await alice.say(served.client, NEXT))
        await crowd_out(served)
        folder.mkdir(mode=0o700)
        back = [await talk.say(served.client, NEXT) for talk in (alice, bob)]

    assert ["new", "hot", "new"] == [turn.label for turn in without]
    for turn in back:
        assert "cold" == turn.label
        assert first.computed <= turn.cached_tokens


@pytest.mark.parametrize("part", [0, 1000, 20_000])
async def test_the_engine_finds_the_disk_full(tmp_path: Path, memory: Path, part: int) -> None:
    """It can write so many bytes and no more: what it left is cleared away, and the snapshot before is still good."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        alice = Conversation(user="alice")
        first = await alice.say(served.client, FIRST)
        session = await until_saved(served, first)
        store = keeper(served).store
        assert session.memory
        path = store.path(session, session.memory)
        before = path.read_bytes()
        with _file_size_limit(served.spawn().process.pid, part):
            second = await alice.say(served.client, NEXT)
            await crowd_out(served)

            assert before == path.read_bytes()
            await eventually(lambda: [path.name] == [file.name for file in path.parent.iterdir()])
            third = await alice.say(served.client, NEXT)
        await crowd_out(served)
        fourth = await alice.say(served.client, NEXT)

    assert ["hot", "warm", "warm"] == [turn.label for turn in (second, third, fourth)]
    assert first.computed <= third.cached_tokens < second.prompt_tokens
    assert third.computed <= fourth.cached_tokens


async def test_we_find_the_disk_full(tmp_path: Path, memory: Path) -> None:
    """Copies cannot be written, nor rewritten for another slot count: what is there stays good, here and on disk."""
    model = make_slow_gguf(tmp_path / "model.gguf")
    alice = Conversation(user="alice")
    async with serving(tmp_path, {"chat": session_config(model, memory)}) as served:
        first = await alice.say(served.client, FIRST)
    config = session_config(model, memory, server={"max_slots": 3}, sessions=AT_ONCE)
    files = sorted(file for file in [*memory.rglob("*.kv"), *tmp_path.rglob("*.kv")])
    before = [file.read_bytes() for file in files]
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        with _file_size_limit(os.getpid(), 30_000):
            refused = await _copy(alice).say(served.client, NEXT)

            assert before == [file.read_bytes() for file in files]
    async with serving(tmp_path, {"chat": config}) as served:
        back = await alice.say(served.client, NEXT)

    assert 2 == len(files)
    assert "new" == refused.label
    assert "warm" == back.label
    assert first.computed <= back.cached_tokens


# ---- deaths


@pytest.mark.parametrize("seed", range(4))
def test_a_gateway_killed_while_it_saves(tmp_path: Path, memory: Path, seed: int) -> None:
    """Five moments of twenty: who returns is answered rightly, at most a turn was lost, and no half file is left."""
    config = session_sections(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    kills = KILLS // 4
    with running(tmp_path / "alone", {"chat": config}) as gateway:
        alone = Conversation(user="alice")
        expected = [alone.say_now(gateway.client, f"{FIRST} {number}") for number in range(2 * kills + 1)]
    dice = random.Random(seed)
    alice = Conversation(user="alice")
    turns: list[Turn] = []
    kept: list[Turn] = []
    home, half = tmp_path / "home", set[Path]()
    for _ in range(kills):
        with running(home, {"chat": config}) as gateway:
            turns.append(alice.say_now(gateway.client, f"{FIRST} {len(turns)}"))

            assert not half & _half_files(home, memory)
            kept.append(turns[-1])
            eventually_sync(lambda: _recorded_tokens(home) >= kept[-1].computed)
            turns.append(alice.say_now(gateway.client, f"{FIRST} {len(turns)}"))
            with pytest.raises(subprocess.TimeoutExpired):
                gateway.process.wait(dice.uniform(0, 0.03))
            gateway.process.kill()
            gateway.wait()
        half = _half_files(home, memory)
    with running(home, {"chat": config}) as gateway:
        turns.append(alice.say_now(gateway.client, f"{FIRST} {len(turns)}"))
        left = half & _half_files(home, memory)

    assert not left
    assert [turn.text for turn in expected] == [turn.text for turn in turns]
    assert 1 == len({turn.session for turn in turns})
    for before, after in zip(kept, turns[2::2], strict=True):
        assert after.label in ("warm", "cold")
        assert before.computed <= after.cached_tokens


async def test_an_engine_killed_while_it_saves(tmp_path: Path, memory: Path) -> None:
    """Half a snapshot is no snapshot: it is removed, and the one before is restored into the next worker."""
    config = session_config(_make_large_gguf(tmp_path / "model.gguf"), memory, **LARGE)
    async with serving(tmp_path, {"chat": config}) as served:
        alice = Conversation(user="alice")
        first = await alice.say(served.client, LONG)
        session = await until_saved(served, first)
        folder = keeper(served).store.slots.path
        pid = served.spawn().process.pid
        async with asyncio.TaskGroup() as group:
            stopped = group.create_task(_stop_while_it_writes(folder, pid))
            second = await alice.say(served.client, NEXT)
        part = stopped.result()
        is_half = not (session.newest and session.newest.tokens >= second.computed)
        await kill_worker(served)
        third = await alice.say(served.client, NEXT)
        await until_saved(served, third)
        await eventually(lambda: session.memory and [session.memory.file] == [file.name for file in folder.iterdir()])

    assert is_half
    assert not part.exists()
    assert ("warm", second.session) == (third.label, third.session)
    assert first.computed <= third.cached_tokens < second.computed


@pytest.mark.parametrize("is_cold", [False, True])
async def test_an_engine_killed_while_it_restores(tmp_path: Path, memory: Path, is_cold: bool) -> None:
    """The turn that waits for the restore is served by the next worker, from the same snapshot."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served:
        (alice, session), (bob, _) = await _talk_and_leave(served, 2)
        if is_cold:
            assert session.memory
            keeper(served).store.path(session, session.memory).unlink()
        pid = served.spawn().process.pid
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(alice.say(served.client, NEXT))
            await eventually(session.kv_lock.locked)
            await kill_worker(served)
        turn = asked.result()
        expected = await bob.say(served.client, NEXT)

    assert ("cold" if is_cold else "warm", expected.text, expected.cached_tokens) == _gist(turn)


async def test_a_client_leaves_while_its_session_is_restored(tmp_path: Path, memory: Path) -> None:
    """The restore comes to its end all the same: the next turn is right, and no slot stays taken."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served, _same_worker(served):
        (alice, session), (bob, _) = await _talk_and_leave(served, 2)
        expected = await bob.say(served.client, NEXT)
        await _until_nothing_is_due(served)
        pid = served.spawn().process.pid
        os.kill(pid, signal.SIGSTOP)
        async with connect(served.port) as client:
            await client.send(http_request(_copy(alice).ask(NEXT)))
            await eventually(session.kv_lock.locked)
            client.leave()
        os.kill(pid, signal.SIGCONT)
        await served.until_free(2)
        turn = await alice.say(served.client, NEXT)

    assert (session.id, expected.text) == (turn.session, turn.text)
    assert expected.cached_tokens <= turn.cached_tokens


@pytest.mark.parametrize("wall", [-1e9, 0, 1, 4e9, 4e12])
async def test_a_clock_that_jumped(tmp_path: Path, memory: Path, wall: float) -> None:
    """Whatever the records say when they were written, nothing is lost at the start, and no age is negative."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    async with serving(tmp_path, {"chat": config}) as served:
        (alice, session), _ = await _talk_and_leave(served, 2)
    record = _owner_folder(tmp_path, session) / f"{session.id}.json"
    values = json.loads(record.read_text())
    for part in (values, values["memory"], values["disk"]):
        part.update({key: wall for key in ("used_at", "created_at", "saved_at") if key in part})
    record.write_text(json.dumps(values))
    async with serving(tmp_path, {"chat": config}) as served:
        store = keeper(served).store
        await store.sweep()
        idle_s = time.monotonic() - store.sessions[session.id].quiet_since
        turn = await alice.say(served.client, NEXT)

    assert 0 <= idle_s
    assert session.id == turn.session
    assert turn.label == "warm" if wall > 1e9 else turn.label in ("warm", "cold")  # from memory the old ones go
    assert turn.cached_tokens > 100


async def test_the_clock_goes_back_between_two_copies(tmp_path: Path, memory: Path) -> None:
    """The copy on disk seems younger than the newer one in memory: the newer one is restored all the same."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions=AT_ONCE)
    alice = Conversation(user="alice")
    async with serving(tmp_path, {"chat": config}) as served:
        session = await until_saved(served, await alice.say(served.client, FIRST))
        await _until_on_disk(served)
        old = session.disk
        assert old
        old_file = keeper(served).store.path(session, old)
        kept = old_file.read_bytes()
        second = await alice.say(served.client, NEXT)
    old_file.write_bytes(kept)
    record = _owner_folder(tmp_path, session) / f"{session.id}.json"
    values = json.loads(record.read_text())
    values["disk"] = {**asdict(old), "saved_at": values["memory"]["saved_at"] + 3600}
    record.write_text(json.dumps(values))
    async with serving(tmp_path, {"chat": config}) as served:
        third = await alice.say(served.client, NEXT)

    assert "warm" == third.label
    assert second.computed <= third.cached_tokens


# ---- helpers


async def _talk_and_leave(served: Served, count: int) -> list[tuple[Conversation, Session]]:
    """So many people say the same; then all of it is in memory and on disk, and nothing in a slot."""
    people = []
    for number in range(count):
        talk = Conversation(user=f"person {number}")
        turn = await talk.say(served.client, FIRST)
        people.append((talk, keeper(served).store.sessions[turn.session]))
    await _until_on_disk(served)
    await crowd_out(served)
    await _until_nothing_is_due(served)
    return people


async def _until_on_disk(served: Served) -> None:
    store = keeper(served).store
    await eventually(lambda: all(one.disk and store.is_on_disk(one) for one in store.sessions.values()))


async def _until_nothing_is_due(served: Served) -> None:
    """No slot holds more than its snapshot: a turn that comes now saves nothing first."""
    await eventually(lambda: all(not seat.is_dirty or seat.has_failed for _, seat in keeper(served).held().values()))


@asynccontextmanager
async def _same_worker(served: Served) -> AsyncIterator[None]:
    """Nothing in the block costs the worker its life."""
    pid = served.spawn().process.pid
    yield
    assert pid == served.spawn().process.pid
    assert psutil.Process(pid).is_running()


@contextmanager
def _file_size_limit(pid: int, size_bytes: int) -> Iterator[None]:
    """In the block, a process can make no file longer than this."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def _stop_while_it_writes(folder: Path, pid: int) -> Path:
    """Stop a worker as soon as it has begun to write a slot file; returns which."""
    async with asyncio.timeout(10):
        while True:
            part = next((file for file in folder.iterdir() if file.suffix == ".part"), None)
            if part is not None:
                os.kill(pid, signal.SIGSTOP)
                return part
            await asyncio.sleep(0)


def _make_large_gguf(path: Path) -> Path:
    """A model of which so much is saved that it takes a while."""
    return make_llama_gguf(path, dim=256, layers=24, heads=4, kv_heads=4)


def _gist(turn: Turn) -> tuple[str, str, int]:
    return turn.label, turn.text, turn.cached_tokens


def _copy(talk: Conversation) -> Conversation:
    """Of somebody who will be asked again."""
    copy = Conversation()
    copy.messages, copy.fields = list(talk.messages), talk.fields
    return copy


def _files(served: Served, session: Session) -> list[Path]:
    """What a session has in memory and on disk."""
    assert session.memory
    assert session.disk
    store = keeper(served).store
    return [store.path(session, snapshot) for snapshot in (session.memory, session.disk)]


def _owner_folder(home: Path, session: Session) -> Path:
    return home / "sessions" / "chat" / session.owner.digest


def _talk_file(home: Path, session: Session) -> Path:
    return _owner_folder(home, session) / f"{session.id}.talk"


def _recorded_tokens(home: Path) -> int:
    """Of the only session of a home, as far as its record knows."""
    records = [Session.from_json(orjson.loads(file.read_bytes())) for file in home.rglob("ses_*.json")]
    return max((record.newest.tokens for record in records if record.newest), default=0)


def _half_files(home: Path, memory: Path) -> set[Path]:
    folders = (home / "sessions", memory)
    return {file for folder in folders for file in folder.rglob("*") if file.suffix in (".part", ".in", ".tmp")}
