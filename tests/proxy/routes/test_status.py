"""Is it alive, is it ready, which release is it?"""

from __future__ import annotations

from pathlib import Path

from hugind.supervisor.hardware import probe
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
        assert {"status": "ok", "device": probe().device, "engines": ["ready"]} == ready.json()
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


async def test_nothing_to_load_is_healthy(tmp_path: Path) -> None:
    """A gateway that loads on demand, and has no model yet."""
    async with serving(tmp_path, {}) as served:
        answer = await served.client.get("/health", headers=NO_KEY)

        assert (200, "ok", []) == (answer.status_code, answer.json()["status"], answer.json()["engines"])


async def test_health_may_be_asked_with_head(tmp_path: Path) -> None:
    """Load balancers do."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for path in ("/health", "/livez", "/readyz"):
            answer = await served.client.head(path, headers=NO_KEY)

            assert (200, b"") == (answer.status_code, answer.content)


async def test_the_release_needs_a_key(tmp_path: Path) -> None:
    """A version number helps whoever looks for holes."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        assert 401 == (await served.client.get("/version", headers=NO_KEY)).status_code
        assert "hugind" == (await served.client.get("/version")).json()["name"]
