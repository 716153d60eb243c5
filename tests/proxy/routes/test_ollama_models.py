"""Ollama's routes that look at models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama import ListResponse, ProcessResponse, ShowResponse

from hugind.proxy.access.principal import Principal
from hugind.proxy.routes.ollama_models import ollama_models_router
from hugind.supervisor.aliases import Alias
from tests.proxy.houses import add_model, asking, keeping_house
from tests.proxy.serving import serving, standin_config


async def test_tags(tmp_path: Path) -> None:
    """Models and aliases, the newest first, each with a tag; under an older name, too, which says that it is older."""
    async with keeping_house(tmp_path) as house:
        house.gateway.aliases.put("mario:1", Alias(model="tiny"))
        async with asking(ollama_models_router(house.gateway, house.reloader, house.records)) as client:
            answer, old = await client.get("/api/tags"), await client.get("/api/models")
            head = await client.head("/api/tags")
        other = Principal("x", engines=frozenset())
        async with asking(ollama_models_router(house.gateway, None, house.records), principal=other) as client:
            nothing = await client.get("/api/tags")

        assert ["mario:1", "tiny:latest"] == [model.model for model in ListResponse(**answer.json()).models]
        assert answer.json() == old.json()
        assert ("true", None) == (old.headers["deprecation"], answer.headers.get("deprecation"))
        assert (200, {"models": []}) == (head.status_code, nothing.json())


async def test_ps(tmp_path: Path) -> None:
    """What is in memory, and beyond Ollama's keys how busy it is."""
    async with keeping_house(tmp_path) as house:
        await house.gateway.fleet.load("tiny")
        async with asking(ollama_models_router(house.gateway, house.reloader, house.records)) as client:
            answer = (await client.get("/api/ps")).json()

        assert "tiny:latest" == ProcessResponse(**answer).models[0].model
        assert {"refs", "pinned", "state", "slots", "free_slots", "waiting"} <= answer["models"][0].keys()


async def test_show(tmp_path: Path) -> None:
    """By any of its names; `name` and `verbose` are heard; what is unknown is said in Ollama's words."""
    async with keeping_house(tmp_path) as house:
        house.gateway.aliases.put(
            "mario", Alias(model="tiny", system="hi", messages=({"role": "user", "content": "a"},))
        )

        async with asking(ollama_models_router(house.gateway, None, house.records)) as client:

            async def show(**body: Any) -> dict[str, Any]:
                answer = await client.post("/api/show", json=body, headers={"user-agent": agent})
                assert 200 == answer.status_code
                told: dict[str, Any] = answer.json()
                ShowResponse(**told)
                return told

            agent = "GitHubCopilotChat/0.30.0"
            copilot = await show(model="Tiny:latest")
            agent = "test"
            tiny, verbose = await show(name="maker/tiny-GGUF"), await show(model="tiny", verbose=True)
            mario = await show(model="mario")
            unknown = await client.post("/api/show", json={"model": "nothing"})

        assert ("hi", "tiny") == (mario["system"], mario["details"]["parent_model"])
        assert "FROM tiny\n" in mario["modelfile"]
        assert [{"role": "user", "content": "a"}] == mario["messages"]
        assert "Tiny:latest" == copilot["model_info"]["general.basename"]
        assert [] == tiny["model_info"]["tokenizer.ggml.tokens"]
        assert 384 == len(verbose["model_info"]["tokenizer.ggml.tokens"])
        assert ["completion"] == tiny["capabilities"]
        assert (404, {"error": "model 'nothing' not found"}) == (unknown.status_code, unknown.json())


async def test_a_model_that_sees(tmp_path: Path) -> None:
    """Its projector is told of, too."""
    async with keeping_house(tmp_path) as house:
        add_model(house.home, "maker/tiny-GGUF/mmproj-F16.gguf", seed=1)
        await house.reloader.reload()
        async with asking(ollama_models_router(house.gateway, None, house.records)) as client:
            shown = (await client.post("/api/show", json={"model": "tiny"})).json()

        assert "vision" in shown["capabilities"]
        assert ["llama", "clip"] == shown["details"]["families"]
        assert "llama" == shown["projector_info"]["general.architecture"]


async def test_before_a_key_is_shown(tmp_path: Path) -> None:
    """Clients look whether somebody is there, and who; the rest needs a key."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, is_ready=False) as served:
        anybody = {"Authorization": ""}
        hello = await served.client.get("/", headers=anybody)
        version = await served.client.get("/api/version", headers=anybody)
        heads = [(await served.client.head(path, headers=anybody)).status_code for path in ("/", "/api/version")]
        refused = [await served.client.get(f"/api/{path}", headers=anybody) for path in ("tags", "ps")]

        assert ("Ollama is running", "text/plain; charset=utf-8") == (hello.text, hello.headers["content-type"])
        assert "0.33.3" == version.json()["version"]
        assert [200, 200] == heads
        assert [401, 401] == [answer.status_code for answer in refused]
        assert all(isinstance(answer.json()["error"], str) for answer in refused)


async def test_what_there_is_not(tmp_path: Path) -> None:
    """In Ollama's shape, whatever is asked for."""
    async with (
        keeping_house(tmp_path) as house,
        asking(ollama_models_router(house.gateway, None, house.records)) as client,
    ):
        for method, path, status, said in (
            ("POST", "/api/push", 501, "push is not supported"),
            ("POST", "/api/me", 404, "POST /api/me: Not Found"),
            ("POST", "/api/experimental/web_search", 404, "Not Found"),
            ("GET", "/api/show", 405, "Method Not Allowed"),
        ):
            answer = await client.request(method, path)

            assert status == answer.status_code
            assert said in answer.json()["error"]

        assert {"cloud": {"disabled": True, "source": "config"}} == (await client.get("/api/status")).json()
