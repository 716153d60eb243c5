from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hugind.proxy.dialects.responses_items import Ids
from hugind.proxy.records.conversations import TooLargeError
from hugind.proxy.records.database import Database
from hugind.proxy.records.owned import Reader
from hugind.proxy.records.responses import BATCH_ROWS, Past, Responses
from hugind.proxy.records.schema import responses
from hugind.proxy.sessions.record import Owner
from tests.eventually import eventually
from tests.proxy.records.turns import MIDNIGHT, count

DAY_S = 86400
ROOM = 10**6
ANN, BOB = Owner("app", "ann"), Owner("app", "bob")
ANNS, BOBS = Reader(ANN, is_delegated=True), Reader(BOB, is_delegated=True)


class Talker:
    """Makes responses, each of them with one item that was asked and one that was answered."""

    def __init__(self, database: Database, owner: Owner = ANN, now: float = MIDNIGHT) -> None:
        self.now = now
        self.kept = Responses(database, clock=lambda: self.now)
        self._owner = owner
        self._made = 0

    async def say(self, text: str, before: str | None = None) -> str:
        """Its id."""
        past = Past()
        if before is not None:
            found = await self.kept.past(Reader(self._owner), before, ROOM)
            assert found is not None
            past = found
        return await self.add(text, past)

    async def add(self, text: str, past: Past) -> str:
        self._made += 1
        ids = Ids(f"{self._made:032x}")
        given = [{"id": ids.item("msg"), "said": text}]
        body = {"id": ids.response, "output": [{"id": ids.item("msg"), "said": text.upper()}]}
        await self.kept.add(self._owner, body, given, past)
        return ids.response

    async def heard(self, response: str) -> str | None:
        """What was said up to and with a response."""
        past = await self.kept.past(ANNS, response, ROOM)
        return None if past is None else said(past.items)

    async def asked(self, response: str) -> str | None:
        """The same without its own answer."""
        found = await self.kept.inputs(ANNS, response, ROOM)
        return None if found is None else said(found)


def said(items: list[dict[str, Any]]) -> str:
    return " ".join(item["said"] for item in items)


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


async def test_kept_and_found(database: Database) -> None:
    """As it was answered, by its owner only, items by their ids too."""
    talker = Talker(database)
    made = await talker.say("ä\0")
    found = await talker.kept.find(ANNS, made)

    assert found is not None
    item_id = found["output"][0]["id"]
    assert "Ä\0" == found["output"][0]["said"]
    assert {item_id: found["output"][0]} == await talker.kept.items(ANNS, [item_id, "msg_1", item_id[:-1] + "9"])
    assert await talker.kept.find(BOBS, made) is None
    assert await talker.kept.past(BOBS, made, ROOM) is None
    assert await talker.kept.inputs(BOBS, made, ROOM) is None
    assert {} == await talker.kept.items(BOBS, [item_id])
    assert not await talker.kept.remove(BOBS, made)
    for never_made in ("resp_1", "resp_\0"):
        assert await talker.kept.find(ANNS, never_made) is None
        assert not await talker.kept.remove(ANNS, never_made)


async def test_each_is_a_point_to_go_on_from(database: Database) -> None:
    """In as many directions as there are."""
    talker = Talker(database)
    a = await talker.say("a")
    b = await talker.say("b", a)
    c, d = await talker.say("c", b), await talker.say("d", b)

    assert "a A b B c C" == await talker.heard(c)
    assert "a A b B d" == await talker.asked(d)
    assert "a A b B" == await talker.heard(b)
    assert "a" == await talker.asked(a)


async def test_a_long_chain(database: Database) -> None:
    """In order, and no longer than is allowed: its size is known before it is read."""
    talker = Talker(database)
    last = await talker.say("0")
    for number in range(1, 60):
        last = await talker.say(str(number), last)
    past = await talker.kept.past(ANNS, last, ROOM)

    assert past is not None
    assert [str(number // 2) for number in range(120)] == [item["said"] for item in past.items]
    with pytest.raises(TooLargeError) as refused:
        await talker.kept.past(ANNS, last, past.size_bytes - 1)
    assert past.size_bytes == refused.value.size_bytes
    with pytest.raises(TooLargeError):
        await talker.kept.inputs(ANNS, last, 1000)


async def test_removed(database: Database) -> None:
    """What goes on from it remembers it; with the last of them it goes for good."""
    talker = Talker(database)
    a = await talker.say("a")
    b = await talker.say("b", a)
    c = await talker.say("c", b)

    for gone in (a, b):
        assert await talker.kept.remove(ANNS, gone)
        assert not await talker.kept.remove(ANNS, gone)
        assert await talker.kept.find(ANNS, gone) is None
        assert await talker.heard(gone) is None
    assert "a A b B c C" == await talker.heard(c)
    assert 3 == await count(database, responses)
    assert await talker.kept.remove(ANNS, c)
    assert 0 == await count(database, responses)


async def test_in_a_conversation(database: Database) -> None:
    """What was said there up to then; if that is gone, so is what was made of it."""
    talker = Talker(database)
    conversations = talker.kept.conversations
    talk = await conversations.create(ANN, {}, [{"id": "1", "said": "x"}])
    a = await talker.add("a", Past([], 10, None, talk.id, 1))
    await conversations.append(talk.id, [{"id": "2", "said": "later"}])
    b = await talker.say("b", a)
    found = await conversations.find(ANNS, talk.id)

    assert found is not None
    assert "x a A later" == said(await conversations.items(found, ROOM))
    assert "x" == said(await conversations.items(replace(found, end=1), ROOM))
    assert "x a" == await talker.asked(a)
    assert "x a A b B" == await talker.heard(b)
    await conversations.remove(ANNS, talk.id)
    assert await talker.heard(b) is None
    assert await talker.asked(a) is None
    assert await talker.kept.find(ANNS, a) is not None
    assert not await talker.kept.add(ANN, {"id": "resp_1", "output": []}, [], Past([], 10, None, talk.id, 1))
    assert await talker.kept.find(ANNS, "resp_1") is None


async def test_of_the_conversation_alone(database: Database) -> None:
    """A response that is not stored is heard there."""
    talker = Talker(database)
    talk = await talker.kept.conversations.create(ANN, {}, [])
    answer = {"id": "resp_1", "output": [{"id": "2", "said": "A"}]}
    assert await talker.kept.add(
        ANN, answer, [{"id": "1", "said": "a"}], Past([], 0, None, talk.id, 0), is_stored=False
    )
    found = await talker.kept.conversations.find(ANNS, talk.id)

    assert found is not None
    assert "a A" == said(await talker.kept.conversations.items(found, ROOM))
    assert await talker.kept.find(ANNS, "resp_1") is None


async def test_forgotten(database: Database) -> None:
    """Of a person, of a principal; what others made of it cannot be gone on from."""
    ann, bob = Talker(database), Talker(database, Owner("app", "bob"))
    bob._made = 100
    a = await ann.say("a")
    past = await ann.kept.past(ANNS, a, ROOM)
    assert past is not None
    b = await bob.add("b", past)
    await ann.kept.conversations.create(ANN, {}, [])

    assert 2 == await ann.kept.forget("app", "ann")
    assert await bob.kept.past(BOBS, b, ROOM) is None
    assert await bob.kept.find(BOBS, b) is not None
    assert 1 == await ann.kept.forget("app")
    assert 0 == await count(database, responses)


async def test_old_ones_are_removed(database: Database) -> None:
    """Unless something younger goes on from them; deleted ones as soon as nothing does."""
    talker = Talker(database)
    a = await talker.say("a")
    b = await talker.say("b", a)
    lone = await talker.say("lone", b)
    talker.now += 10 * DAY_S
    young = await talker.say("young", b)

    assert 1 == await talker.kept.remove_older(at(MIDNIGHT + DAY_S))
    assert await talker.kept.find(ANNS, lone) is None
    assert "a A b B young YOUNG" == await talker.heard(young)
    await talker.kept.remove(ANNS, young)
    assert 2 == await talker.kept.remove_older(at(MIDNIGHT + DAY_S))
    assert 0 == await count(database, responses)


async def test_an_old_conversation_that_is_gone_on_from(database: Database) -> None:
    """It stays as long as what a younger response goes back to."""
    talker = Talker(database)
    conversations = talker.kept.conversations
    talk = await conversations.create(ANN, {}, [{"id": "1", "said": "x"}])
    past = Past(items=[{"id": "1", "said": "x"}], conversation_id=talk.id, conversation_end=1)
    first = await talker.add("a", past)
    talker.now += 10 * DAY_S
    young = await talker.say("young", first)

    assert 0 == await talker.kept.remove_older(at(MIDNIGHT + DAY_S))
    assert "x a A young YOUNG" == await talker.heard(young)
    await talker.kept.remove(ANNS, young)
    assert 2 == await talker.kept.remove_older(at(MIDNIGHT + DAY_S))


async def test_many_old_ones(sqlite_database: Database) -> None:
    """In short transactions."""
    talker = Talker(sqlite_database)
    for number in range(BATCH_ROWS + 5):
        await talker.say(str(number))
    await talker.kept.conversations.create(ANN, {}, [])

    assert BATCH_ROWS + 6 == await talker.kept.remove_older(at(MIDNIGHT + 1))


async def test_retention(sqlite_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """From the start on, by the clock."""
    caplog.set_level(logging.INFO)
    talker = Talker(sqlite_database)
    await talker.say("a")
    async with Responses(sqlite_database, 0, lambda: MIDNIGHT + 99 * DAY_S):
        assert 1 == await count(sqlite_database, responses)
    async with Responses(sqlite_database, 30, lambda: MIDNIGHT + 31 * DAY_S):
        await eventually(lambda: "removed 1 rows of responses" in caplog.text)
    assert 0 == await count(sqlite_database, responses)
