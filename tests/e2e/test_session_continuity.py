"""A conversation that left its slot goes on, token for token, as if it had never left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.selftest import Ability
from hugind.supervisor.config import Config
from tests.e2e.conversations import (
    CHAT,
    HAS_MEMORY,
    Conversation,
    Turn,
    crowd_out,
    keeper,
    kill_worker,
    make_slow_gguf,
    memory_folder,
    read_turn,
    session_config,
    until_saved,
)
from tests.proxy.serving import Served, serving
from tools.random_gguf import make_hybrid_gguf, make_recurrent_gguf, make_swa_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not HAS_MEMORY, reason="there is no tmpfs")]

FIRST = "Tell me how it began, from the start. " * 6
SECOND = "And then what happened? " * 4
THIRD = "Who was there?"
ANSWER = 40
"""Tokens. Long enough that an answer from a wrong state does not look right by chance."""

MODELS: dict[str, tuple[Callable[[Path], Path], Ability]] = {
    "attention": (make_slow_gguf, Ability.ANY_PREFIX),
    "swa": (lambda path: make_swa_gguf(path, ff=8192, window=64), Ability.EXTENSION),
    "wide-swa": (lambda path: make_swa_gguf(path, ff=8192, window=400), Ability.EXTENSION),
    "recurrent": (lambda path: make_recurrent_gguf(path, layers=4), Ability.EXTENSION),
    "hybrid": (lambda path: make_hybrid_gguf(path, ff=8192), Ability.EXTENSION),
}
"""With what a restored slot of each can be continued."""

families = pytest.mark.parametrize("family", MODELS)


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


@families
async def test_an_evicted_conversation_goes_on(tmp_path: Path, memory: Path, family: str) -> None:
    """Others had its slot between its turns: the answers are those of a run without others, and little is computed."""
    make, ability = MODELS[family]
    config = session_config(make(tmp_path / "model.gguf"), memory)
    alone = await _talk_alone(tmp_path, config, _three_turns)
    async with serving(tmp_path / "crowd", {"chat": config}) as served:
        verdict = keeper(served).policy.verdict
        evicted = await _three_turns(served, is_crowded=True)

    assert [turn.text for turn in alone] == [turn.text for turn in evicted]
    assert ["new", "warm", "warm"] == [turn.label for turn in evicted]
    for before, turn in pairwise(evicted):
        assert before.computed - 8 <= turn.cached_tokens  # an end is spelled otherwise later, a checkpoint is before it
    assert verdict is not None
    assert ability == verdict.ability


@families
async def test_an_evicted_conversation_goes_back(tmp_path: Path, memory: Path, family: str) -> None:
    """Its last turn is asked again, or otherwise, after others had its slot: never a wrong answer."""
    make, _ = MODELS[family]
    config = session_config(make(tmp_path / "model.gguf"), memory)
    alone = await _talk_alone(tmp_path, config, _second_thoughts)
    async with serving(tmp_path / "crowd", {"chat": config}) as served:
        evicted = await _second_thoughts(served, is_crowded=True)

    assert [turn.text for turn in alone] == [turn.text for turn in evicted]


@families
async def test_a_restored_conversation_goes_back(tmp_path: Path, memory: Path, family: str) -> None:
    """It was brought back, went on, and changes its mind about what it said before it had left."""

    async def talk(served: Served, *, is_crowded: bool) -> list[Turn]:
        alice = Conversation(user="alice", max_tokens=ANSWER)
        turns = [await alice.say(served.client, FIRST)]
        before = list(alice.messages)
        if is_crowded:
            await crowd_out(served)
        turns.append(await alice.say(served.client, SECOND))
        alice.messages = before
        turns.append(await alice.say_instead(served.client))
        return turns

    make, _ = MODELS[family]
    config = session_config(make(tmp_path / "model.gguf"), memory)
    alone = await _talk_alone(tmp_path, config, talk)
    async with serving(tmp_path / "crowd", {"chat": config}) as served:
        evicted = await talk(served, is_crowded=True)

    assert "warm" == evicted[1].label
    assert [turn.text for turn in alone] == [turn.text for turn in evicted]


async def test_a_killed_engine_costs_nothing(tmp_path: Path, memory: Path) -> None:
    """After `kill -9` of the worker the next turn is restored into the new one, and is the one that would have been."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    alone = await _talk_alone(tmp_path, config, _three_turns)
    alice = Conversation(user="alice", max_tokens=ANSWER)
    killed = []
    async with serving(tmp_path / "killed", {"chat": config}) as served:
        for text in (FIRST, SECOND, THIRD):
            killed.append(await alice.say(served.client, text))
            await until_saved(served, killed[-1])
            await kill_worker(served)

    assert [turn.text for turn in alone] == [turn.text for turn in killed]
    assert ["new", "warm", "warm"] == [turn.label for turn in killed]


@pytest.mark.parametrize(("slots", "is_memory_lost"), [(2, False), (2, True), (3, False), (3, True), (1, False)])
async def test_a_restart_costs_nothing(tmp_path: Path, memory: Path, slots: int, is_memory_lost: bool) -> None:
    """A new gateway goes on with what memory or the disk has, also if it has more slots, or fewer."""
    model = make_slow_gguf(tmp_path / "model.gguf")
    config = session_config(model, memory)
    alone = await _talk_alone(tmp_path, config, _three_turns)
    alice = Conversation(user="alice", max_tokens=ANSWER)
    async with serving(tmp_path / "home", {"chat": config}) as served:
        restarted = [await alice.say(served.client, FIRST)]
    if is_memory_lost:
        _lose(memory)
    changed = session_config(model, memory, server={"max_slots": slots})
    async with serving(tmp_path / "home", {"chat": changed}) as served:
        restarted += [await alice.say(served.client, text) for text in (SECOND, THIRD)]

    assert [turn.text for turn in alone] == [turn.text for turn in restarted]
    assert ["new", "cold" if is_memory_lost else "warm", "hot"] == [turn.label for turn in restarted]
    assert restarted[0].computed <= restarted[1].cached_tokens


@families
async def test_every_family_survives_a_restart(tmp_path: Path, memory: Path, family: str) -> None:
    """What the disk has of a conversation is enough, also for another slot count; the verdict is remembered."""
    make, _ = MODELS[family]
    config = session_config(make(tmp_path / "model.gguf"), memory)
    alone = await _talk_alone(tmp_path, config, _three_turns)
    alice = Conversation(user="alice", max_tokens=ANSWER)
    turns, verdicts = [], []
    for text, slots in ((FIRST, 2), (SECOND, 3), (THIRD, 1)):
        config = session_config(tmp_path / "model.gguf", memory, server={"max_slots": slots})
        async with serving(tmp_path / "home", {"chat": config}) as served:
            verdicts.append(keeper(served).policy.verdict)
            turns.append(await alice.say(served.client, text))
        _lose(memory)

    assert [turn.text for turn in alone] == [turn.text for turn in turns]
    assert ["new", "cold", "cold"] == [turn.label for turn in turns]
    assert turns[1].computed - 8 <= turns[2].cached_tokens
    assert 1 == len(set(verdicts))


async def test_a_kept_history_is_what_the_client_would_have_sent(tmp_path: Path, memory: Path) -> None:
    """With `X-Hugind-History: server` only new messages are sent; the prompt is the same, over eviction and restart."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    texts = (FIRST, SECOND, THIRD, "Why?", "Really?")
    async with serving(tmp_path / "whole", {"chat": config}) as served:
        whole = Conversation(user="alice")
        sent = [await whole.say(served.client, text) for text in texts]
    kept = []
    async with serving(tmp_path / "home", {"chat": config}) as served:
        kept.append(await _say_only(served, texts[0], user="alice"))
        kept.append(await _say_only(served, texts[1], user="alice"))
        await crowd_out(served)
        kept.append(await _say_only(served, texts[2], user="alice"))
    async with serving(tmp_path / "home", {"chat": config}) as served:
        kept.append(await _say_only(served, texts[3], user="alice"))
    _lose(memory)
    for file in (tmp_path / "home" / "sessions").rglob("*.kv"):
        file.unlink()
    async with serving(tmp_path / "home", {"chat": config}) as served:
        kept.append(await _say_only(served, texts[4], user="alice"))

    assert [turn.prompt_tokens for turn in sent] == [turn.prompt_tokens for turn in kept]
    assert [turn.text for turn in sent] == [turn.text for turn in kept]
    assert ["new", "hot", "warm", "warm", "new"] == [turn.label for turn in kept]
    assert 1 == len({turn.session for turn in kept})


async def test_a_kept_history_is_nobody_elses(tmp_path: Path, memory: Path) -> None:
    """Another user starts with nothing, another id is another talk, and without the header all is as OpenAI does."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    async with serving(tmp_path, {"chat": config}) as served:
        await _say_only(served, FIRST, user="alice")
        other_user = await _say_only(served, THIRD, user="bob")
        other_talk = await _say_only(served, THIRD, {"X-Hugind-Session": "another"}, user="alice")
        same_name = await _say_only(served, THIRD, {"X-Hugind-Session": "another"}, user="bob")
        plain = await Conversation(user="alice").say(served.client, THIRD)
        again = await _say_only(served, THIRD, user="alice")

    for turn in (other_user, other_talk, same_name):
        assert (plain.prompt_tokens, 0) == (turn.prompt_tokens, turn.cached_tokens)
    assert 0 == plain.cached_tokens
    assert plain.prompt_tokens + 200 < again.prompt_tokens


async def test_a_system_prompt_in_a_kept_history(tmp_path: Path, memory: Path) -> None:
    """Sent again or changed, it stays in front, once."""
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory)
    async with serving(tmp_path, {"chat": config}) as served:
        whole = Conversation("Be brief.")
        expected = [await whole.say(served.client, text) for text in (FIRST, SECOND)]
        headers = {"X-Hugind-History": "server"}
        kept = []
        for text in (FIRST, SECOND):
            body = {**Conversation("Be brief.", user="alice").ask(text)}
            kept.append(read_turn(await served.client.post(CHAT, json=body, headers=headers)))

    assert [turn.prompt_tokens for turn in expected] == [turn.prompt_tokens for turn in kept]
    assert [turn.text for turn in expected] == [turn.text for turn in kept]


@families
async def test_the_configs_own_prompt_is_computed_once(tmp_path: Path, memory: Path, family: str) -> None:
    """Everybody's first turn finds the config's system prompt, and nothing that anybody said; over restarts, too."""
    make, _ = MODELS[family]
    prompt = "You are a helpful machine that knows all about gateways. " * 6
    config = session_config(make(tmp_path / "model.gguf"), memory, chat={"system_prompt": prompt})
    plain = session_config(tmp_path / "model.gguf", memory)
    async with serving(tmp_path / "plain", {"chat": plain}) as served:
        expected = await Conversation(prompt, max_tokens=ANSWER).say(served.client, FIRST)
    async with serving(tmp_path / "home", {"chat": config}) as served:
        turns = [await Conversation(user=user, max_tokens=ANSWER).say(served.client, FIRST) for user in "abc"]
        own_prompt = await Conversation("Be brief.", user="d").say(served.client, FIRST)
    async with serving(tmp_path / "home", {"chat": config}) as served:
        turns.append(await Conversation(user="e", max_tokens=ANSWER).say(served.client, FIRST))

    size = turns[0].cached_tokens
    assert len(prompt) - 10 <= size <= len(prompt) + 40  # every character is a token, and the template has some
    assert [(size, "new", expected.text)] * 4 == [(turn.cached_tokens, turn.label, turn.text) for turn in turns]
    assert expected.prompt_tokens == turns[0].prompt_tokens
    assert own_prompt.cached_tokens == 0


async def _three_turns(served: Served, *, is_crowded: bool) -> list[Turn]:
    alice = Conversation(user="alice", max_tokens=ANSWER)
    turns = []
    for text in (FIRST, SECOND, THIRD):
        turns.append(await alice.say(served.client, text))
        if is_crowded:
            await crowd_out(served)
    return turns


async def _second_thoughts(served: Served, *, is_crowded: bool) -> list[Turn]:
    alice = Conversation(user="alice", max_tokens=ANSWER)
    turns = [await alice.say(served.client, FIRST)]
    for step in (SECOND, None, SECOND + "Tell me.", None, THIRD):
        if is_crowded:
            await crowd_out(served)
        if step in (SECOND, THIRD):
            turns.append(await alice.say(served.client, str(step)))
        else:
            turns.append(await alice.say_instead(served.client, step))
    return turns


async def _talk_alone(folder: Path, config: Config, talk: Any) -> list[Turn]:
    """The same, by one who never leaves the only slot."""
    one_slot = config.model_copy(update={"server": config.server.model_copy(update={"max_slots": 1})})
    async with serving(folder / "alone", {"chat": one_slot}) as served:
        turns: list[Turn] = await talk(served, is_crowded=False)
    assert not {"warm", "cold"} & {turn.label for turn in turns}
    return turns


async def _say_only(served: Served, text: str, headers: dict[str, str] | None = None, **fields: Any) -> Turn:
    body = Conversation(**fields).ask(text)
    answer = await served.client.post(CHAT, json=body, headers={"X-Hugind-History": "server", **(headers or {})})
    return read_turn(answer)


def _lose(memory: Path) -> None:
    """What a reboot does."""
    for file in [file for file in memory.rglob("*") if file.is_file()]:
        file.unlink()
