"""For those who run the gateway, and nobody else."""

from __future__ import annotations

from pathlib import Path

from tests.eventually import eventually
from tests.proxy.serving import ADMIN_KEY, connect, endless, http_request, serving, standin_config

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def test_only_the_admin_may(tmp_path: Path) -> None:
    """A user's key gets 403, none gets 401."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for method, path in (("GET", "/admin/engines"), ("POST", "/admin/engines/chat/restart")):
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
        (engine,) = (await served.client.get("/admin/engines", headers=ADMIN)).json()

        assert ("chat", "ready", 0, 1) == (engine["name"], engine["state"], engine["free_slots"], engine["waiting"])
        assert [(0, "ready", 1)] == [(w["index"], w["state"], w["in_flight"]) for w in engine["workers"]]


async def test_a_restart_gives_a_fresh_process(tmp_path: Path) -> None:
    """The engine is ready again with another one; an unknown engine is 404."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        before = served.spawn()
        answer = await served.client.post("/admin/engines/chat/restart", headers=ADMIN)
        unknown = await served.client.post("/admin/engines/nope/restart", headers=ADMIN)
        await eventually(lambda: served.worker().spawn not in (None, before) and served.leases().free == 2)

        assert (202, 404) == (answer.status_code, unknown.status_code)
