"""`/metrics` as Prometheus meets it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from hugind.proxy.access.auth import Keyring
from tests.engines import ROOT
from tests.eventually import eventually
from tests.proxy.exposition import Exposition
from tests.proxy.people import add_key, add_user, bearer
from tests.proxy.serving import ADMIN_KEY, Served, chat, connect, endless, http_request, serving, standin_config

CHAT = "/v1/chat/completions"
REQUESTS = "hugind_requests_total"


async def scrape(served: Served) -> Exposition:
    """What Prometheus sees."""
    answer = await served.client.get("/metrics", headers=bearer(ADMIN_KEY))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Exposition(answer.text)


async def scrape_until(served: Served, holds: Callable[[Exposition], bool]) -> Exposition:
    """Scrape until it shows: a request is counted after its answer has gone."""
    async with asyncio.timeout(10):
        while not holds(seen := await scrape(served)):
            pass
    return seen


async def test_mixed_traffic(tmp_path: Path) -> None:
    """Turns, refusals and a client that leaves are counted once each, by model and route, and nobody is named."""
    config = standin_config(tmp_path, limits={"max_body_mb": 1})
    embed = standin_config(tmp_path, model={"task": "embedding"}, limits={"max_body_mb": 1})
    async with serving(tmp_path, {"chat": config, "embed": embed}) as served:
        accounts = served.gateway.books.accounts
        alice = await add_user(accounts, "alice-in-metrics")
        few = await add_user(accounts, "bob-in-metrics", {"requests": 1})
        webui = await add_key(accounts, "alice-in-metrics", delegates=True)
        fresh = await scrape(served)
        first = await served.client.post(CHAT, json=chat(max_tokens=4, user="carol-in-metrics"), headers=bearer(alice))
        said = [*chat()["messages"], {"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
        for body in (chat(max_tokens=4, stream=True), {**chat(max_tokens=4), "messages": said}):
            await served.client.post(CHAT, json=body, headers=bearer(webui, X_Hugind_User="dave-in-metrics"))
        await served.client.post("/v1/messages", json=chat(max_tokens=2), headers=bearer(alice))
        await served.client.post("/v1/embeddings", json={"model": "embed", "input": "a"}, headers=bearer(alice))
        for secret in (few, few):
            await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(secret))
        for path, status in (("/v1/nothing/alice-in-metrics", 404), ("/api/nothing", 404), ("/admin/v1/users", 403)):
            assert (await served.client.get(path, headers=bearer(alice))).status_code == status
        await served.client.post(CHAT, json=chat(), headers=bearer("wrong-in-metrics"))
        await served.client.post(CHAT, json={"model": "not-in-metrics"})
        await served.client.post(CHAT, content=b"x" * 2_000_000)
        async with connect(served.port) as client:
            await client.send(http_request(endless(token_ms=20), key=alice))
            await client.reader.readuntil(b"data: ")
            client.leave()
        seen = await scrape_until(served, lambda now: now.value(REQUESTS, **_turn("chat", 499)) == 1)
        again = await scrape(served)
        rows = served.gateway.books.usage.status

    assert 4 == seen.value(REQUESTS, **_turn("chat", 200))
    assert 1 == seen.value(REQUESTS, model="chat", dialect="anthropic", route="/v1/messages", status="200")
    assert 1 == seen.value(REQUESTS, model="embed", dialect="openai", route="/v1/embeddings", status="200")
    assert [1, 1, 1, 1] == [seen.value(REQUESTS, **_turn("", status)) for status in (401, 404, 413, 429)]
    assert 1 == seen.value(REQUESTS, model="", dialect="ollama", route="other", status="404")
    assert 1 == seen.value(REQUESTS, model="", dialect="openai", route="/admin/v1", status="403")
    assert [1, 1, 1] == [
        seen.value("hugind_refused_requests_total", code=code)
        for code in ("rate_limit_exceeded", "invalid_api_key", "model_not_found")
    ]
    assert (6, 1) == (_count(seen, "hugind_request_duration_seconds", "chat"),
                      _count(seen, "hugind_request_duration_seconds", "embed"))  # fmt: skip
    assert 6 == _count(seen, "hugind_time_to_first_token_seconds", "chat")
    assert 5 == _count(seen, "hugind_inter_token_seconds", "chat")  # not of the one that was cut
    assert 0 == _count(seen, "hugind_inter_token_seconds", "embed")
    assert seen.value("hugind_tokens_total", model="chat", kind="completion") >= 4 + 4 + 4 + 2 + 1
    usage = first.json()["usage"]
    assert seen.value("hugind_tokens_total", model="chat", kind="prompt") >= usage["prompt_tokens"]
    assert 6 == seen.sum("hugind_session_turns_total", model="chat")
    assert seen.value("hugind_session_turns_total", model="chat", tier="new") >= 2
    assert seen.value("llamacpp:tokens_predicted_total", model="chat", worker="0") >= 14
    assert (0, 1, 1) == (fresh.sum(REQUESTS, model="chat"), seen.value("hugind_build_info", version=version("hugind")),
                         seen.value("hugind_database_up"))  # fmt: skip
    assert rows.lost == seen.value("hugind_usage_rows_lost_total")
    for name in ("in-metrics", "wrong", alice, few, ADMIN_KEY, first.headers["x-hugind-session-id"],
                 first.headers["x-request-id"]):  # fmt: skip
        assert name not in seen.text + again.text
    grown = again.counters()
    assert all(
        value <= grown[key] for key, value in seen.counters().items() if key[0].startswith(("hugind_", "process_"))
    )
    assert 1 == again.sum(REQUESTS, route="/metrics") - seen.sum(REQUESTS, route="/metrics")


async def test_every_metric_is_described(tmp_path: Path) -> None:
    """In the documentation by its name; and no other is."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        seen = await scrape(served)
    described = set(re.findall(r"`((?:hugind|process)_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))

    assert described == set(re.findall(r"^# TYPE ((?:hugind|process)_\w+)", seen.text, re.MULTILINE))


async def test_a_worker_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    """The others are told of all the same, and it is counted; loading and unloaded ones are not asked."""
    configs = {"chat": standin_config(tmp_path), "other": standin_config(tmp_path)}
    async with serving(tmp_path, configs) as served:
        pid = served.spawn("other").process.pid
        served.spawn("other").process.signal_group(signal.SIGSTOP)
        stopped = await scrape(served)
        served.spawn("other").process.signal_group(signal.SIGCONT)
        await served.client.post("/admin/v1/engines/other/restart", headers=bearer(ADMIN_KEY))
        await eventually(lambda: served.worker("other").spawn is not None and served.spawn("other").process.pid != pid)
        after = await scrape(served)

    assert "llamacpp:requests_processing" in stopped.names()
    assert not [line for line in stopped.text.splitlines() if line.startswith("llamacpp:") and 'model="other"' in line]
    assert 1 == stopped.value("hugind_engine_scrape_failures_total", model="other")
    assert 1 == after.value("hugind_engine_scrape_failures_total", model="other")


async def test_who_may_look(tmp_path: Path) -> None:
    """A key with the scope; where no key is needed, anybody here. HEAD will do."""
    async with serving(tmp_path / "keys", {}, needs_key=True) as served:
        await add_user(served.gateway.books.accounts, "alice")
        may = await add_key(served.gateway.books.accounts, "alice", scopes=("metrics",))
        may_not = await add_key(served.gateway.books.accounts, "alice", scopes=("inference",))
        found = [
            (await served.client.request(method, "/metrics", headers=headers)).status_code
            for method, headers in (("GET", bearer(may)), ("HEAD", bearer(may)), ("GET", bearer(may_not)),
                                    ("GET", {"Authorization": ""}), ("POST", bearer(may)))
        ]  # fmt: skip
    async with serving(tmp_path / "open", {}, keyring=Keyring()) as served:
        answer = await served.client.get("/metrics", headers={"Authorization": ""})

    assert [200, 200, 403, 401, 405] == found
    assert "hugind_build_info" in Exposition(answer.text).names()


def _turn(model: str, status: int) -> dict[str, str]:
    return {"model": model, "dialect": "openai", "route": CHAT, "status": str(status)}


def _count(seen: Exposition, name: str, model: str) -> float:
    return seen.value(f"{name}_count", model=model)
