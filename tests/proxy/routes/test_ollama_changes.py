"""Ollama's routes that change models. What they do is tested in `test_model_making.py`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson

from hugind.proxy.records.audit import Filters, entries
from hugind.proxy.routes.ollama_models import ollama_models_router
from tests.proxy.houses import asking, keeping_house
from tests.proxy.serving import ADMIN_KEY, serving, standin_config
from tools.random_gguf import make_llama_gguf


async def test_from_first_to_last(tmp_path: Path) -> None:
    """Send a file, make a model and an alias of it, copy, remove; each change is on record."""
    data = make_llama_gguf(tmp_path / "own.gguf", seed=1, ctx=1024).read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    async with (
        keeping_house(tmp_path) as house,
        asking(ollama_models_router(house.gateway, house.reloader, house.records)) as client,
    ):
        sent = await client.post(f"/api/blobs/{digest}", content=data)
        made = await client.post("/api/create", json={"model": "mine", "files": {"own.gguf": digest}})
        alias = await client.post(
            "/api/create", json={"name": "mario", "from": "mine", "system": "hi", "stream": False}
        )
        copied = await client.post("/api/copy", json={"source": "mario", "destination": "luigi:latest"})
        listed = [model["name"] for model in (await client.get("/api/tags")).json()["models"]]
        removed = [
            await client.request("DELETE", "/api/delete", json={"model": name}) for name in ("mario", "luigi", "mine")
        ]
        found = await entries(house.records.database, Filters(), limit=10, before=None)

        assert (201, 200, 200, 200) == tuple(one.status_code for one in (sent, made, alias, copied))
        assert [f"using existing layer {digest}", "writing manifest", "success"] == [
            orjson.loads(line)["status"] for line in made.content.splitlines()
        ]
        assert {"status": "success"} == alias.json()
        assert b"" == copied.content
        assert {"luigi:latest", "mario:latest", "mine:latest", "tiny:latest"} == set(listed)
        assert [(200, b"")] * 3 == [(one.status_code, one.content) for one in removed]
        assert ["tiny"] == house.names()
        assert ["model.delete"] * 3 + ["model.copy", "model.create", "model.create"] == [one.action for one in found]


REFUSED: list[tuple[str, str, dict[str, object], int, str]] = [
    ("POST", "/api/create", {"model": "../x", "from": "tiny"}, 400, "invalid model name"),
    ("POST", "/api/create", {"from": "tiny"}, 400, "model is required"),
    ("POST", "/api/create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
    ("POST", "/api/create", {"model": "x", "from": "nothing"}, 404, "model 'nothing' not found"),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "quantize": "q4_0"}, 400, "not quantized here"),
    ("POST", "/api/copy", {"source": "nothing", "destination": "x"}, 404, "model 'nothing' not found"),
    ("POST", "/api/copy", {"source": "tiny"}, 400, "destination is required"),
    ("POST", "/api/copy", {"source": "tiny", "destination": "tiny:latest"}, 409, "already"),
    ("DELETE", "/api/delete", {"model": "nothing"}, 404, "model 'nothing' not found"),
    ("DELETE", "/api/delete", {}, 400, "model is required"),
]


async def test_refused(tmp_path: Path) -> None:
    """In Ollama's shape and words."""
    async with (
        keeping_house(tmp_path) as house,
        asking(ollama_models_router(house.gateway, house.reloader, house.records)) as client,
    ):
        for method, path, body, status, said in REFUSED:
            answer = await client.request(method, path, json=body)

            assert status == answer.status_code, (path, body)
            assert said in answer.json()["error"]


async def test_not_for_everybody(tmp_path: Path) -> None:
    """Who may ask models may not change them; who runs the gateway may."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        said = {"model": "mario", "from": "chat"}
        refused = await served.client.post("/api/create", json=said)
        done = await served.client.post("/api/create", json=said, headers={"Authorization": f"Bearer {ADMIN_KEY}"})

        assert (403, 200) == (refused.status_code, done.status_code)
        assert "models" in refused.json()["error"]
