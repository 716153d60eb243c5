"""Users and keys over HTTP: made, shown, changed, ended; on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from hugind.proxy.access.accounts import Accounts
from hugind.proxy.access.keys import digest_of, key_id
from hugind.proxy.access.principal import Principal
from hugind.proxy.records.audit import entries
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.routes.records import Records, records_router
from tests.databases import PostgresServer
from tests.proxy.people import add_key, add_user, bearer
from tests.proxy.routes.calling import REQUEST_ID, ROOT, Asking, asking_records
from tests.proxy.serving import ADMIN_KEY, chat, serving, standin_config


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """An admin."""
    async with asking_records(database) as client:
        yield client


async def made(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    """What was made."""
    answer = await client.post(path, json=body)
    assert 201 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error(answer: httpx.Response) -> tuple[int, Any, Any]:
    """Status, code and field of a refusal."""
    about = answer.json()["error"]
    assert about["message"]
    return answer.status_code, about["code"], about["param"]


async def test_a_users_life(client: httpx.AsyncClient) -> None:
    """Made, listed, shown, changed, deleted; the name is gone for good."""
    alice = await made(client, "/users", username="alice", limits={"requests": 5, "concurrent": None}, note="of sales")

    assert {"requests": 5, "concurrent": None} == alice["limits"]
    assert ("alice", True, 0, "of sales", None, 0) == tuple(
        alice[name] for name in ("username", "is_enabled", "priority", "note", "deleted_at", "keys")
    )
    assert datetime.fromisoformat(alice["created_at"]).utcoffset() == timedelta(0)
    assert "id" not in alice
    changed = await client.patch("/users/alice", json={"is_enabled": False, "priority": 3, "limits": {}})
    assert (False, 3, {}, "of sales") == tuple(
        changed.json()[name] for name in ("is_enabled", "priority", "limits", "note")
    )
    assert changed.json() == (await client.get("/users/alice")).json()
    assert {"users": [changed.json()]} == (await client.get("/users")).json()

    gone = await client.delete("/users/alice")

    assert {"deleted": "alice", "sessions_forgotten": None} == gone.json()
    assert {"users": []} == (await client.get("/users")).json()
    (left,) = (await client.get("/users?deleted=true")).json()["users"]
    assert left["deleted_at"] is not None
    assert (404, "user_not_found", None) == error(await client.get("/users/alice"))
    assert (409, "username_taken", "username") == error(await client.post("/users", json={"username": "alice"}))


async def test_a_keys_life(client: httpx.AsyncClient) -> None:
    """The secret is shown when it is made and when it is rotated, and never again."""
    await made(client, "/users", username="bob")
    answer = await client.post(
        "/users/bob/keys",
        json={"scopes": ["metrics", "inference"], "models": ["a"], "networks": ["10.0.0.0/8"], "expires_in_s": 3600},
    )
    key = answer.json()
    secret = key.pop("secret")

    assert (201, "no-store") == (answer.status_code, answer.headers["cache-control"])
    assert key["id"] == key_id(secret.encode())
    assert (["inference", "metrics"], ["a"], ["10.0.0.0/8"]) == (key["scopes"], key["models"], key["networks"])
    assert timedelta(0) < datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC) <= timedelta(hours=1)
    assert key == (await client.get(f"/keys/{key['id']}")).json()

    changed = (await client.patch(f"/keys/{key['id']}", json={"note": "x", "models": None, "expires_at": None})).json()
    assert {**key, "note": "x", "models": None, "expires_at": None} == changed

    rotated = await client.post(f"/keys/{key['id']}/rotate", json={"grace_s": 60})
    successor = rotated.json()
    assert (201, "no-store") == (rotated.status_code, rotated.headers["cache-control"])
    assert successor["id"] == key_id(successor.pop("secret").encode()) != key["id"]
    old = (await client.get(f"/keys/{key['id']}")).json()
    assert old["replaced_by"] == successor["id"]
    assert datetime.fromisoformat(old["revoked_at"]) > datetime.now(UTC)
    assert [old, successor] == (await client.get("/keys?user=bob")).json()["keys"]

    revoked = (await client.delete(f"/keys/{successor['id']}")).json()
    assert datetime.fromisoformat(revoked["revoked_at"]) <= datetime.now(UTC)
    assert [old["id"]] == [key["id"] for key in (await client.get("/keys")).json()["keys"]]
    everything = [key["id"] for key in (await client.get("/keys?revoked=true")).json()["keys"]]
    assert [old["id"], successor["id"]] == everything
    assert 409 == (await client.post(f"/keys/{successor['id']}/rotate")).status_code


async def test_a_key_needs_no_more_than_a_user(client: httpx.AsyncClient) -> None:
    """Without a body it opens what users do; without a body a rotation ends the old one at once."""
    await made(client, "/users", username="bob")
    answer = await client.post("/users/bob/keys")
    rotated = await client.post(f"/keys/{answer.json()['id']}/rotate")
    old = (await client.get(f"/keys/{answer.json()['id']}")).json()

    assert (201, 201) == (answer.status_code, rotated.status_code)
    assert (["inference", "sessions"], None, [], {}, False) == tuple(
        answer.json()[name] for name in ("scopes", "models", "networks", "limits", "delegates")
    )
    assert datetime.fromisoformat(old["revoked_at"]) <= datetime.now(UTC)


BAD_BODIES: list[tuple[str, str, Any]] = [
    ("POST", "/users", {}),
    ("POST", "/users", {"username": "a", "is_enabled": False}),
    ("POST", "/users", {"username": "a", "id": "x"}),
    ("POST", "/users", {"username": "Alice"}),
    ("POST", "/users", {"username": "control"}),
    ("POST", "/users", {"username": "a:b"}),
    ("POST", "/users", {"username": "a\x00"}),
    ("POST", "/users", {"username": "a\n"}),
    ("POST", "/users", {"username": ["a"]}),
    ("POST", "/users", {"username": "a", "priority": "1"}),
    ("POST", "/users", {"username": "a", "priority": True}),
    ("POST", "/users", {"username": "a", "priority": 10**30}),
    ("POST", "/users", {"username": "a", "note": "\x00"}),
    ("POST", "/users", {"username": "a", "note": "\ud800"}),
    ("POST", "/users", {"username": "a", "note": None}),
    ("POST", "/users", {"username": "a", "limits": {"request": 1}}),
    ("POST", "/users", {"username": "a", "limits": {"requests": -1}}),
    ("POST", "/users", {"username": "a", "limits": {"requests": 1.5}}),
    ("POST", "/users", {"username": "a", "limits": {"requests": 10**40}}),
    ("POST", "/users", {"username": "a", "limits": {"window_s": float("nan")}}),
    ("POST", "/users", {"username": "a", "limits": {"window_s": float("inf")}}),
    ("POST", "/users", {"username": "a", "limits": {"window_s": 0}}),
    ("PATCH", "/users/bob", {"username": "carl"}),
    ("PATCH", "/users/bob", {"deleted_at": None}),
    ("PATCH", "/users/bob", {"is_enabled": None}),
    ("PATCH", "/users/bob", {"is_enabled": "yes"}),
    ("POST", "/users/bob/keys", {"scopes": ["root"]}),
    ("POST", "/users/bob/keys", {"scopes": "admin"}),
    ("POST", "/users/bob/keys", {"scopes": []}),
    ("POST", "/users/bob/keys", {"digest": "x"}),
    ("POST", "/users/bob/keys", {"models": ["a\x00"]}),
    ("POST", "/users/bob/keys", {"networks": ["10.0.0.0/99"]}),
    ("POST", "/users/bob/keys", {"networks": ["\x00"]}),
    ("POST", "/users/bob/keys", {"expires_in_s": 0}),
    ("POST", "/users/bob/keys", {"expires_in_s": 10**20}),
    ("POST", "/users/bob/keys", {"expires_in_s": 5, "expires_at": "2190-01-01"}),
    ("POST", "/users/bob/keys", {"expires_at": "2001-01-01"}),
    ("POST", "/users/bob/keys", {"expires_at": "9999-12-31T23:59:59-12:00"}),
    ("POST", "/users/bob/keys", {"expires_at": "0001-01-01T00:00:00+12:00"}),
    ("POST", "/users/bob/keys", {"expires_at": 1e300}),
    ("POST", "/users/bob/keys", {"expires_at": "tomorrow"}),
    ("PATCH", "/keys/ID", {"username": "alice"}),
    ("PATCH", "/keys/ID", {"expires_in_s": 5}),
    ("PATCH", "/keys/ID", {"revoked_at": None}),
    ("POST", "/keys/ID/rotate", {"grace_s": -1}),
    ("POST", "/keys/ID/rotate", {"grace_s": 10**12}),
    ("POST", "/keys/ID/rotate", {"grace": 1}),
    ("GET", "/users?deleted=perhaps", None),
    ("GET", "/users/%00", None),
    ("DELETE", "/users/%00", None),
    ("GET", "/keys?user=%00", None),
    ("GET", "/keys/%00", None),
    ("GET", "/keys/" + "x" * 100, None),
]


async def test_what_cannot_be_used_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    """400 with the field, whatever the database; nothing is changed, and nothing on record."""
    await made(client, "/users", username="bob")
    key = await made(client, "/users/bob/keys")
    before = [(await client.get(path)).json() for path in ("/users?deleted=true", "/keys?revoked=true")]
    on_record = await entries(database)
    for method, path, body in BAD_BODIES:
        content = None if body is None else json.dumps(body).encode()  # httpx itself sends no NaN
        headers = {"content-type": "application/json"}
        answer = await client.request(method, path.replace("ID", key["id"]), content=content, headers=headers)

        assert 400 == answer.status_code, (method, path, body, answer.text)
        assert answer.json()["error"]["param"], (method, path, body)
    after = [(await client.get(path)).json() for path in ("/users?deleted=true", "/keys?revoked=true")]

    assert before == after
    assert on_record == await entries(database)


async def test_bodies_that_are_none(client: httpx.AsyncClient) -> None:
    """No JSON, the wrong kind of it, too much of it, or under another name: refused in our shape."""
    for content, media, status in (
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"x"', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"username=a", "application/x-www-form-urlencoded", 400),
        (b'{"username": "a"}', "text/plain", 400),
        (b'{"username": "a"}' + b" " * 300_000, "application/json", 413),
    ):
        answer = await client.post("/users", content=content, headers={"content-type": media})

        assert status == answer.status_code, content[:20]
        assert answer.json()["error"]["message"]
    assert {"users": []} == (await client.get("/users")).json()


async def test_strings_that_mean_something_elsewhere(client: httpx.AsyncClient) -> None:
    """SQL, paths and headers in a note are a note; in a name they are unknown, or refused."""
    tricks = [
        "'; DROP TABLE users; --",
        '" OR 1=1 --',
        "../../etc/passwd",
        "%s%n",
        "${jndi:ldap://x}",
        "\u202e\U0001f600",
    ]
    await made(client, "/users", username="bob")
    for trick in tricks:
        noted = await client.patch("/users/bob", json={"note": trick})
        refused = await client.post("/users", json={"username": trick})
        unknown = await client.get("/keys", params={"user": trick})

        assert (200, trick) == (noted.status_code, noted.json()["note"])
        assert (400, 404) == (refused.status_code, unknown.status_code)


async def test_whoever_is_no_admin_changes_nothing(database: Database) -> None:
    """Not even where nobody checked before."""
    async with asking_records(database, Principal("mallory")) as client:
        for method, path in (("GET", "/users"), ("POST", "/users"), ("GET", "/usage"), ("GET", "/audit")):
            answer = await client.request(method, path, json={"username": "m"} if method == "POST" else None)

            assert (403, "not_admin", None) == error(answer)


async def test_every_change_is_on_record(client: httpx.AsyncClient, database: Database) -> None:
    """Who, with which key, from where, in which request; and no secret."""
    await made(client, "/users", username="bob")
    key = await made(client, "/users/bob/keys")
    other = await made(client, f"/keys/{key['id']}/rotate")
    await client.patch("/users/bob", json={"note": "new"})
    await client.delete(f"/keys/{other['id']}")
    await client.delete("/users/bob")
    found = (await client.get("/audit")).json()["entries"]
    by = {(e["actor"], e["actor_key_id"], e["client_ip"], e["request_id"]) for e in found}

    wanted = ["user.delete", "key.revoke", "user.update", "key.rotate", "key.create", "user.create"]
    assert wanted == [entry["action"] for entry in found]
    assert {(ROOT.name, ROOT.key_id, "10.1.2.3", REQUEST_ID)} == by
    for secret in (key["secret"], other["secret"]):
        assert secret not in str(found)
        assert digest_of(secret.encode()) not in str(found)


async def test_who_wants_to_know_is_told(sqlite_database: Database) -> None:
    """After each change, and before it is answered; a deleted user's sessions are forgotten."""
    told: list[str] = []

    async def changed() -> None:
        told.append("changed")

    async def forget(username: str) -> int:
        told.append(username)
        return 3

    records = Records(sqlite_database, Accounts(sqlite_database), changed, forget)
    async with Asking(records_router(records)).client() as client:
        await made(client, "/users", username="bob")
        key = await made(client, "/users/bob/keys")
        await client.patch(f"/keys/{key['id']}", json={"note": "x"})
        await client.get("/users")
        await client.post("/users", json={"username": "bob"})
        gone = await client.delete("/users/bob")

    assert ["changed"] * 3 + ["changed", "bob"] == told
    assert 3 == gone.json()["sessions_forgotten"]


async def test_the_database_is_away(postgres_server: PostgresServer) -> None:
    """503 that says when to try again, without the database's address; then everything goes on."""
    address = postgres_server.create()
    database = await _opened(address)
    try:
        async with asking_records(database) as client:
            await made(client, "/users", username="bob")
            postgres_server.allow(address, is_allowed=False)
            answers = [
                await client.request(method, path, json=body)
                for method, path, body in (
                    ("GET", "/users", None),
                    ("POST", "/users", {"username": "carl"}),
                    ("DELETE", "/users/bob", None),
                    ("GET", "/usage", None),
                    ("GET", "/usage/requests", None),
                    ("GET", "/audit", None),
                    ("GET", "/database", None),
                )
            ]
            postgres_server.allow(address, is_allowed=True)
            after = [user["username"] for user in (await client.get("/users")).json()["users"]]

        for answer in answers:
            assert (503, "database_away", None) == error(answer)
            assert int(answer.headers["retry-after"]) > 0
            assert "hugind_test" not in answer.text
        assert ["bob"] == after
    finally:
        await database.aclose()
        postgres_server.drop(address)


async def _opened(address: str) -> Database:
    database = Database(parse_address(address, Path("unused")))
    await database.upgrade()
    return database


async def test_a_deleted_user_leaves_nothing_in_the_gateway(tmp_path: Path) -> None:
    """The key opens nothing at once, and the sessions are gone; those of others stay."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        admin = bearer(ADMIN_KEY)
        users = "/admin/v1/users"
        secrets = {}
        for name in ("alice", "bob"):
            await served.client.post(users, json={"username": name}, headers=admin)
            secrets[name] = (await served.client.post(f"{users}/{name}/keys", headers=admin)).json()["secret"]
            answer = await served.client.post("/v1/chat/completions", json=chat(), headers=bearer(secrets[name]))
            assert 200 == answer.status_code
        gone = await served.client.delete(f"{users}/alice", headers=admin)
        refused = await served.client.get("/v1/models", headers=bearer(secrets["alice"]))
        kept = await served.client.get("/v1/sessions", headers=bearer(secrets["bob"]))
        left = await served.client.get("/admin/v1/sessions", headers=admin)

        assert {"deleted": "alice", "sessions_forgotten": 1} == gone.json()
        assert 401 == refused.status_code
        assert 1 == kept.json()["total"] == left.json()["total"]


async def test_an_admin_may_give_themselves_up(tmp_path: Path) -> None:
    """Whoever rotates the key that they came with gets the new one; whoever revokes it, or goes, an answer."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        secret = await add_user(served.gateway.books.accounts, "alice", scopes=("admin",))
        rotated = await served.client.post(f"/admin/v1/keys/{_id(secret)}/rotate", headers=bearer(secret))
        fresh = rotated.json()["secret"]
        other = await add_key(served.gateway.books.accounts, "alice", scopes=("admin",))
        revoked = await served.client.delete(f"/admin/v1/keys/{_id(fresh)}", headers=bearer(fresh))
        gone = await served.client.delete("/admin/v1/users/alice", headers=bearer(other))
        after = [
            (await served.client.get("/v1/models", headers=bearer(key))).status_code for key in (secret, fresh, other)
        ]

        assert (201, 200, 200) == (rotated.status_code, revoked.status_code, gone.status_code)
        assert [401, 401, 401] == after


def _id(secret: str) -> str:
    found = key_id(secret.encode())
    assert found is not None
    return found
