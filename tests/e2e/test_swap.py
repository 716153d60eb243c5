"""More models than there is room for, and people who ask for any of them: nothing fails, nothing is forgotten."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import yaml

from hugind.supervisor.paths import Home
from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tools.random_gguf import make_llama_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODELS = ("one", "two", "three", "four")
ROOM = 2
USERS = 8
TURNS = 200
SEED = 7
TURN_S = 120
FIRST_WORDS = "Tell me about it, from the beginning and in every detail. " * 6
"""Enough to be worth saving."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves four models, and has room for two."""
    folder = tmp_path_factory.mktemp("swap")
    home = Home(folder)
    home.create()
    home.settings.write_text(yaml.safe_dump({"fleet": {"max_resident_models": ROOM}}))
    configs = {}
    for seed, name in enumerate(MODELS):
        config = chat_config(folder, sessions={"min_tokens": 32})
        model = make_llama_gguf(folder / f"{name}.gguf", ctx=4096, seed=seed)
        configs[name] = {**config, "model": {"model_path": str(model)}}
    with running(folder, configs) as process:
        yield process


@dataclass
class Conversation:
    """What one user said to one model, and heard."""

    messages: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Drill:
    """Eight people, and what became of their turns."""

    client: httpx.AsyncClient
    dice: random.Random
    left: int
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    async def live(self, user: str) -> None:
        """Ask any model, again and again, as long as there are turns left; go on where that talk was left."""
        talks = {model: Conversation() for model in MODELS}
        while self.left > 0:
            self.left -= 1
            model = self.dice.choice(MODELS)
            await self._turn(user, model, talks[model])

    async def _turn(self, user: str, model: str, talk: Conversation) -> None:
        is_first = not talk.messages
        messages = [*talk.messages, {"role": "user", "content": FIRST_WORDS if is_first else "And then?"}]
        body = {"model": model, "messages": messages, "max_tokens": 8, "user": user}
        answer = await self.client.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            self.failures.append(f"{user} {model}: {answer.status_code} {answer.text}")
            return
        told = answer.json()
        talk.messages = [*messages, told["choices"][0]["message"]]
        label = answer.headers["x-hugind-session"]
        self.outcomes[label] += 1
        if not is_first and not told["usage"]["prompt_tokens_details"]["cached_tokens"]:
            self.forgotten.append(f"{user} {model}: {label}")


async def test_the_drill(crowded: GatewayProcess) -> None:
    """200 turns of 8 people on 4 models, where 2 have room: none fails, and whoever comes back is known."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=crowded.url, headers=headers, timeout=TURN_S, trust_env=False) as client:
        drill = Drill(client, random.Random(SEED), TURNS)
        async with asyncio.TaskGroup() as group:
            for number in range(USERS):
                group.create_task(drill.live(f"user{number}"))
    engines = [crowded.engine(model) for model in MODELS]

    assert [] == drill.failures
    assert [] == drill.forgotten
    assert TURNS == sum(drill.outcomes.values())
    assert drill.outcomes["warm"] + drill.outcomes["cold"] > 0, drill.outcomes
    assert ROOM >= sum(engine["state"] == "ready" for engine in engines)
    assert 0 == sum(worker["restarts"] for engine in engines for worker in engine["workers"])
