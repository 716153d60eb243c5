"""The stage of the fairness bench: a real gateway over the stand-in engine, and users whom it knows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from hugind.cli.bench.fairness_load import Person
from hugind.cli.bench.fairness_stage import FAIR, FIFO, POLICIES, set_scene
from hugind.cli.bench.session_stage import Play
from hugind.proxy.records.database import open_database, parse_address
from hugind.proxy.records.schema import requests
from hugind.supervisor.config import load_config
from hugind.supervisor.errors import HugindError
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home

SLOTS = 2


@pytest.fixture
def play(standin_binary: Path, standin_model: Path) -> Play:
    """The stand-in, with two slots."""
    return Play(standin_model, resolve_binary(str(standin_binary)), SLOTS, ctx_size=512)


async def test_policies_tell_users_apart_or_not(tmp_path: Path, play: Play) -> None:
    """To the one policy everybody is the same user, to the other each is one; no limit is in the way of either."""
    home = Home(tmp_path / "home")
    async with set_scene(home.root, play, POLICIES, ["light", "heavy"], memory_folder=tmp_path) as scene:
        for policy in POLICIES:
            people = [await scene.person(policy, user) for user in ("light", "heavy")]
            turns = await asyncio.gather(*(person.ask(4, 2) for person in people for _ in range(40)))
            await scene.until_idle(policy, SLOTS)

            assert all(turn.tokens > 2 and turn.own_ms > 0 for turn in turns)
        started = psutil.Process().children(recursive=True)

    assert {("fifo", "everybody"), ("fair", "light"), ("fair", "heavy")} == await _who_asked_what(home)
    assert {"fifo": "batch", "fair": "turns"} == {
        policy.name: load_config(home.config(policy.name)).server.scheduling for policy in POLICIES
    }
    assert not psutil.wait_procs(started, timeout=10)[1]


async def test_stranger_is_not_served(tmp_path: Path, play: Play) -> None:
    """The gateway asks for keys: who has none of the home's gets no turn, and is told so."""
    async with set_scene(tmp_path / "home", play, [FAIR], ["light"], memory_folder=tmp_path) as scene:
        known = await scene.person(FAIR, "light")
        url = scene.url
        async with Person("stranger", url, engine=FAIR.name, key="not one of them", seed=0) as stranger:
            with pytest.raises(HugindError, match="stranger: status 401"):
                await stranger.ask(4, 2)
        await known.ask(4, 2)


async def test_engine_that_does_not_start_is_told(tmp_path: Path, play: Play) -> None:
    """The error says why the engine cannot serve, and nothing is left."""
    play.model.unlink()
    with pytest.raises(HugindError, match=r"model\.gguf"):
        async with set_scene(tmp_path / "home", play, [FIFO], ["light"], memory_folder=tmp_path):
            pass

    assert not psutil.Process().children()


async def _who_asked_what(home: Home) -> set[tuple[str, str]]:
    """By the rows that the gateway left behind."""
    database = await open_database(parse_address(None, home.database))
    try:
        async with database.read() as connection:
            found = await connection.execute(select(requests.c.model, requests.c.username))
            return {(row.model, row.username) for row in found}
    finally:
        await database.aclose()
