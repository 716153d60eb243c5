"""Aliases through the admin API."""

from __future__ import annotations

import json
from pathlib import Path

from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.records.audit import Filters, entries
from hugind.proxy.routes.aliases import aliases_router
from tests.proxy.houses import asking, keeping_house

JSON = {"content-type": "application/json"}
ALIASES = "/admin/v1/aliases"
MARIO = {
    "model": "maker/tiny-GGUF",
    "system": "You are Mario.",
    "parameters": {"temperature": 0.5, "stop": "END"},
    "messages": [{"role": "user", "content": "hi"}],
}


async def test_from_first_to_last(tmp_path: Path) -> None:
    """Make, show, list, change, remove; each change is on record."""
    async with (
        keeping_house(tmp_path) as house,
        asking(aliases_router(house.gateway, house.records)) as client,
    ):
        made = await client.post(ALIASES, json={"name": "games/mario:1", **MARIO})
        shown = await client.get(f"{ALIASES}/games/mario:1")
        listed = await client.get(ALIASES)
        changed = await client.put(f"{ALIASES}/games/mario:1", json={"model": "tiny", "system": "You are Luigi."})
        derived = await client.put(f"{ALIASES}/luigi", json={"model": "games/mario:1", "parameters": {"top_k": 3}})
        removed = await client.delete(f"{ALIASES}/games/mario:1")
        gone = await client.get(f"{ALIASES}/games/mario:1")
        found = await entries(house.records.database, Filters(), limit=10, before=None)

        assert [201, 200, 200, 200, 200, 200, 404] == [
            one.status_code for one in (made, shown, listed, changed, derived, removed, gone)
        ]
        assert ("games/mario:1", "tiny", {"temperature": 0.5, "stop": ["END"]}) == tuple(
            made.json()[key] for key in ("name", "model", "parameters")
        )
        assert made.json() == shown.json() == listed.json()["aliases"][0]
        assert {} == changed.json()["parameters"]
        assert ("tiny", "You are Luigi.") == (derived.json()["model"], derived.json()["system"])
        assert {"removed": "games/mario:1"} == removed.json()
        assert ["alias.remove", "alias.put", "alias.put", "alias.put"] == [entry.action for entry in found]


async def test_refused(tmp_path: Path) -> None:
    """In the shape of the admin API, with a word for programs."""
    async with (
        keeping_house(tmp_path) as house,
        asking(aliases_router(house.gateway, house.records)) as client,
    ):
        for name, said, status, code in (
            ("mario", {"model": "nothing"}, 404, "model_not_found"),
            ("tiny", {"model": "tiny"}, 409, "name_taken"),
            ("a b", {"model": "tiny"}, 400, "invalid_alias"),
            ("mario", {"model": "tiny", "parameters": {"heat": 1}}, 400, "invalid_alias"),
            ("mario", {"model": "tiny", "parameters": {"top_k": "x"}}, 400, "invalid_alias"),
            ("mario", {"model": "tiny", "parameters": {"stop": ["\ud800"]}}, 400, "invalid_alias"),
            ("mario", {"model": "tiny", "quantization": "8bit"}, 404, "model_not_found"),
            ("mario", {"model": "tiny", "quantization": "3bit"}, 400, None),
            ("mario", {"model": "tiny", "other": 1}, 400, None),
        ):
            answer = await client.put(f"{ALIASES}/{name}", content=json.dumps(said), headers=JSON)

            assert (status, code) == (answer.status_code, answer.json()["error"]["code"]), (name, said)

        assert {} == house.gateway.aliases.all()


async def test_not_for_everybody(tmp_path: Path) -> None:
    """Whoever does not run the gateway is refused; whoever sees one model only, sees its aliases only."""
    restricted = Principal("root", engines=frozenset({"other"}), scopes=ALL_SCOPES)
    async with keeping_house(tmp_path) as house:
        router = aliases_router(house.gateway, house.records)
        async with asking(router) as client:
            await client.put(f"{ALIASES}/mario", json={"model": "tiny"})
        async with asking(router, principal=Principal("user")) as client:
            refused = await client.get(ALIASES)
        async with asking(router, principal=restricted) as client:
            listed, unseen = await client.get(ALIASES), await client.delete(f"{ALIASES}/mario")

        assert (403, 404) == (refused.status_code, unseen.status_code)
        assert {"aliases": []} == listed.json()
