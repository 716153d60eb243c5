"""Which engine a request means, which exist for whom, and that none is missing when it is needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.books import Rules
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.paths import Home
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.run_folder import RunFolder
from tests.eventually import eventually
from tests.proxy.serving import chat, make_gateway, serving, standin_config, stores_of

ON_DEMAND = FleetRules(is_on_demand=True)
ONE = FleetRules(is_on_demand=True, max_resident=1)
ENOUGH = 12
"""Turns of each."""

EVERYBODY = Principal("everybody")
ONLY_A = Principal("a", frozenset({"a"}))


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """Two engines, `a` and `b`, that do not run."""
    home, binary = Home(tmp_path), EngineBinary(("false",), "native", "", "", frozenset())
    folder, config = RunFolder(tmp_path, tmp_path), standin_config(tmp_path)
    engines = {name: Engine(name, config, binary, home, folder) for name in "ab"}
    return make_gateway(engines, Keyring(), stores_of(home, dict.fromkeys("ab", config)), home)


def test_a_name_means_that_engine(gateway: Gateway) -> None:
    """The request's `model` is the config's name."""
    assert "b" == gateway.engine_for("b", EVERYBODY).name


def test_no_name_means_the_only_engine(gateway: Gateway) -> None:
    """Who can see just one engine need not name it."""
    assert "a" == gateway.engine_for(None, ONLY_A).name


@pytest.mark.parametrize("model", [None, "", 5, ["a"], {"a": 1}])
def test_a_name_that_is_none_is_refused(gateway: Gateway, model: object) -> None:
    """400, with the names there are."""
    with pytest.raises(ApiError, match="a, b") as refused:
        gateway.engine_for(model, EVERYBODY)

    assert (400, "model") == (refused.value.status, refused.value.param)


def test_an_engine_of_others_is_as_unknown_as_none(gateway: Gateway) -> None:
    """The answer to a forbidden name does not tell that it exists."""
    messages = []
    for name in ("b", "c"):
        with pytest.raises(ApiError) as refused:
            gateway.engine_for(name, ONLY_A)
        messages.append(refused.value.message.replace(f"'{name}'", "X"))

        assert (404, "model_not_found") == (refused.value.status, refused.value.code)
    assert messages[0] == messages[1]
    assert ["a"] == [engine.name for engine in gateway.visible_engines(ONLY_A)]


# ---- more models than there is room for


def crowd(folder: Path, names: str = "ab", **sections: dict[str, Any]) -> dict[str, Config]:
    """A config for each name, whose talks are always worth keeping."""
    config = standin_config(folder, sessions={"min_tokens": 1}, **sections)
    return dict.fromkeys(names, config)


async def test_all_are_served_where_there_is_room_for_one(tmp_path: Path) -> None:
    """Two models, each wanted all the time: both get their turns, and none of these fails."""
    async with serving(tmp_path, crowd(tmp_path, server={"max_slots": 1}), fleet_rules=ONE) as served:
        statuses: Counter[tuple[str, int]] = Counter()

        async def live(model: str) -> None:
            while min(statuses[name, 200] for name in "ab") < ENOUGH:
                answer = await served.client.post("/v1/chat/completions", json=chat(model=model, max_tokens=2))
                statuses[model, answer.status_code] += 1

        async with asyncio.TaskGroup() as group:
            for model in "aabb":
                group.create_task(live(model))

        assert {200} == {status for _, status in statuses}
        assert 1 >= sum(served.engine(name).state == "ready" for name in "ab")
        assert 0 == sum(served.worker(name).restarts for name in "ab")


async def test_a_talk_is_known_when_its_model_is_back(tmp_path: Path) -> None:
    """Sessions are saved before an engine leaves for another."""
    async with serving(tmp_path, crowd(tmp_path), fleet_rules=ONE) as served:
        first = await served.client.post("/v1/chat/completions", json=chat("A long talk. " * 40, model="a"))
        await served.client.post("/v1/chat/completions", json=chat(model="b"))
        away = served.engine("a").state
        talk = [*chat("A long talk. " * 40)["messages"], first.json()["choices"][0]["message"]]
        body = {"model": "a", "messages": [*talk, {"role": "user", "content": "And then?"}]}
        second = await served.client.post("/v1/chat/completions", json=body)

    assert ("unloaded", "warm") == (away, second.headers["x-hugind-session"])
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_a_request_says_how_long_a_model_stays(tmp_path: Path) -> None:
    """As Ollama has it: 0 is at once. Nobody is served anything else for it."""
    async with serving(tmp_path, crowd(tmp_path, "a"), fleet_rules=ON_DEMAND) as served:
        answer = await served.client.post("/v1/chat/completions", json=chat(model="a", keep_alive=0))
        await eventually(lambda: served.engine("a").state == "unloaded")
        ready = await served.client.get("/readyz")

    assert (200, 200) == (answer.status_code, ready.status_code)


async def test_a_model_that_fails_takes_no_other_down(tmp_path: Path) -> None:
    """Whoever asks for it hears why, at once; the other goes on."""
    bad = standin_config(tmp_path, engine={"extra_args": ["--fail-start", "error: no memory"]})
    async with serving(tmp_path, {"bad": bad, **crowd(tmp_path, "a")}, fleet_rules=ONE) as served:
        answers = [
            await served.client.post("/v1/chat/completions", json=chat(model=model))
            for model in ("a", "bad", "bad", "a")
        ]

    assert [200, 503, 503, 200] == [answer.status_code for answer in answers]
    for refused in answers[1:3]:
        assert "engine_failed" == refused.json()["error"]["code"]
        assert "error: no memory" in refused.json()["error"]["message"]


async def test_a_stream_is_not_dropped_by_a_reload(tmp_path: Path) -> None:
    """It ends as if nothing were, however long that takes; the engine leaves after that."""
    config = crowd(tmp_path, "a", engine={"drain_s": 0})
    async with serving(tmp_path, config) as served, asyncio.TaskGroup() as group:
        body = chat(model="a", stream=True, max_tokens=20, standin={"token_ms": 20, "reply": "word " * 20})
        async with served.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.aiter_lines()
            begun, old = await anext(lines), served.engine("a")
            exchange = group.create_task(served.gateway.exchange({}, served.gateway.doorman.keyring, Rules()))
            rest = [line async for line in lines]
        await exchange
        after = await served.client.post("/v1/chat/completions", json=chat(model="a"))

    assert begun.startswith("data: ")
    assert "data: [DONE]" in rest
    assert (404, True) == (after.status_code, old.has_ended)
