"""The models that a caller may use, and what is told of them."""

from __future__ import annotations

from pathlib import Path

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.supervisor.aliases import Alias
from tests.eventually import eventually
from tests.proxy.serving import serving, standin_config
from tools.random_gguf import make_llama_gguf

ANTHROPIC = {"anthropic-version": "2023-06-01"}


async def test_the_models_are_those_that_the_caller_may_use(tmp_path: Path) -> None:
    """Listed, and each by its name; those of others do not exist."""
    ring = Keyring()
    ring.add("ka", Principal("a", frozenset({"a"})))
    configs = {name: standin_config(tmp_path) for name in ("a", "b")}
    async with serving(tmp_path, configs, keyring=ring) as served:
        headers = {"Authorization": "Bearer ka"}
        listed = (await served.client.get("/v1/models", headers=headers)).json()["data"]
        one = await served.client.get("/v1/models/a", headers=headers)
        other = await served.client.get("/v1/models/b", headers=headers)
        unknown = await served.client.get("/v1/models/c", headers=headers)

        assert ["a"] == [model["id"] for model in listed]
        assert listed[0] == one.json()
        meta = one.json()["meta"]
        assert ("ready", "chat", 4096) == (meta["state"], meta["task"], meta["n_ctx"])
        assert (404, 404) == (other.status_code, unknown.status_code)


async def test_a_model_tells_what_its_sessions_can_do(tmp_path: Path) -> None:
    """What was found out, why, and the family; before the first start that it is not known; of no chat model: none."""
    slow = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "0.5"]})
    embed = standin_config(tmp_path, model={"task": "embedding"})
    async with serving(tmp_path, {"chat": slow, "embed": embed}, is_ready=False) as served:

        async def sessions(name: str) -> dict[str, str]:
            about: dict[str, str] = (await served.client.get(f"/v1/models/{name}")).json()["meta"]["sessions"]
            return about

        before = await sessions("chat")
        await eventually(lambda: served.leases().free == 2)
        after, none = await sessions("chat"), await sessions("embed")

        assert {"ability": "untested", "reason": "no worker was ready yet", "family": None} == before
        assert ("any-prefix", "attention") == (after["ability"], after["family"])
        assert "restored tokens were reused" in after["reason"]
        assert {"ability": "none", "reason": "an engine for embedding holds no sessions", "family": None} == none


async def test_a_model_tells_what_its_file_says(tmp_path: Path) -> None:
    """What it can do, how much it was trained on, how large it is, since when; of no GGUF file only what is known."""
    made = make_llama_gguf(tmp_path / "made.gguf", ctx=512, calls=True)
    configs = {
        "made": standin_config(tmp_path, model={"model_path": str(made)}),
        "other": standin_config(tmp_path, model={"task": "rerank"}),
    }
    async with serving(tmp_path, configs) as served:
        model, other = (await served.client.get("/v1/models")).json()["data"]

        assert (["completion", "tools"], 512, made.stat().st_size) == (
            model["meta"]["capabilities"],
            model["meta"]["n_ctx_train"],
            model["meta"]["size"],
        )
        assert int(made.stat().st_mtime) == model["created"]
        assert [] == other["meta"]["capabilities"]
        assert "size" not in other["meta"]


async def test_aliases_are_models(tmp_path: Path) -> None:
    """Of their own, by any of their names, for whoever may use what they stand for."""
    ring = Keyring()
    ring.add("ka", Principal("a", frozenset({"a"})))
    configs = {name: standin_config(tmp_path) for name in ("a", "b")}
    async with serving(tmp_path, configs, keyring=ring) as served:
        for name in ("a", "b"):
            served.gateway.aliases.put(f"my-{name}", Alias(model=name, created_at=7))
        headers = {"Authorization": "Bearer ka"}
        listed = (await served.client.get("/v1/models", headers=headers)).json()["data"]
        one = (await served.client.get("/v1/models/MY-A:latest", headers=headers)).json()
        other = await served.client.get("/v1/models/my-b", headers=headers)

        assert ["a", "my-a"] == [model["id"] for model in listed]
        assert ("a", 7) == (one["parent"], one["created"])
        assert one == listed[1]
        assert 404 == other.status_code


async def test_in_anthropics_words(tmp_path: Path) -> None:
    """Where the header says so: lists, pages, single models, and what is wrong."""
    configs = {name: standin_config(tmp_path) for name in ("a", "b", "c")}
    async with serving(tmp_path, configs) as served:
        page = (await served.client.get("/v1/models?limit=2&after_id=a", headers=ANTHROPIC)).json()
        one = (await served.client.get("/v1/models/b", headers=ANTHROPIC)).json()
        unknown = (await served.client.get("/v1/models/d", headers=ANTHROPIC)).json()
        wrong = await served.client.get("/v1/models?limit=many", headers=ANTHROPIC)
        plain = (await served.client.get("/v1/models?limit=many")).json()

        assert (["b", "c"], False) == ([model["id"] for model in page["data"]], page["has_more"])
        assert page["data"][0] == one
        assert ("error", "not_found_error") == (unknown["type"], unknown["error"]["type"])
        assert (400, "invalid_request_error") == (wrong.status_code, wrong.json()["error"]["type"])
        assert 3 == len(plain["data"])
