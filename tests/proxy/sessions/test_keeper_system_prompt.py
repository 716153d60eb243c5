"""The config's own system prompt is computed once for everybody, and is all that anybody shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.proxy.sessions.system_prompt import BASE_OWNER
from tests.eventually import eventually
from tests.proxy.serving import Served
from tests.proxy.sessions.chats import LONG, Person, keeper_of, sessions_of, sessions_served, until_saved
from tests.proxy.sessions.storing import memory_folder, needs_memory

pytestmark = needs_memory

PROMPT = "You are kind, and you are brief, and you never say what you are not asked for."
SYSTEM = {"role": "system", "content": PROMPT}
BASE_TOKENS = len(f"<|system|>{PROMPT}\n<|user|>") // 4
ONE_SLOT: Any = {"server": {"max_slots": 1}}
CHAT: Any = {"chat": {"system_prompt": PROMPT}}


async def test_everybody_begins_with_it(tmp_path: Path) -> None:
    """In the request or put there: a new conversation has it computed already, and is new all the same."""
    async with sessions_served(tmp_path, **ONE_SLOT, **CHAT) as served:
        ann, ben, cat = Person(served, "ann"), Person(served, "ben", user="ben"), Person(served, "cat")
        cat.messages = [SYSTEM]
        turns = [await ann.say(), await ben.say(), await cat.say("hello"), await ann.say()]

    assert ["new", "new", "new", "warm"] == [turn.label for turn in turns]
    assert [BASE_TOKENS] * 3 == [turn.cached for turn in turns[:3]]
    assert turns[3].is_reused


async def test_a_request_with_its_own_has_nothing_of_it(tmp_path: Path) -> None:
    """Theirs takes the place of the config's."""
    async with sessions_served(tmp_path, **ONE_SLOT, **CHAT) as served:
        await Person(served, "ann").say()
        ben = Person(served, "ben")
        ben.messages = [{"role": "system", "content": "Be rude."}]
        turn = await ben.say("hello")

    assert ("new", 0) == (turn.label, turn.cached)
    assert turn.tokens < BASE_TOKENS


async def test_from_a_file(tmp_path: Path) -> None:
    """The same, and without the blanks around it."""
    (tmp_path / "prompt.txt").write_text(f"\n{PROMPT}\n\n")
    async with sessions_served(tmp_path, **ONE_SLOT, chat={"system_prompt_file": "prompt.txt"}) as served:
        turn = await Person(served, "ann").say()

    assert BASE_TOKENS == turn.cached


def base_of(served: Served) -> str:
    """The id of the session that holds it."""
    base = keeper_of(served).system_prompt.base
    assert base is not None
    return base.id


async def test_it_is_nobodys(tmp_path: Path) -> None:
    """No request can name it, go on with it, or push it out."""
    async with sessions_served(tmp_path, **ONE_SLOT, **CHAT) as served:
        base = base_of(served)
        ann = Person(served, "ann", headers={"X-Hugind-Session": base})
        turns = [await ann.say(), await ann.say()]
        owners = {session.owner for session in sessions_of(served).values() if session.id == base}

        assert {BASE_OWNER} == owners
        assert base not in {turn.session for turn in turns}
        assert sessions_of(served)[base].is_pinned
        assert sessions_of(served)[base].turns == 0


async def test_it_outlives_workers_and_gateways(tmp_path: Path) -> None:
    """It is computed once, and again where it has become another."""
    with memory_folder() as memory:
        async with sessions_served(tmp_path, memory, **ONE_SLOT, **CHAT) as served:
            first = base_of(served)
            before = served.worker().spawn
            psutil.Process(served.spawn().process.pid).kill()
            await eventually(lambda: served.worker().spawn is not before and served.leases().free == 1)
            turns = [await Person(served, "ann").say()]
            await until_saved(served, first)
        async with sessions_served(tmp_path, memory, **ONE_SLOT, **CHAT) as served:
            second = base_of(served)
            turns.append(await Person(served, "ben").say())
        other = {"system_prompt": PROMPT + " Rhyme."}
        async with sessions_served(tmp_path, memory, **ONE_SLOT, chat=other) as served:
            third = base_of(served)
            turns.append(await Person(served, "cat").say())
            known = set(sessions_of(served))

    assert first == second != third
    assert second not in known
    assert [BASE_TOKENS, BASE_TOKENS] == [turn.cached for turn in turns[:2]]
    assert turns[2].cached > BASE_TOKENS


async def test_a_prompt_that_cannot_be_saved_is_computed_by_each(tmp_path: Path) -> None:
    """Without sessions it is only put before."""
    async with sessions_served(tmp_path, **ONE_SLOT, **CHAT, sessions={"enabled": False}) as served:
        turns = [await Person(served, name, user=name).say() for name in ("ann", "ben")]

        assert keeper_of(served).system_prompt.base is None
    assert [0, 0] == [turn.cached for turn in turns]
    assert all(turn.tokens > BASE_TOKENS + len(LONG) // 4 for turn in turns)


@pytest.mark.parametrize("flags", [("--extend-only",)])
async def test_a_model_that_can_only_be_extended(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """What all begin with can be extended by all."""
    async with sessions_served(tmp_path, **ONE_SLOT, **CHAT, engine={"extra_args": flags}) as served:
        turns = [await Person(served, name).say() for name in ("ann", "ben")]

    assert [BASE_TOKENS, BASE_TOKENS] == [turn.cached for turn in turns]


async def test_what_was_said_of_it_is_not_twice_there(tmp_path: Path) -> None:
    """A client that sends back what it got has no system message of ours in it, and goes on all the same."""
    async with sessions_served(tmp_path, **CHAT) as served:
        ann = Person(served, "ann")
        turns = [await ann.say() for _ in range(3)]

    assert 1 == len({turn.session for turn in turns})
    assert ["new", "hot", "hot"] == [turn.label for turn in turns]
