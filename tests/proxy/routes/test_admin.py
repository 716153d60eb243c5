"""For those who run the gateway, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from hugind.proxy.access.auth import Keyring
from hugind.proxy.books import Rules
from hugind.proxy.records.audit import entries
from hugind.proxy.reload import Loaded, Reloader
from hugind.proxy.routes.admin import admin_router
from hugind.proxy.routes.records import Records
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.residency import FleetRules
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


async def test_a_restart_of_one_that_is_away(tmp_path: Path) -> None:
    """It is loaded: that is a fresh process, too."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        await served.gateway.fleet.unload("chat")
        answer = await served.client.post("/admin/v1/engines/chat/restart", headers=ADMIN)
        await eventually(lambda: served.engine().state == "ready")

        assert 202 == answer.status_code


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


async def test_engines_come_and_go(tmp_path: Path) -> None:
    """Loaded, pinned and unloaded by hand, and all of it on record; an unknown engine is 404."""
    rules = FleetRules(is_on_demand=True, keep_alive_s=3600)
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, fleet_rules=rules) as served:

        async def post(path: str, body: object = None) -> httpx.Response:
            return await served.client.post(f"/admin/v1/engines/{path}", headers=ADMIN, json=body)

        async def residency() -> dict[str, Any]:
            (engine,) = (await served.client.get("/admin/v1/engines", headers=ADMIN)).json()
            found: dict[str, Any] = {"state": engine["state"], **engine["residency"]}
            return found

        before = await residency()
        loaded = await post("chat/load")
        during = await residency()
        pinned = await post("chat/pin", {"pinned": True})
        stays = await residency()
        wrong = await post("chat/pin", {"pinned": True, "forever": True})
        unknown = [await post("nope/load"), await post("nope/unload"), await post("nope/pin", {"pinned": True})]
        unloaded = await post("chat/unload")
        after = await residency()
        at_once = await post("chat/load?wait=false")
        await eventually(lambda: served.engine().state == "ready")
        changes = [
            (change.action, change.target, change.detail) for change in await entries(served.gateway.books.database)
        ]

    assert ("unloaded", False, None, None) == tuple(
        before[name] for name in ("state", "is_loaded", "expires_at", "load_s")
    )
    assert (200, {"engine": "chat", "state": "ready", "reason": None}) == (loaded.status_code, loaded.json())
    assert ("ready", True, 0, False) == tuple(during[name] for name in ("state", "is_loaded", "refs", "is_pinned"))
    assert during["expires_at"] > time.time() + 1800
    assert during["load_s"] > 0
    assert {"engine": "chat", "pinned": True} == pinned.json()
    assert (True, None) == (stays["is_pinned"], stays["expires_at"])
    assert [400, 404, 404, 404] == [answer.status_code for answer in (wrong, *unknown)]
    assert {"engine": "chat", "state": "unloaded", "reason": None} == unloaded.json()
    assert ("unloaded", True) == (after["state"], after["is_pinned"])
    assert (200, "chat") == (at_once.status_code, at_once.json()["engine"])
    assert [
        ("engine.load", "chat", {}),
        ("engine.pin", "chat", {"pinned": True}),
        ("engine.unload", "chat", {}),
        ("engine.load", "chat", {}),
    ] == list(reversed(changes))


async def test_who_waits_for_a_model_that_is_away(tmp_path: Path) -> None:
    """It is seen, with what it waits for; sessions can be listed and brought in all the while."""
    slow = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "60"]})
    rules = FleetRules(is_on_demand=True)
    async with serving(tmp_path, {"chat": slow}, fleet_rules=rules) as served, connect(served.port) as client:
        idle = (await served.client.get("/admin/v1/sessions", headers=ADMIN)).json()
        before = (await served.client.get("/admin/v1/queue", headers=ADMIN)).json()["engines"]
        await client.send(http_request(endless()))
        await eventually(lambda: served.leases().waiting == 1)
        (engine,) = (await served.client.get("/admin/v1/queue", headers=ADMIN)).json()["engines"]
        client.leave()
        await eventually(lambda: served.leases().waiting == 0)

        assert [] == idle["sessions"] == before[0]["waiting"]
        assert ["loading"] == [turn["for"] for turn in engine["waiting"]]
        assert 0 == served.gateway.fleet.residency(served.engine()).refs


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
