"""Sessions as people see them: listed, shown, forgotten, pinned, exported and imported; and everybody's own."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from hugind.cli.bench.standin_slotfile import write_slot_file
from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.records.audit import entries
from hugind.proxy.sessions.checksum import checksum
from hugind.proxy.sessions.record import Owner, Snapshot
from hugind.proxy.sessions.transcript import Scope, Talk
from hugind.supervisor.config import Config
from tests.engines import engine_binary
from tests.eventually import eventually
from tests.proxy.people import add_user
from tests.proxy.serving import ADMIN_KEY, KEY, Served, chat, connect, http_request, serving, standin_config
from tools.random_gguf import make_llama_gguf

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
SESSIONS = "/admin/v1/sessions"
CHAT = "/v1/chat/completions"
OTHER_KEY = "other-key"
LONG = "once upon a time there was a slot that nobody wanted to leave " * 3


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder for snapshots, in memory where there is a tmpfs; nothing of it is left."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(prefix="hugind-test-", dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def config(folder: Path, memory: Path, **sections: Any) -> Config:
    """The stand-in, with sessions that are saved however short they are."""
    sessions = {"min_tokens": 8, "memory_folder": str(memory), "disk_after_s": 0, **sections.pop("sessions", {})}
    return standin_config(folder, sessions=sessions, **sections)


def said(text: str = LONG, **fields: Any) -> dict[str, Any]:
    """A turn that is long enough to be saved."""
    return chat(text, max_tokens=4, **fields)


async def ask(served: Served, **fields: Any) -> str:
    """One turn; the id of its session, which is saved and written down when this returns."""
    answer = await served.client.post(CHAT, json=said(**fields))
    assert 200 == answer.status_code, answer.text
    session = answer.headers["x-hugind-session-id"]
    (record,) = await records(served, session)
    await eventually(lambda: json.loads(record.read_bytes())["disk"])
    return str(session)


async def records(served: Served, session: str) -> list[Path]:
    """The record of a session, once it is written."""
    sessions = served.engine().home.sessions
    await eventually(lambda: list(sessions.rglob(f"{session}.json")))
    return list(sessions.rglob(f"{session}.json"))


async def admin(served: Served, method: str, path: str = "", **options: Any) -> httpx.Response:
    """One request of the admin."""
    return await served.client.request(method, SESSIONS + path, headers=ADMIN, **options)


def files(*folders: Path) -> list[str]:
    """What lies in the folders, locks and verdicts aside."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in found if path.name not in (".lock", "verdicts.json"))


@asynccontextmanager
async def served_chat(folder: Path, memory: Path, **sections: Any) -> AsyncIterator[Served]:
    """A gateway with the stand-in as `chat`."""
    async with serving(folder, {"chat": config(folder, memory, **sections)}) as served:
        yield served


async def test_only_the_admin_may(tmp_path: Path, memory: Path) -> None:
    """A user's key gets 403, none gets 401, whatever is asked for."""
    routes = [
        ("GET", ""), ("DELETE", "?all=true"), ("GET", "/x"), ("DELETE", "/x"), ("GET", "/x/export"),
        ("POST", "/import?engine=chat"),
    ]  # fmt: skip
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served)
        for method, path in routes:
            user = await served.client.request(method, SESSIONS + path)
            nobody = await served.client.request(method, SESSIONS + path, headers={"Authorization": ""})

            assert (403, 401) == (user.status_code, nobody.status_code)
        pinned = await served.client.post(f"{SESSIONS}/{session}/pin", json={"pinned": True})

        assert 403 == pinned.status_code
        assert [session] == [row["id"] for row in (await admin(served, "GET")).json()["sessions"]]


async def test_the_list_tells_what_is_where(tmp_path: Path, memory: Path) -> None:
    """Newest first, with owner, place, size and use; and of each engine what its sessions can do and take up."""
    async with served_chat(tmp_path, memory) as served:
        first = await ask(served, user="alice")
        second = await ask(served, user="bob")
        listed = (await admin(served, "GET")).json()
        (engine,) = listed["engines"]
        row = listed["sessions"][1]

        assert ([second, first], 2) == ([r["id"] for r in listed["sessions"]], listed["total"])
        assert ("chat", "tester", "alice", "slot") == (row["engine"], row["principal"], row["user"], row["place"])
        assert row["slot"] in ("0/0", "0/1")
        assert row["tokens"] > 8
        assert 0 < row["disk_bytes"] == max(row["memory_bytes"], row["disk_bytes"])
        assert (1, {"new": 1}, 0) == (row["turns"], row["hits"], row["hollow"])
        assert (False, False, False, None) == (row["pinned"], row["kept"], row["dirty"], row["name"])
        assert 0 <= row["idle_s"] < 60
        assert row["created_at"] <= row["used_at"]
        assert ("any-prefix", "attention", 2) == (engine["ability"], engine["family"], engine["sessions"])
        assert 0 < engine["disk_bytes"] < engine["disk_budget_bytes"]
        assert engine["slots_folder"]["is_memory"] == Path("/dev/shm").is_dir()
        assert 0 == engine["refused_snapshots"]


async def test_the_list_can_be_narrowed(tmp_path: Path, memory: Path) -> None:
    """By user, principal, engine and the beginning of an id, and by number; what is unknown is 404, and 400."""
    configs = {"chat": config(tmp_path, memory), "embed": standin_config(tmp_path, model={"task": "embedding"})}
    async with serving(tmp_path, configs) as served:
        alice = await ask(served, user="alice")
        bob = await ask(served, user="bob")

        async def ids(query: str) -> list[str]:
            return [row["id"] for row in (await admin(served, "GET", query)).json()["sessions"]]

        assert [alice] == await ids("?user=alice")
        assert [bob, alice] == await ids("?principal=tester&engine=chat")
        assert [] == await ids("?principal=nobody")
        assert [alice] == await ids(f"?id={alice[:16]}") == await ids(f"?id={alice.removeprefix('ses_')[:12]}")
        assert [bob] == await ids("?limit=1")
        assert 404 == (await admin(served, "GET", "?engine=nope")).status_code
        assert 400 == (await admin(served, "GET", "?engine=embed")).status_code


async def test_what_was_said_is_shown(tmp_path: Path, memory: Path) -> None:
    """One session with its messages; an unknown one is 404."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served)
        shown = (await admin(served, "GET", f"/{session}")).json()
        unknown = await admin(served, "GET", "/ses_unknown")

        assert [{"role": "user", "content": LONG}] == shown["messages"]
        assert session == shown["id"]
        assert (404, "session_not_found") == (unknown.status_code, unknown.json()["error"]["code"])


async def test_forgetting_leaves_nothing(tmp_path: Path, memory: Path) -> None:
    """Its files are gone from memory and disk, its slot is empty, and the same words begin a new session."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served)
        before = files(memory, tmp_path / "sessions")
        gone = await admin(served, "DELETE", f"/{session}")
        slots = await served.spawn().client.slots(5)
        again = await served.client.post(CHAT, json=said())

        assert 3 <= len(before)
        assert (200, [session]) == (gone.status_code, gone.json()["forgotten"])
        assert [0, 0] == [slot.tokens for slot in slots]
        assert "new" == again.headers["x-hugind-session"]
        assert 0 == again.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert session != again.headers["x-hugind-session-id"]
        assert 404 == (await admin(served, "DELETE", f"/{session}")).status_code


async def test_forgetting_a_user(tmp_path: Path, memory: Path) -> None:
    """All sessions of that user and their key go, and nobody else's; who is meant has to be said."""
    async with served_chat(tmp_path, memory, sessions={"encrypt": Path("/dev/shm").is_dir()}) as served:
        first = await ask(served, user="alice")
        second = await ask(served, user="alice", text="Another tale. " + LONG)
        bob = await ask(served, user="bob")
        keys = files(tmp_path / "session_keys")
        wrong = [await admin(served, "DELETE", query) for query in ("", "?all=true&user=alice")]
        nobody = await admin(served, "DELETE", "?user=alice&principal=somebody-else")
        gone = await admin(served, "DELETE", "?user=alice")
        left = (await admin(served, "GET")).json()["sessions"]
        everything = await admin(served, "DELETE", "?all=true")

        assert [400, 400] == [answer.status_code for answer in wrong]
        assert [] == nobody.json()["forgotten"]
        assert {first, second} == set(gone.json()["forgotten"])
        assert [bob] == [row["id"] for row in left] == everything.json()["forgotten"]
        assert (2 if Path("/dev/shm").is_dir() else 0) == len(keys)
        assert [] == files(tmp_path / "session_keys", tmp_path / "sessions", memory)


async def test_a_session_at_its_turn_is_waited_for(tmp_path: Path, memory: Path) -> None:
    """The turn is answered to its end; then the session is forgotten."""
    async with served_chat(tmp_path, memory) as served, connect(served.port) as client:
        slow = chat(max_tokens=10, standin={"token_ms": 30})
        await client.send(http_request(slow))
        store = served.gateway.keeper(served.engine()).store
        await eventually(lambda: served.leases().free == 1)
        (session,) = store.sessions
        gone = await admin(served, "DELETE", f"/{session}")
        status, _, body = await client.response()

        assert (200, [session]) == (gone.status_code, gone.json()["forgotten"])
        assert (200, 10) == (status, json.loads(body)["usage"]["completion_tokens"])
        assert {} == store.sessions


async def test_a_pin_is_kept(tmp_path: Path, memory: Path) -> None:
    """It shows, survives a restart of the gateway, and can be taken back; the body must say which."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served)
        pinned = await admin(served, "POST", f"/{session}/pin", json={"pinned": True})
        nonsense = await admin(served, "POST", f"/{session}/pin", json={"pinned": "yes"})
    async with served_chat(tmp_path, memory) as served:
        kept = (await admin(served, "GET", f"/{session}")).json()
        loosed = await admin(served, "POST", f"/{session}/pin", json={"pinned": False})

        assert (200, True, 400) == (pinned.status_code, pinned.json()["pinned"], nonsense.status_code)
        assert (True, False) == (kept["pinned"], loosed.json()["pinned"])


async def test_a_session_moves_to_another_user(tmp_path: Path, memory: Path) -> None:
    """Exported and imported, it goes on for the new user from its snapshot; the old one's is as it was."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served, user="alice")
        out = await admin(served, "GET", f"/{session}/export")
        back = await admin(served, "POST", "/import?engine=chat&user=bob", content=out.content)
        brought = back.json()
        await served.client.post(CHAT, json=said("somebody else, at length. " * 9))
        turn = await served.client.post(CHAT, json=said(LONG, user="bob"))
        ids = {row["id"] for row in (await admin(served, "GET", "?user=alice")).json()["sessions"]}

        assert (200, "application/x-tar") == (out.status_code, out.headers["content-type"])
        assert session in out.headers["content-disposition"]
        assert (201, "tester", "bob") == (back.status_code, brought["principal"], brought["user"])
        assert (True, None) == (brought["snapshot_kept"], brought["problem"])
        assert session != brought["id"]
        assert (brought["id"], True) == (
            turn.headers["x-hugind-session-id"], turn.headers["x-hugind-session"] in ("warm", "cold")
        )  # fmt: skip
        assert 8 < turn.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert {session} == ids


async def test_what_is_only_in_a_slot_is_saved_first(tmp_path: Path, memory: Path) -> None:
    """An export right behind a turn has that turn in it."""
    async with served_chat(tmp_path, memory, sessions={"disk_after_s": 3600}) as served:
        answer = await served.client.post(CHAT, json=said())
        session = answer.headers["x-hugind-session-id"]
        out = await admin(served, "GET", f"/{session}/export")
        with tarfile.open(fileobj=io.BytesIO(out.content)) as tar:
            names = tar.getnames()

        assert ["manifest.json", "transcript.json", "snapshot.kv"] == names


async def test_another_engine_gets_what_was_said(tmp_path: Path, memory: Path) -> None:
    """Where the snapshot is of another setting, only the transcript is imported, and the answer says so."""
    configs = {
        "chat": config(tmp_path, memory),
        "other": config(tmp_path, memory, context={"cache_type_k": "q8_0"}),
    }
    async with serving(tmp_path, configs) as served:
        session = await ask(served)
        out = await admin(served, "GET", f"/{session}/export")
        brought = (await admin(served, "POST", "/import?engine=other", content=out.content)).json()
        turn = await served.client.post(CHAT, json={**said(), "model": "other"})

        assert (False, "none") == (brought["snapshot_kept"], brought["place"])
        assert "another model, engine build or setting" in brought["problem"]
        assert (brought["id"], "new") == (
            turn.headers["x-hugind-session-id"], turn.headers["x-hugind-session"]
        )  # fmt: skip


async def test_a_changed_file_is_refused(tmp_path: Path, memory: Path) -> None:
    """Cut, changed, added to, or no archive at all: 400, and nothing of it is left."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served, user="alice")
        good = (await admin(served, "GET", f"/{session}/export")).content
        before = files(memory, tmp_path)
        middle = len(good) // 2
        flipped = bytes([good[middle] ^ 1])
        for bad in (b"", b"no archive", good[:middle], good[:middle] + flipped + good[middle + 1 :], good + b"x"):
            answer = await admin(served, "POST", "/import?engine=chat&user=bob", content=bad)

            assert (400, "bad_archive") == (answer.status_code, answer.json()["error"]["code"])
        assert before == files(memory, tmp_path)
        assert [] == (await admin(served, "GET", "?user=bob")).json()["sessions"]


async def test_an_upload_is_bounded(tmp_path: Path, memory: Path) -> None:
    """More than the engine could keep gets 413, whether the size was told or not."""
    sessions = {"memory_mb": 0, "disk_gb": 0}

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield bytes(1 << 20)

    async with served_chat(tmp_path, memory, sessions=sessions) as served:
        told = await admin(served, "POST", "/import?engine=chat", content=bytes(300 << 20))
        streamed = await admin(served, "POST", "/import?engine=chat", content=pieces())

        assert (413, 413) == (told.status_code, streamed.status_code)
        assert "request_too_large" == told.json()["error"]["code"]


async def test_whose_it_shall_be_is_known(tmp_path: Path, memory: Path) -> None:
    """Where several may use an engine the principal has to be named, and an unknown one is refused with the names."""
    async with serving(tmp_path, {"chat": config(tmp_path, memory)}, keyring=_two_keys()) as served:
        session = await ask(served)
        file = (await admin(served, "GET", f"/{session}/export")).content
        unnamed = await admin(served, "POST", "/import?engine=chat", content=file)
        unknown = await admin(served, "POST", "/import?engine=chat&principal=control", content=file)
        named = await admin(served, "POST", "/import?engine=chat&principal=other", content=file)

        assert (400, 400, 201) == (unnamed.status_code, unknown.status_code, named.status_code)
        assert "other, tester" in unnamed.json()["error"]["message"]
        assert ("other", None) == (named.json()["principal"], named.json()["user"])


async def test_everybody_sees_their_own(tmp_path: Path, memory: Path) -> None:
    """The caller's sessions and nobody else's; those of others are 404, also for `DELETE`."""
    async with serving(tmp_path, {"chat": config(tmp_path, memory)}, keyring=_two_keys()) as served:
        mine = await ask(served, user="alice")
        other = {"Authorization": f"Bearer {OTHER_KEY}"}
        theirs = (await served.client.post(CHAT, json=said(user="alice"), headers=other)).headers["x-hugind-session-id"]
        listed = (await served.client.get("/v1/sessions")).json()
        seen = (await served.client.get("/v1/sessions", headers=other)).json()
        foreign = await served.client.delete(f"/v1/sessions/{theirs}")
        unknown = await served.client.delete("/v1/sessions/ses_unknown")
        own = await served.client.delete(f"/v1/sessions/{mine}")

        assert ("list", [mine], 1) == (listed["object"], [row["id"] for row in listed["data"]], listed["total"])
        assert [theirs] == [row["id"] for row in seen["data"]]
        assert (404, 404) == (foreign.status_code, unknown.status_code)
        assert foreign.json()["error"]["message"].replace(theirs, "") == unknown.json()["error"]["message"].replace(
            "ses_unknown", ""
        )
        assert (200, [mine]) == (own.status_code, own.json()["forgotten"])
        assert [] == (await served.client.get("/v1/sessions")).json()["data"]


async def test_a_reader_that_leaves_ends_the_export(tmp_path: Path, memory: Path) -> None:
    """What was held for it is gone; the session goes on."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served)
        async with served.client.stream("GET", f"{SESSIONS}/{session}/export", headers=ADMIN) as response:
            assert 200 == response.status_code
        await eventually(lambda: not [name for name in files(memory, tmp_path / "sessions") if name.endswith(".out")])
        turn = await served.client.post(CHAT, json=said())

        assert session == turn.headers["x-hugind-session-id"]


async def test_an_export_that_breaks_off_shows(tmp_path: Path, memory: Path) -> None:
    """When the gateway stops in the middle, the reader gets no end that looks like one."""
    async with serving(tmp_path, {"chat": config(tmp_path, memory)}, drain_s=1) as served:
        session = _large_session(served)
        async with served.client.stream("GET", f"{SESSIONS}/{session}/export", headers=ADMIN) as response:
            pieces = response.aiter_bytes()
            await anext(pieces)
            served.server.should_exit = True
            await eventually(lambda: not served.server.server_state.tasks)
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [piece async for piece in pieces]


@pytest.mark.e2e
async def test_the_real_engine_goes_on_from_an_import(tmp_path: Path, memory: Path) -> None:
    """On llama.cpp itself: the imported session's next turn reuses its tokens, and the foreign one computes them."""
    model = make_llama_gguf(tmp_path / "chat.gguf", ctx=4096)
    sections = {
        "model": {"model_path": str(model)},
        "sessions": {"min_tokens": 8, "memory_folder": str(memory), "disk_after_s": 0},
        "engine": {"binary": engine_binary()},
    }
    configs = {
        "chat": Config.model_validate({**sections, "context": {"ctx_size": 1024}}),
        "other": Config.model_validate({**sections, "context": {"ctx_size": 1024, "flash_attn": False}}),
    }
    async with serving(tmp_path, configs) as served:
        session = await ask(served, user="alice", temperature=0)
        file = (await admin(served, "GET", f"/{session}/export")).content
        moved = (await admin(served, "POST", "/import?engine=chat&user=bob", content=file)).json()
        foreign = (await admin(served, "POST", "/import?engine=other&user=bob", content=file)).json()
        warm = await served.client.post(CHAT, json=said(user="bob", temperature=0))
        cold = await served.client.post(CHAT, json={**said(user="bob"), "model": "other"})

        assert (True, False) == (moved["snapshot_kept"], foreign["snapshot_kept"])
        assert (moved["id"], foreign["id"]) == (
            warm.headers["x-hugind-session-id"], cold.headers["x-hugind-session-id"]
        )  # fmt: skip
        assert warm.headers["x-hugind-session"] in ("warm", "cold")
        assert "new" == cold.headers["x-hugind-session"]
        assert moved["tokens"] * 0.9 < warm.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert 0 == cold.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def _two_keys() -> Keyring:
    keyring = Keyring()
    keyring.add(KEY, Principal("tester"))
    keyring.add(OTHER_KEY, Principal("other"))
    return keyring


def _large_session(served: Served) -> str:
    """A session with more in its snapshot than a connection holds on its way."""
    store = served.gateway.keeper(served.engine()).store
    scope = Scope(Owner("tester"), "chat", "model")
    session = store.create(Talk(scope, (), name="large"))
    data = write_slot_file(bytes(4 * 1_000_000), stream=0, n_stream=2)
    (store.slots.path / "large.kv").write_bytes(data)
    snapshot = Snapshot("large.kv", 1_000_000, len(data), checksum(memoryview(data)), 2, "fingerprint", 0.0)
    store.saved(session, snapshot, is_memory=True)
    return session.id


async def test_a_user_is_known_too(tmp_path: Path, memory: Path) -> None:
    """A session may be brought in for anybody who is in the database; one that is not is refused."""
    async with served_chat(tmp_path, memory) as served:
        await add_user(served.gateway.books.accounts, "alice")
        file = (await admin(served, "GET", f"/{await ask(served)}/export")).content
        unnamed = await admin(served, "POST", "/import?engine=chat", content=file)
        named = await admin(served, "POST", "/import?engine=chat&principal=alice", content=file)
        unknown = await admin(served, "POST", "/import?engine=chat&principal=mallory", content=file)

        assert (400, 201, 400) == (unnamed.status_code, named.status_code, unknown.status_code)
        assert "tester, alice" in unnamed.json()["error"]["message"]
        assert "alice" == named.json()["principal"]


async def test_what_an_admin_does_is_on_record(tmp_path: Path, memory: Path) -> None:
    """Which session of whom, and what was done; what somebody does with their own is their own business."""
    async with served_chat(tmp_path, memory) as served:
        session = await ask(served, user="alice")
        await admin(served, "POST", f"/{session}/pin", json={"pinned": True})
        file = (await admin(served, "GET", f"/{session}/export")).content
        taken_in = (await admin(served, "POST", "/import?engine=chat&principal=tester&user=bob", content=file)).json()[
            "id"
        ]
        await admin(served, "DELETE", f"/{session}")
        await served.client.delete(f"/v1/sessions/{taken_in}")
        await admin(served, "DELETE", f"/{session}")
        await admin(served, "DELETE", "?all=true")
        found = await entries(served.gateway.books.database)

        alices, bobs = ({"engine": "chat", "principal": "tester", "user": user} for user in ("alice", "bob"))
        assert [
            ("session.forget_all", "all", {"user": None, "principal": None, "engine": None, "is_complete": True}),
            ("session.forget", session, alices),
            ("session.import", taken_in, bobs),
            ("session.export", session, alices),
            ("session.pin", session, {**alices, "pinned": True}),
        ] == [(entry.action, entry.target, entry.detail) for entry in found]
        assert {"control"} == {entry.actor for entry in found}


async def test_names_that_no_database_keeps(tmp_path: Path, memory: Path) -> None:
    """400 or 404, and nothing breaks."""
    async with served_chat(tmp_path, memory) as served:
        for method, path in (
            ("GET", "?user=%00"), ("GET", "?id=%00"), ("DELETE", "?user=%00"), ("GET", "/%00"), ("DELETE", "/%00"),
            ("GET", "/%00/export"), ("POST", "/import?engine=%00"), ("POST", "/import?engine=chat&principal=%00"),
            ("POST", "/import?engine=chat&user=%00"), ("GET", f"?user={'x' * 300}"),
        ):  # fmt: skip
            answer = await admin(served, method, path)

            assert answer.status_code in (400, 404), (method, path)
