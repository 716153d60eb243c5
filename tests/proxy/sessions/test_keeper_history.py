"""Histories that are kept here: clients send what is new, and nobody else's words are in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.proxy.serving import Served, connect, endless, http_request
from tests.proxy.sessions.chats import CHAT, LONG, Person, Turn, sessions_of, sessions_served, turn_of
from tests.proxy.sessions.storing import files_in, memory_folder, needs_memory, sessions_folder

pytestmark = needs_memory

KEPT = {"X-Hugind-History": "server"}
ONE_SLOT: Any = {"server": {"max_slots": 1}}


async def say(served: Served, text: str, *, user: str = "ann", headers: dict[str, str] = KEPT, **fields: Any) -> Turn:
    """One new message, and nothing of what was said before."""
    messages = [{"role": "user", "content": text}]
    body = {"model": "chat", "messages": messages, "max_tokens": 4, "user": user, **fields}
    return turn_of(await served.client.post(CHAT, json=body, headers=headers))


def said(served: Served, turn: Turn) -> list[str]:
    """What is remembered of a session, as far as it can be told from its texts."""
    return [message["content"] for message in sessions_of(served)[turn.session].messages or []]


async def test_only_what_is_new_is_sent(tmp_path: Path) -> None:
    """The engine gets the whole conversation, the reply is remembered, and the KV is reused as ever."""
    async with sessions_served(tmp_path) as served:
        turns = [await say(served, LONG), await say(served, "and then?"), await say(served, "and then?")]
        remembered = said(served, turns[-1])

    assert [LONG, turns[0].text, "and then?", turns[1].text, "and then?", turns[2].text] == remembered
    assert 1 == len({turn.session for turn in turns})
    assert [False, True, True] == [turn.is_reused for turn in turns]
    assert turns[2].tokens > turns[1].total


async def test_it_is_the_same_as_sending_all(tmp_path: Path) -> None:
    """The engine sees the same prompt as from a client that keeps its own history."""
    async with sessions_served(tmp_path) as served:
        ann = Person(served, "x")
        own = [await ann.say(), await ann.say(), await ann.say()]
        kept = [await say(served, text, max_tokens=8) for text in (ann.messages[0]["content"], *["and then?"] * 2)]

    assert [turn.tokens for turn in own] == [turn.tokens for turn in kept]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_streams_are_remembered_too(tmp_path: Path, is_stream: bool) -> None:
    """However the client wanted the answer."""
    async with sessions_served(tmp_path) as served:
        body = {"model": "chat", "messages": [{"role": "user", "content": LONG}], "user": "ann", "stream": is_stream}
        await served.client.post(CHAT, json={**body, "standin": {"reply": "once upon a time"}}, headers=KEPT)
        turn = await say(served, "and then?")
        remembered = said(served, turn)

    assert [LONG, "once upon a time", "and then?", turn.text] == remembered


@pytest.mark.parametrize("reply", ["breaks off", "is left", "is an error", "is refused"])
async def test_what_did_not_come_to_its_end_was_not_said(tmp_path: Path, reply: str) -> None:
    """Neither the question nor half an answer; the same question can be asked again."""
    faults = {"breaks off": {"die_after_tokens": 2, "token_ms": 1}, "is an error": {"error_after_tokens": 0}}
    async with sessions_served(tmp_path) as served:
        first = await say(served, LONG)
        body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "lost"}], "user": "ann"}
        if reply == "is left":
            async with connect(served.port) as client:
                await client.send(http_request(endless(token_ms=1) | body, headers=("X-Hugind-History: server",)))
                await client.reader.readuntil(b"tok")
        elif reply == "is refused":
            body["messages"][0]["content"] = "x" * 100_000
            await served.client.post(CHAT, json=body, headers=KEPT)
        else:
            await served.client.post(CHAT, json={**body, "stream": True, "standin": faults[reply]}, headers=KEPT)
        await served.until_free(2)
        second = await say(served, "and then?")
        remembered = said(served, second)

    assert first.session == second.session
    assert [LONG, first.text, "and then?", second.text] == remembered


async def test_each_has_their_own(tmp_path: Path) -> None:
    """Another user, another name, or no history to be kept: another conversation."""
    async with sessions_served(tmp_path) as served:
        ann = await say(served, LONG)
        others = [
            await say(served, LONG, user="ben"),
            await say(served, LONG, headers={**KEPT, "X-Hugind-Session": "other"}),
            await say(served, LONG, headers={}),
            await say(served, LONG, headers={"X-Hugind-History": "client"}),
        ]
        again = await say(served, "and then?")
        remembered = [said(served, turn) for turn in (again, others[0], others[1])]

    assert ann.session == again.session
    assert ann.session not in {turn.session for turn in others}
    assert [LONG, ann.text, "and then?", again.text] == remembered[0]
    assert [[LONG, turn.text] for turn in others[:2]] == remembered[1:]


async def test_several_conversations_of_one_user(tmp_path: Path) -> None:
    """By the names that the client gives them."""
    async with sessions_served(tmp_path) as served:
        one, two = ({**KEPT, "X-Hugind-Session": name} for name in ("one", "two"))
        first = [await say(served, f"{name} {LONG}", headers=name) for name in (one, two)]
        second = [await say(served, "and then?", headers=name) for name in (one, two)]

    assert [turn.session for turn in first] == [turn.session for turn in second]
    assert 2 == len({turn.session for turn in first})


async def test_two_at_once_are_put_in_order(tmp_path: Path) -> None:
    """No turn is lost, and each sees those before it."""
    async with sessions_served(tmp_path) as served:
        first = await say(served, LONG)
        turns = await asyncio.gather(*(say(served, f"number {number}") for number in range(4)))
        last = await say(served, "and then?")
        remembered = said(served, last)

    assert 1 == len({turn.session for turn in (first, *turns, last)})
    assert {f"number {number}" for number in range(4)} < set(remembered)
    assert 12 == len(remembered)


async def test_another_system_prompt_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """And stays."""
    async with sessions_served(tmp_path) as served:
        for prompt in ("Be kind.", "Be brief."):
            messages = [{"role": "system", "content": prompt}, {"role": "user", "content": LONG}]
            body = {"model": "chat", "messages": messages, "user": "ann", "max_tokens": 4}
            turn = turn_of(await served.client.post(CHAT, json=body, headers=KEPT))
        turn = await say(served, "and then?")
        remembered = said(served, turn)

    assert ["Be brief.", LONG] == remembered[:2]
    assert "Be kind." not in remembered
    assert 7 == len(remembered)


@pytest.mark.parametrize("sessions", [{}, {"encrypt": True}, {"enabled": False}], ids=str)
async def test_the_next_gateway_remembers(tmp_path: Path, sessions: dict[str, Any]) -> None:
    """Whether KV is saved or not: what was said is on disk, and with a key nobody else can read it."""
    with memory_folder() as memory:
        async with sessions_served(tmp_path, memory, sessions=sessions) as served:
            first = await say(served, LONG)
        async with sessions_served(tmp_path, memory, sessions=sessions) as served:
            second = await say(served, "and then?")
            remembered = said(served, second)
    talks = [sessions_folder(tmp_path) / name for name in files_in(sessions_folder(tmp_path)) if ".talk" in name]

    assert first.session == second.session
    assert [LONG, first.text, "and then?", second.text] == remembered
    assert 1 == len(talks)
    assert not sessions.get("encrypt") or b"tale" not in talks[0].read_bytes()


async def test_a_session_that_is_kept_is_not_dropped(tmp_path: Path) -> None:
    """Too short to be saved, and out of its slot: what was said is known."""
    async with sessions_served(tmp_path, **ONE_SLOT, sessions={"min_tokens": 10_000}) as served:
        first = await say(served, "hello")
        await Person(served, "ben").say()
        second = await say(served, "and then?")
        remembered = said(served, second)

    assert (first.session, "new") == (second.session, second.label)
    assert ["hello", first.text, "and then?", second.text] == remembered


async def test_the_config_may_say_so(tmp_path: Path) -> None:
    """`chat.history: server` keeps what has a name; a header says otherwise for one request."""
    async with sessions_served(tmp_path, chat={"history": "server"}) as served:
        first = await say(served, LONG, headers={})
        second = await say(served, "and then?", headers={})
        own = await say(served, "and then?", headers={"X-Hugind-History": "client"})
        nameless = [await Person(served, "x").say() for _ in "ab"]

    assert first.session == second.session != own.session
    assert second.tokens > own.tokens
    assert nameless[0].tokens == nameless[1].tokens


@pytest.mark.parametrize("headers", [KEPT, {"X-Hugind-History": "elsewhere", "X-Hugind-Session": "a"}])
async def test_what_cannot_be_kept(tmp_path: Path, headers: dict[str, str]) -> None:
    """A history without a name, or kept by nobody we know, is the client's mistake."""
    async with sessions_served(tmp_path) as served:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
        answer = await served.client.post(CHAT, json=body, headers=headers)
        await eventually(lambda: not sessions_of(served))

    assert 400 == answer.status_code


@pytest.mark.parametrize("flags", [(), ("--extend-only",)])
async def test_a_reply_is_read_only_where_it_is_needed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Where any beginning can be restored, answers pass unread; else the conversation is saved with the last one."""
    async with sessions_served(tmp_path, engine={"extra_args": flags}, sessions={"min_tokens": 10_000}) as served:
        ann = Person(served, "ann")
        turn = await ann.say()
        remembered = said(served, turn)

    assert [message["content"] for message in ann.messages[: 2 if flags else 1]] == remembered


@pytest.mark.parametrize("flags", [(), ("--extend-only",)])
async def test_a_model_that_can_only_be_extended_comes_back(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Its slot is rendered as the next turn will begin, thinking left out, before it is saved."""
    async with sessions_served(tmp_path, **ONE_SLOT, engine={"extra_args": flags}) as served:
        ann, ben = Person(served, "ann"), Person(served, "ben")
        turns = [turn for _ in range(3) for turn in (await ann.say(), await ben.say())]

    assert ["new", "new", "warm", "warm", "warm", "warm"] == [turn.label for turn in turns]
    assert all(turn.is_reused for turn in turns[2:])
