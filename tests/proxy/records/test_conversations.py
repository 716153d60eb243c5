from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from hugind.proxy.records.conversations import (
    BATCH_ROWS,
    ConversationLockedError,
    Conversations,
    Order,
    TooLargeError,
)
from hugind.proxy.records.database import Database
from hugind.proxy.records.owned import Reader
from hugind.proxy.records.schema import conversation_items, conversations
from hugind.proxy.sessions.record import Owner
from tests.proxy.records.turns import MIDNIGHT, count

ANN, BOB = Owner("app", "ann"), Owner("app", "bob")
ANNS, BOBS = Reader(ANN, is_delegated=True), Reader(BOB, is_delegated=True)


def items(*names: Any) -> list[dict[str, Any]]:
    return [{"id": str(name), "said": "ä\0"} for name in names]


async def whole(kept: Conversations, conversation_id: str, limit: int = 10**6) -> str:
    """All that was said in one of Ann's or Bob's."""
    found = await kept.find(Reader(Owner("app")), conversation_id)
    assert found is not None
    return ids(await kept.items(found, limit))


def ids(found: list[dict[str, Any]]) -> str:
    return " ".join(item["id"] for item in found)


async def test_made_changed_and_removed(database: Database) -> None:
    """By its owner; for others it does not exist."""
    kept = Conversations(database, lambda: MIDNIGHT)
    made = await kept.create(ANN, {"a": "ü"}, items(1, 2))

    found = await kept.find(ANNS, made.id)
    assert found is not None
    assert (found.id, found.notes, found.end) == (made.id, {"a": "ü"}, 2)
    assert found.created_at == datetime.fromtimestamp(MIDNIGHT, UTC)
    assert await kept.find(ANNS, "conv_\0") is None
    assert await kept.find_item(made.id, "msg_\0") is None
    assert not await kept.remove_item(made.id, "msg_\0")
    assert await kept.find(BOBS, made.id) is None
    assert await kept.note(BOBS, made.id, {}) is None
    assert not await kept.remove(BOBS, made.id)

    changed = await kept.note(ANNS, made.id, {"b": "c"})
    assert changed is not None
    assert {"b": "c"} == changed.notes
    assert await kept.remove(ANNS, made.id)
    assert await kept.find(ANNS, made.id) is None
    assert not await kept.append(made.id, items(3))
    assert 0 == await count(database, conversation_items)


async def test_items_in_order(database: Database) -> None:
    """Said, listed page by page from either end, unsaid."""
    kept = Conversations(database)
    talk = await kept.create(ANN, {}, items(1))
    await kept.create(ANN, {}, items("other"))
    await kept.append(talk.id, items(2, 3))
    await kept.append(talk.id, items(*range(4, 8)))

    async def listed(limit: int, order: Order, after: str | None = None) -> tuple[str, bool]:
        found, more = await kept.list_items(talk.id, limit, order, after)
        return ids(found), more

    assert ("1 2 3", True) == await listed(3, "asc")
    assert ("4 5 6 7", False) == await listed(4, "asc", "3")
    assert ("7 6", True) == await listed(2, "desc")
    assert ("5 4 3 2 1", False) == await listed(9, "desc", "6")
    assert ("1 2", True) == await listed(2, "asc", "nobody")
    assert ("7 6", True) == await listed(2, "desc", "nobody")
    assert items(3)[0] == await kept.find_item(talk.id, "3")
    assert await kept.remove_item(talk.id, "3")
    assert not await kept.remove_item(talk.id, "3")
    assert not await kept.remove_item(talk.id, "other")
    assert await kept.find_item(talk.id, "3") is None
    assert "1 2 4 5 6 7" == await whole(kept, talk.id)


async def test_no_more_than_is_allowed(database: Database) -> None:
    """What does not fit is not said, and what was unsaid makes room."""
    kept = Conversations(database)
    talk = await kept.create(ANN, {}, [])
    size = 4 * len(b'{"id":"1","said":"\\u0000"}') + 4 * 2
    await kept.append(talk.id, items(1, 2, 3, 4), size)

    with pytest.raises(TooLargeError):
        await kept.append(talk.id, items(5), size)
    with pytest.raises(TooLargeError):
        await whole(kept, talk.id, size - 1)
    assert await kept.remove_item(talk.id, "2")
    assert await kept.append(talk.id, items(5), size)
    assert "1 3 4 5" == await whole(kept, talk.id, size)


async def test_at_once(database: Database) -> None:
    """What several say at the same time stays together, and nothing is lost."""
    kept = Conversations(database)
    talk = await kept.create(ANN, {}, [])
    await asyncio.gather(*(kept.append(talk.id, items(f"{number}a", f"{number}b")) for number in range(5)))
    said = (await whole(kept, talk.id)).split()

    assert 10 == len(said)
    assert all(first[0] == second[0] for first, second in zip(said[::2], said[1::2], strict=True))


async def test_one_at_a_time(sqlite_database: Database) -> None:
    """Who makes a response in it has it to themselves."""
    kept = Conversations(sqlite_database)
    with kept.hold("conv_1"), kept.hold("conv_2"), pytest.raises(ConversationLockedError), kept.hold("conv_1"):
        pass
    with kept.hold("conv_1"):
        pass


async def test_forgotten(database: Database) -> None:
    """Of a person, of a principal, and those that nobody used for long."""
    now = MIDNIGHT
    kept = Conversations(database, lambda: now)
    for owner in (ANN, ANN, BOB, Owner("other")):
        await kept.create(owner, {}, items(1))

    assert 2 == await kept.forget("app", "ann")
    assert 1 == await kept.forget("app")
    assert (1, 1) == (await count(database, conversations), await count(database, conversation_items))

    old = [await kept.create(BOB, {}, items(1)) for _ in range(BATCH_ROWS + 3)]
    now += 10
    await kept.append(old[0].id, items(2))
    assert BATCH_ROWS + 3 == await kept.remove_older(datetime.fromtimestamp(MIDNIGHT + 5, UTC))
    assert "1 2" == await whole(kept, old[0].id)
    assert (1, 2) == (await count(database, conversations), await count(database, conversation_items))
