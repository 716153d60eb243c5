"""A config's own system prompt stands before every chat that brings none, and is computed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.system_prompt import BASE_OWNER, SystemPrompt
from tests.e2e.conversations import CHAT, Conversation, Turn, read_turn
from tests.eventually import eventually
from tests.proxy.serving import Served, chat, serving, standin_config
from tests.proxy.sessions.parts import LATER
from tests.proxy.sessions.storing import ENGINE, files_in, memory_folder, needs_memory, record_of

pytestmark = needs_memory

PROMPT = "You are a slot, and you answer as one. " * 3
OTHER = "You are a queue, and nobody waits for long. " * 3


def beginning(text: str) -> int:
    """Tokens that all prompts behind a system prompt have in common, as the stand-in renders and counts them."""
    return len(f"<|system|>{text}\n<|user|>") // 4


BEGINNING = beginning(PROMPT)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


@asynccontextmanager
async def prompting(
    folder: Path, memory: Path, text: str | None = PROMPT, *flags: str, **sections: dict[str, Any]
) -> AsyncIterator[Served]:
    """A gateway whose config has a system prompt of its own."""
    config = standin_config(
        folder,
        chat={"system_prompt": text},
        sessions={"min_tokens": 8, "memory_folder": str(memory), "disk_after_s": LATER, **sections.pop("sessions", {})},
        engine={"extra_args": flags},
        **sections,
    )
    async with serving(folder, {ENGINE: config}) as served:
        yield served


def keeper(served: Served) -> Keeper:
    return served.gateway.keeper(served.engine())


def base(served: Served) -> Session:
    """The session that holds the prompt, which there must be."""
    found = keeper(served).system_prompt.base
    assert found
    return found


def another(served: Served) -> SystemPrompt:
    """As the next start makes it."""
    known = keeper(served)
    return SystemPrompt(known.engine, Shelf(known.store, known.scribe), known.policy)


async def say(served: Served, text: str = "Hello.", **fields: Any) -> Turn:
    return read_turn(await served.client.post(CHAT, json=chat(text, **fields)))


async def held(served: Served) -> list[int]:
    """Tokens in the slots, as the engine says."""
    return [slot.tokens for slot in await served.spawn().client.slots(5)]


# ---- before which chats


SYSTEM, DEVELOPER = {"role": "system", "content": "Mine."}, {"role": "developer", "content": "Mine."}
USER = {"role": "user", "content": "Hello."}
OURS = {"role": "system", "content": PROMPT}


async def test_before_which_chats(tmp_path: Path, memory: Path) -> None:
    """Those that bring none; what is no chat at all is left to the engine to refuse."""
    without: list[list[Any]] = [[USER], [], [USER, SYSTEM]]
    others: list[Any] = [[SYSTEM, USER], [DEVELOPER, USER], [OURS, USER], None, "odd"]
    async with prompting(tmp_path, memory) as served:
        known = keeper(served).system_prompt

        assert [[OURS, *messages] for messages in without] == [known.put_before(messages) for messages in without]
        assert others == [known.put_before(messages) for messages in others]


async def test_a_config_without_one(tmp_path: Path, memory: Path) -> None:
    """Nothing is put before anything, and nothing is computed."""
    async with prompting(tmp_path, memory, None) as served:
        known = keeper(served).system_prompt

        assert [USER] == known.put_before([USER])
        assert not known.is_before([SYSTEM, USER])
        assert None is known.base
        assert {} == keeper(served).store.sessions


async def test_one_in_a_file(tmp_path: Path, memory: Path) -> None:
    """It is read once, when the engine is there."""
    path = tmp_path / "prompt.txt"
    path.write_text(f"\n{PROMPT.strip()}\n")
    config = standin_config(
        tmp_path, chat={"system_prompt_file": str(path)}, sessions={"min_tokens": 8, "memory_folder": str(memory)}
    )
    async with serving(tmp_path, {ENGINE: config}) as served:
        path.write_text("Another.")

        assert [{"role": "system", "content": PROMPT.strip()}, USER] == keeper(served).system_prompt.put_before([USER])


async def test_which_chats_begin_with_it(tmp_path: Path, memory: Path) -> None:
    """Also those of clients that send it themselves."""
    chats: list[list[Any] | None] = [[OURS, USER], [OURS], [SYSTEM, USER], [USER], [], None]
    async with prompting(tmp_path, memory) as served:
        known = keeper(served).system_prompt

        assert [True, True, False, False, False, False] == [known.is_before(messages) for messages in chats]


# ---- new sessions


async def test_new_sessions_begin_with_its_tokens(tmp_path: Path, memory: Path) -> None:
    """Whoever brings no system prompt of their own finds it computed, and is new all the same."""
    async with prompting(tmp_path, memory) as served:
        turns = [await say(served, user=name) for name in ("alice", "bob", "carol")]

    assert [("new", BEGINNING)] * 3 == [(turn.label, turn.cached_tokens) for turn in turns]


async def test_sessions_with_another(tmp_path: Path, memory: Path) -> None:
    """Who brings one of their own is computed from the start."""
    async with prompting(tmp_path, memory) as served:
        turn = await Conversation(OTHER).say(served.client, "Hello.")

    assert ("new", 0) == (turn.label, turn.cached_tokens)


async def test_models_that_can_only_be_extended(tmp_path: Path, memory: Path) -> None:
    """New sessions extend it."""
    async with prompting(tmp_path, memory, PROMPT, "--extend-only") as served:
        turns = [await say(served, user=name) for name in ("alice", "bob", "carol")]

    assert [("new", BEGINNING)] * 3 == [(turn.label, turn.cached_tokens) for turn in turns]


async def test_it_is_nobodys(tmp_path: Path, memory: Path) -> None:
    """Its session holds the prompt and nothing else, stays where it is, and leaves the slots empty."""
    async with prompting(tmp_path, memory) as served:
        session = base(served)

        assert (BASE_OWNER, True) == (session.owner, session.is_pinned)
        assert session.memory
        assert BEGINNING == session.memory.tokens
        assert [0, 0] == await held(served)


# ---- how often


async def test_a_worker_dies(tmp_path: Path, memory: Path) -> None:
    """What was computed is used on; nothing is computed anew."""
    async with prompting(tmp_path, memory) as served:
        before = base(served).memory
        await keeper(served).system_prompt.learn(served.spawn())

        assert before
        assert before is base(served).memory


async def test_several_workers(tmp_path: Path, memory: Path) -> None:
    """They start side by side: it is computed on one of them, for all."""
    async with prompting(tmp_path, memory, server={"concurrency": 2, "max_slots": 1}) as served:
        store, anew = keeper(served).store, another(served)
        store.forget(base(served))
        await asyncio.gather(*(anew.learn(served.spawn(index=index)) for index in (0, 1)))

        assert [anew.base] == list(store.sessions.values())


async def test_a_restart(tmp_path: Path, memory: Path) -> None:
    """It is found again, by the next gateway, too."""
    async with prompting(tmp_path, memory) as served:
        first = base(served)
    async with prompting(tmp_path, memory) as served:
        second = base(served)
        turn = await say(served)

    assert first.memory
    assert (first.id, first.memory) == (second.id, second.memory)
    assert BEGINNING == turn.cached_tokens


async def test_a_reboot(tmp_path: Path, memory: Path) -> None:
    """What memory had is gone: the copy on disk does."""
    async with prompting(tmp_path, memory) as served:
        first = base(served)
    for file in memory.rglob("*.kv"):
        file.unlink()
    async with prompting(tmp_path, memory) as served:
        second = base(served)
        turn = await say(served)

    assert (first.id, None) == (second.id, second.memory)
    assert BEGINNING == turn.cached_tokens


async def test_another_prompt(tmp_path: Path, memory: Path) -> None:
    """It is computed anew, and nothing is left of the one before."""
    async with prompting(tmp_path, memory) as served:
        first = base(served)
        await eventually(record_of(tmp_path, first).exists)
    async with prompting(tmp_path, memory, OTHER) as served:
        second = base(served)
        turn = await say(served)

        assert [second] == [one for one in keeper(served).store.sessions.values() if one.owner == BASE_OWNER]
        assert first.id != second.id
        assert beginning(OTHER) == turn.cached_tokens
    assert not [file for file in files_in(tmp_path) if first.id in file]


async def test_another_engine(tmp_path: Path, memory: Path) -> None:
    """With another fingerprint the snapshot is of no use: it is computed anew."""
    async with prompting(tmp_path, memory) as served:
        first = base(served)
        assert first.memory
        first.memory = replace(first.memory, fingerprint="another")
        anew = another(served)
        await anew.learn(served.spawn())

        assert anew.base
        assert anew.base.memory
        assert first.id != anew.base.id
        assert keeper(served).policy.fingerprint == anew.base.memory.fingerprint
        assert [anew.base] == list(keeper(served).store.sessions.values())


async def test_it_was_dropped(tmp_path: Path, memory: Path) -> None:
    """A bad file of it is dropped, and it is computed anew with the next worker, not only with the next gateway."""
    async with prompting(tmp_path, memory) as served:
        store, first = keeper(served).store, base(served)
        assert first.memory
        store.path(first, first.memory).write_bytes(b"bad")
        without = await say(served, user="alice")
        await keeper(served).system_prompt.learn(served.spawn())
        anew = await say(served, user="bob")

    assert 1 == store.refused
    assert [0, BEGINNING] == [without.cached_tokens, anew.cached_tokens]


# ---- what goes wrong


async def test_a_file_that_cannot_be_saved(tmp_path: Path, memory: Path) -> None:
    """The prompt is put before chats all the same; each computes it, in slots that are empty."""
    async with prompting(tmp_path, memory) as served:
        known = keeper(served)
        known.store.forget(base(served))
        slots, aside = known.store.slots.path, memory / "aside"
        slots.rename(aside)
        without = another(served)
        await without.learn(served.spawn())
        aside.rename(slots)

        assert None is without.base
        assert [OURS, USER] == without.put_before([USER])
        assert [0, 0] == await held(served)
        assert {} == known.store.sessions
        assert ("new", 0) == ((turn := await say(served)).label, turn.cached_tokens)


async def test_snapshots_are_of_no_use(tmp_path: Path, memory: Path) -> None:
    """Where nothing can be restored nothing is computed ahead; it is put before chats."""
    async with prompting(tmp_path, memory, sessions={"enabled": False}) as served:
        known = keeper(served).system_prompt

        assert None is known.base
        assert [OURS, USER] == known.put_before([USER])


async def test_more_than_the_context(tmp_path: Path, memory: Path) -> None:
    """The engine does not take it: that is told to who asks, and the gateway serves on."""
    async with prompting(tmp_path, memory, PROMPT * 200) as served:
        answer = await served.client.post(CHAT, json=chat())

        assert None is keeper(served).system_prompt.base
        assert 400 == answer.status_code
        assert "new" == (await Conversation(OTHER).say(served.client, "Hello.")).label
