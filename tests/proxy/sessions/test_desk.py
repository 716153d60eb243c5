"""What people may do with sessions, at the desk: in the rare cases that a route does not meet by itself."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import xxhash

from hugind.proxy.errors import ApiError
from hugind.proxy.sessions.archive import read_archive, write_archive
from hugind.proxy.sessions.desk import Desk, Which, ability_of, find_session, list_sessions
from hugind.proxy.sessions.record import Owner, Session, Snapshot
from hugind.proxy.sessions.store import Store
from hugind.proxy.sessions.system_prompt import BASE_OWNER
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.paths import Home
from tests.eventually import eventually
from tests.proxy.serving import Served, chat, serving, standin_config

ALICE, BOB = Owner("tester", "alice"), Owner("tester", "bob")
CHAT = "/v1/chat/completions"
LONG = "a long tale of slots and of those who come back to them " * 3
QUESTION, ANSWER = {"role": "user", "content": LONG}, {"role": "assistant", "content": "Well."}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder for snapshots, in memory where there is a tmpfs; nothing of it is left."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(prefix="hugind-test-", dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@asynccontextmanager
async def served_desk(folder: Path, memory: Path, **sessions: Any) -> AsyncIterator[tuple[Served, Desk]]:
    """A gateway with the stand-in, and a desk that does not wait for long."""
    settings = {"min_tokens": 8, "memory_folder": str(memory), "disk_after_s": 0, **sessions}
    async with serving(folder, {"chat": standin_config(folder, sessions=settings)}) as served:
        keeper = served.gateway.keeper(served.engine())
        yield served, Desk(keeper.store, keeper, wait_s=0.2)


async def turn(served: Served, **fields: Any) -> Session:
    """One turn, and its session."""
    answer = await served.client.post(CHAT, json=chat(LONG, max_tokens=4, **fields))
    assert 200 == answer.status_code
    return served.gateway.keeper(served.engine()).store.sessions[answer.headers["x-hugind-session-id"]]


async def saved_turn(served: Served, **fields: Any) -> Session:
    """One turn whose session is saved."""
    session = await turn(served, **fields)
    await eventually(lambda: session.newest)
    return session


async def exported(desk: Desk, session: Session) -> bytes:
    """The whole file."""
    return b"".join([piece async for piece in desk.export(session)])


def archive_of(owner: Owner = ALICE, messages: list[Any] | None = None, **fields: Any) -> io.BytesIO:
    """A session without a snapshot, as somebody exported it."""
    session = Session(owner, "chat", "model", **fields)
    session.chain = chat_chain(Scope(owner, "chat", "model"), messages or [])
    file = io.BytesIO()
    write_archive(file, session, messages, None)
    file.seek(0)
    return file


def store_at(folder: Path, name: str = "chat", **settings: Any) -> Store:
    """A store with its slot files in the home; nobody serves it."""
    home = Home(folder)
    home.create()
    store = Store(name, home, SessionsSection(memory_folder=str(folder / "no-tmpfs"), **settings))
    store.load()
    return store


def remember(store: Store, owner: Owner, text: str = "hello") -> Session:
    """A session that is written down, with a snapshot that no engine wrote."""
    scope = Scope(owner, store.name, "model")
    messages = [{"role": "user", "content": text}]
    session = store.create(Talk(scope, chat_chain(scope, messages), messages=messages))
    session.turns = 1
    store.write_record(session)
    store.write_messages(session, messages)
    return session


# ---- forgetting


async def test_a_busy_session_stays(tmp_path: Path, memory: Path) -> None:
    """One whose turn does not end in time is 409, alone or among others; those are gone."""
    async with served_desk(tmp_path, memory) as (served, desk):
        busy = await turn(served, user="alice")
        idle = await turn(served, user="bob")
        async with busy.turn_lock:
            with pytest.raises(ApiError) as alone:
                await desk.forget(busy)
            with pytest.raises(ApiError) as among:
                await desk.forget_all(Which())

        assert [409, 409] == [alone.value.status, among.value.status]
        assert busy.id in among.value.message
        assert {busy.id} == set(desk.store.sessions)
        assert idle.id not in desk.seats()


async def test_a_slot_that_stays_in_use_is_told(tmp_path: Path, memory: Path) -> None:
    """Nothing is forgotten while somebody else has the session's slot and does not take it over."""
    async with served_desk(tmp_path, memory) as (served, desk):
        session = await turn(served)
        place, _ = desk.seats()[session.id]
        await eventually(lambda: served.leases().free == 2)
        lease = served.leases().take(place)
        assert lease is not None
        with pytest.raises(ApiError, match="in the middle of a turn"):
            await desk.forget(session)
        served.leases().release(lease)

        assert {session.id} == set(desk.store.sessions)
        await desk.forget(session)
        assert {} == desk.store.sessions
        assert {} == desk.seats()


async def test_a_forgotten_session_does_not_come_back(tmp_path: Path, memory: Path) -> None:
    """What was still to be written of it is not, and no later save brings it back."""
    async with served_desk(tmp_path, memory) as (served, desk):
        session = await turn(served)
        await desk.forget(session)
        again = await turn(served, user="bob")
        await eventually(lambda: desk.store.is_on_disk(again) and again.disk)

        assert [again.owner.digest] == [folder.name for folder in (tmp_path / "sessions" / "chat").glob("[0-9a-f]*")]


async def test_the_systems_own_prompt_is_nobodys(tmp_path: Path) -> None:
    """Forgetting all leaves the snapshot of the config's system prompt."""
    store = store_at(tmp_path)
    base, mine = remember(store, BASE_OWNER), remember(store, ALICE)
    forgotten = await Desk(store).forget_all(Which())
    left = set(store.sessions)
    store.close()

    assert [mine.id] == forgotten
    assert {base.id} == left


async def test_forgetting_spares_another_engines_key(tmp_path: Path) -> None:
    """Who has nothing left with one engine can still be read with another, also where both encrypt."""
    one, other = store_at(tmp_path, "one", encrypt=True), store_at(tmp_path, "other", encrypt=True)
    mine, kept = remember(one, ALICE), remember(other, ALICE)
    await Desk(one).forget(mine)
    messages = other.read_messages(kept)
    keys = list((tmp_path / "session_keys").rglob("*.key"))
    one.close()
    other.close()

    assert [{"role": "user", "content": "hello"}] == messages
    assert ["other"] == [key.parent.name for key in keys]


async def test_a_second_gateway_forgets_only_its_own(tmp_path: Path) -> None:
    """Where another gateway keeps the sessions, its files of the same owner stay."""
    first, second = store_at(tmp_path), store_at(tmp_path)
    kept = remember(first, ALICE)
    await Desk(second).forget(remember(second, ALICE))
    files = sorted(path.name for path in (tmp_path / "sessions" / "chat" / ALICE.digest).iterdir())
    first.close()
    second.close()

    assert [f"{kept.id}.json", f"{kept.id}.talk"] == files


# ---- looking


async def test_without_a_gateway(tmp_path: Path) -> None:
    """Sessions of an engine that nobody serves are listed, shown and forgotten; what it can do is not known."""
    store = store_at(tmp_path)
    desk = Desk(store)
    session = remember(store, ALICE)
    (row,), total = await list_sessions([desk], Which(user="alice"), limit=10)
    _, found = await find_session([desk], session.id)
    messages = await desk.transcript(found)
    with pytest.raises(ApiError) as unknown:
        await find_session([desk], "ses_unknown")
    summary = desk.summary()
    await desk.forget(session)
    store.close()

    assert (1, session.id, "none", None) == (total, row["id"], row["place"], row["slot"])
    assert [{"role": "user", "content": "hello"}] == messages
    assert 404 == unknown.value.status
    assert "untested" == summary["ability"] == ability_of(None)["ability"]
    assert [] == list((tmp_path / "sessions" / "chat").glob("[0-9a-f]*"))


async def test_ten_thousand_sessions_are_listed_quickly(tmp_path: Path) -> None:
    """Some milliseconds, however many there are: only those that are shown are described."""
    store = store_at(tmp_path)
    for number in range(10_000):
        session = Session(Owner("tester", f"user {number % 100}"), "chat", "model", used_at=float(number))
        session.disk = Snapshot(f"{number}.kv", 4000, 1_000_000, "", 2, "", 0.0)
        store.sessions[session.id] = session
    desk = Desk(store)
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        rows, total = await list_sessions([desk], Which(), limit=100)
        took.append(time.perf_counter() - begun)
    store.close()

    assert (10_000, 100, 9999.0) == (total, len(rows), rows[0]["used_at"])
    assert min(took) < 0.05  # 5 ms on an idle machine


# ---- out


async def test_a_refused_request_is_not_part_of_what_was_said(tmp_path: Path, memory: Path) -> None:
    """The transcript ends where the session does."""
    async with served_desk(tmp_path, memory) as (served, desk):
        session = await saved_turn(served)
        session.messages = [QUESTION, ANSWER, {"role": "user", "content": "refused"}]
        refused = await desk.transcript(session)
        session.messages = [QUESTION, ANSWER]
        answered = await desk.transcript(session)
        session.messages = [{"role": "user", "content": "something else"}]
        foreign = await desk.transcript(session)

        assert [QUESTION] == refused
        assert [QUESTION, ANSWER] == answered
        assert foreign is None


async def test_a_damaged_snapshot_is_left_out(tmp_path: Path, memory: Path) -> None:
    """The transcript is exported without it, and the snapshot is never offered again."""
    async with served_desk(tmp_path, memory) as (served, desk):
        session = await saved_turn(served)
        await eventually(lambda: desk.store.is_on_disk(session) and session.disk)
        newest = session.newest
        assert newest is not None
        path = desk.store.path(session, newest)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        file = await exported(desk, session)
        archive = read_archive(io.BytesIO(file), tmp_path, max_bytes=1 << 20)

        assert ([QUESTION], None) == (archive.messages, archive.snapshot)
        assert newest not in (session.memory, session.disk)
        assert 1 == desk.store.refused


async def test_nothing_to_export(tmp_path: Path, memory: Path) -> None:
    """A session of which neither snapshot nor words are known is 409; one that was forgotten meanwhile is 404."""
    async with served_desk(tmp_path, memory, min_tokens=4000) as (served, desk):
        answer = await served.client.post("/v1/completions", json={"model": "chat", "prompt": LONG, "max_tokens": 2})
        session = desk.store.sessions[answer.headers["x-hugind-session-id"]]
        with pytest.raises(ApiError) as empty:
            await exported(desk, session)
        await desk.forget(session)
        with pytest.raises(ApiError) as gone:
            await exported(desk, session)

        assert [409, 404] == [empty.value.status, gone.value.status]


# ---- in


async def test_a_kept_history_moves(tmp_path: Path, memory: Path) -> None:
    """The gateway goes on with it for the new user, who sends only what is new."""
    async with served_desk(tmp_path, memory) as (served, desk):
        kept = await saved_turn(served, user="alice")
        kept_headers = {"X-Hugind-History": "server"}
        first = await served.client.post(CHAT, json=chat(LONG, max_tokens=4, user="carol"), headers=kept_headers)
        session = desk.store.sessions[first.headers["x-hugind-session-id"]]
        await eventually(lambda: session.newest)
        file = io.BytesIO(await exported(desk, session))
        imported = await desk.bring_in(file, BOB)
        file.seek(0)
        with pytest.raises(ApiError) as taken:
            await desk.bring_in(file, BOB)
        second = await served.client.post(CHAT, json=chat("go on", max_tokens=4, user="bob"), headers=kept_headers)

        assert not kept.is_kept
        assert (True, None) == (imported.session.is_kept, imported.problem)
        assert imported.session.id == second.headers["x-hugind-session-id"]
        assert second.headers["x-hugind-session"] in ("warm", "cold")
        assert second.json()["usage"]["prompt_tokens"] > first.json()["usage"]["prompt_tokens"]
        assert 409 == taken.value.status
        assert imported.session.id in taken.value.message


async def test_an_import_is_on_disk_when_it_is_answered(tmp_path: Path, memory: Path) -> None:
    """After a restart of the gateway it is there, with its snapshot, and can be continued."""
    async with served_desk(tmp_path, memory, disk_after_s=3600) as (served, desk):
        file = await exported(desk, await saved_turn(served, user="alice"))
        imported = await desk.bring_in(io.BytesIO(file), BOB)
        folder = tmp_path / "sessions" / "chat" / BOB.digest
        names = sorted(path.name for path in folder.iterdir())
        disk = imported.session.disk
        assert disk is not None

        assert sorted((f"{imported.session.id}.json", f"{imported.session.id}.talk", disk.file)) == names
        assert {0o600} == {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    async with served_desk(tmp_path, memory) as (served, _):
        session = await turn(served, user="bob")

        assert imported.session.id == session.id
        assert (0, 1) == (session.hits["hot"], session.hits["warm"] + session.hits["cold"])


async def test_what_nobody_could_continue_is_refused(tmp_path: Path, memory: Path) -> None:
    """Without words and without a name, or a kept history without words: 400."""
    async with served_desk(tmp_path, memory) as (_, desk):
        for file in (archive_of(), archive_of(name="mine", is_kept=True)):
            with pytest.raises(ApiError) as refused:
                await desk.bring_in(file, BOB)

            assert 400 == refused.value.status
        assert {} == desk.store.sessions
        assert not (tmp_path / "sessions" / "chat" / BOB.digest).exists()


async def test_a_name_is_not_taken_over(tmp_path: Path, memory: Path) -> None:
    """Of a session that is only found by its name there is one; one with words stands beside others of its name."""
    async with served_desk(tmp_path, memory) as (_, desk):
        await desk.bring_in(archive_of(name="mine"), BOB)
        with pytest.raises(ApiError) as taken:
            await desk.bring_in(archive_of(name="mine"), BOB)
        await desk.bring_in(archive_of(messages=[QUESTION], name="mine"), BOB)
        await desk.bring_in(archive_of(name="mine"), ALICE)

        assert (409, "session_exists") == (taken.value.status, taken.value.code)
        assert 3 == len(desk.store.sessions)


async def test_a_slot_file_that_is_none_is_refused(tmp_path: Path, memory: Path) -> None:
    """An archive whose sums are right and whose snapshot is no slot file: 400, and nothing is left."""
    async with served_desk(tmp_path, memory) as (served, desk):
        good = await saved_turn(served, user="alice")
        forged = tmp_path / "forged"
        forged.write_bytes(secrets.token_bytes(4000))
        session = Session(ALICE, "chat", "model", chain=good.chain)
        session.disk = _described(forged, good)
        file = io.BytesIO()
        write_archive(file, session, [QUESTION], forged)
        file.seek(0)
        before = sorted(memory.rglob("*"))
        with pytest.raises(ApiError) as refused:
            await desk.bring_in(file, BOB)

        assert (400, "bad_archive") == (refused.value.status, refused.value.code)
        assert before == sorted(memory.rglob("*"))
        assert [ALICE.digest] == [
            folder.name for folder in (tmp_path / "sessions" / "chat").iterdir() if folder.is_dir()
        ]


async def test_pins_and_counts_of_elsewhere(tmp_path: Path, memory: Path) -> None:
    """A pin is not imported; how often it was used is; it counts as used now."""
    async with served_desk(tmp_path, memory) as (_, desk):
        file = archive_of(messages=[QUESTION], is_pinned=True, turns=7, used_at=1.0, created_at=1.0)
        session = (await desk.bring_in(file, BOB)).session

        assert (False, 7, 1.0) == (session.is_pinned, session.turns, session.created_at)
        assert time.time() - session.used_at < 60


def _described(path: Path, like: Session) -> Snapshot:
    """What an archive says of a file, as if the engine of that session had written it."""
    assert like.newest is not None
    data = path.read_bytes()
    return Snapshot(
        path.name, 500, len(data), xxhash.xxh3_128_hexdigest(data), 2, like.newest.fingerprint, time.time()
    )  # fmt: skip
