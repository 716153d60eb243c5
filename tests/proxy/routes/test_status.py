"""Is it alive, is it ready, what does it serve?"""

from __future__ import annotations

from pathlib import Path

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from tests.eventually import eventually
from tests.proxy.serving import serving, standin_config

NO_KEY = {"Authorization": ""}


async def test_alive_is_not_ready(tmp_path: Path) -> None:
    """While a model loads the process is alive, and not ready; it says so without a key and names nothing."""
    slow = standin_config(tmp_path, engine={"extra_args": ["--slow-load", "0.5"]})
    async with serving(tmp_path, {"secret-name": slow}, is_ready=False) as served:
        alive = await served.client.get("/livez", headers=NO_KEY)
        loading = await served.client.get("/readyz", headers=NO_KEY)
        await eventually(lambda: served.gateway.fleet.is_ready)
        ready = await served.client.get("/health", headers=NO_KEY)

        assert (200, 503, 200) == (alive.status_code, loading.status_code, ready.status_code)
        assert "loading" == loading.json()["status"]
        assert {"status": "ok", "engines": ["ready"]} == ready.json()
        assert "secret-name" not in loading.text + ready.text


async def test_one_failed_engine_takes_no_other_out(tmp_path: Path) -> None:
    """`readyz` says degraded and 200; the others serve on, the failed one says why."""
    broken = standin_config(tmp_path, engine={"extra_args": ["--fail-start", "no such model"]})
    configs = {"chat": standin_config(tmp_path), "broken": broken}
    async with serving(tmp_path, configs, is_ready=False) as served:
        await eventually(lambda: served.engine("broken").state == "failed" and served.engine("chat").state == "ready")
        answer = await served.client.get("/readyz")
        refused = await served.client.post("/v1/completions", json={"model": "broken", "prompt": "a"})
        served_on = await served.client.post("/v1/completions", json={"model": "chat", "prompt": "a"})

        assert (200, "degraded") == (answer.status_code, answer.json()["status"])
        assert (503, "engine_failed") == (refused.status_code, refused.json()["error"]["code"])
        assert "no such model" in refused.json()["error"]["message"]
        assert 200 == served_on.status_code


async def test_health_may_be_asked_with_head(tmp_path: Path) -> None:
    """Load balancers do."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for path in ("/health", "/livez", "/readyz"):
            answer = await served.client.head(path, headers=NO_KEY)

            assert (200, b"") == (answer.status_code, answer.content)


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


async def test_the_release_needs_a_key(tmp_path: Path) -> None:
    """A version number helps whoever looks for holes."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        assert 401 == (await served.client.get("/version", headers=NO_KEY)).status_code
        assert "hugind" == (await served.client.get("/version")).json()["name"]
