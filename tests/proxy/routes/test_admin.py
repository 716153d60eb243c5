"""For those who run the gateway, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hugind.proxy.access.auth import Keyring
from hugind.proxy.books import Rules
from hugind.proxy.records.audit import entries
from hugind.proxy.reload import Loaded, Reloader
from hugind.proxy.routes.admin import admin_router
from hugind.proxy.routes.records import Records
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from tests.eventually import eventually
from tests.proxy.routes.calling import Asking
from tests.proxy.serving import ADMIN_KEY, connect, endless, http_request, serving, standin_config

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def test_only_the_admin_may(tmp_path: Path) -> None:
    """A user's key gets 403, none gets 401."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for method, path in (("GET", "/admin/v1/engines"), ("POST", "/admin/v1/engines/chat/restart")):
            user = await served.client.request(method, path)
            nobody = await served.client.request(method, path, headers={"Authorization": ""})

            assert (403, 401) == (user.status_code, nobody.status_code)
            assert "not_admin" == user.json()["error"]["code"]
        assert 0 == served.worker().restarts


async def test_the_books_are_open(tmp_path: Path) -> None:
    """Engines, their workers, how many slots are free and how many turns wait."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        connect(served.port) as first,
        connect(served.port) as second,
    ):
        for client in (first, second):
            await client.send(http_request(endless()))
        await eventually(lambda: served.leases().waiting == 1)
        (engine,) = (await served.client.get("/admin/v1/engines", headers=ADMIN)).json()

        assert ("chat", "ready", 0, 1) == (engine["name"], engine["state"], engine["free_slots"], engine["waiting"])
        assert [(0, "ready", 1)] == [(w["index"], w["state"], w["in_flight"]) for w in engine["workers"]]


async def test_a_restart_gives_a_fresh_process(tmp_path: Path) -> None:
    """The engine is ready again with another one; an unknown engine is 404."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        before = served.spawn()
        answer = await served.client.post("/admin/v1/engines/chat/restart", headers=ADMIN)
        unknown = await served.client.post("/admin/v1/engines/nope/restart", headers=ADMIN)
        await eventually(lambda: served.worker().spawn not in (None, before) and served.leases().free == 2)

        assert (202, 404) == (answer.status_code, unknown.status_code)
        (change,) = await entries(served.gateway.books.database)
        assert ("control", "engine.restart", "chat", "127.0.0.1") == (
            change.actor, change.action, change.target, change.client_ip,
        )  # fmt: skip
        assert answer.headers["x-request-id"] == change.request_id


async def test_who_waits_for_what(tmp_path: Path) -> None:
    """Whoever has a slot, and whoever waits for one, with their request's id and since when."""
    async with (
        serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served,
        connect(served.port) as first,
        connect(served.port) as second,
    ):
        await first.send(http_request(endless()))
        await eventually(lambda: served.leases().free == 0)
        await second.send(http_request(endless()))
        await eventually(lambda: served.leases().waiting == 1)
        (engine,) = (await served.client.get("/admin/v1/queue", headers=ADMIN)).json()["engines"]
        (waits,), (runs,) = engine["waiting"], engine["running"]

        assert ("chat", 0) == (engine["engine"], engine["free_slots"])
        assert engine["scheduling"] == served.engine().config.server.scheduling
        assert ("tester", None, "slot", 1, 0) == tuple(
            waits[name] for name in ("user", "end_user", "for", "position", "priority")
        )
        assert ("tester", 0, 0) == (runs["user"], runs["worker"], runs["slot"])
        assert waits["request_id"] != runs["request_id"]
        assert 0 <= waits["since_s"] <= 60


async def test_who_waits_for_a_model_to_load(tmp_path: Path) -> None:
    """It is not a slot that is lacking."""
    slow = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "60"]})
    async with serving(tmp_path, {"chat": slow}, is_ready=False) as served, connect(served.port) as client:
        await client.send(http_request(endless()))
        await eventually(lambda: served.leases().waiting == 1)
        (engine,) = (await served.client.get("/admin/v1/queue", headers=ADMIN)).json()["engines"]

        assert ["loading"] == [turn["for"] for turn in engine["waiting"]]


async def test_a_reload_is_on_record(tmp_path: Path) -> None:
    """What it changed, and who wanted it; a config that cannot be used is 400, changes nothing, and is not."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        problems: list[ConfigError] = []

        def load(current: Mapping[str, Engine]) -> Loaded:
            if problems:
                raise problems.pop()
            return Loaded(dict(current), Keyring(), Rules())

        books = served.gateway.books
        records = Records(books.database, books.accounts)
        reloader = Reloader(served.gateway, load, lambda _: None)
        async with Asking(admin_router(served.gateway, reloader, records)).client() as client:
            done = await client.post("/reload")
            problems.append(ConfigError("no such key", hint="leave it out"))
            refused = await client.post("/reload")
        (change,) = await entries(books.database)

        assert {"added": [], "removed": [], "replaced": [], "kept": ["chat"]} == done.json() == change.detail
        assert ("root", "gateway.reload") == (change.actor, change.action)
        assert (400, "config_error") == (refused.status_code, refused.json()["error"]["code"])
        assert "leave it out" in refused.json()["error"]["message"]
