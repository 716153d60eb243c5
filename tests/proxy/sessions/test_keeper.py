"""Whoever comes back finds the conversation where it was left, and nobody else does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from tests.eventually import eventually
from tests.proxy.serving import KEY, Served, chat, connect, endless, http_request, serving
from tests.proxy.sessions.chats import (
    CHAT,
    LONG,
    Person,
    keeper_of,
    session_config,
    sessions_of,
    sessions_served,
    turn_of,
    until_saved,
)
from tests.proxy.sessions.storing import files_in, memory_folder, needs_memory, sessions_folder

pytestmark = needs_memory

ONE_SLOT: Any = {"server": {"max_slots": 1}}


async def leave_and_settle(served: Served, slots: int = 2) -> None:
    """Every slot is free, in our books and the engine's; no session is at its turn."""
    await served.until_free(slots)
    await eventually(lambda: not any(session.turn_lock.locked() for session in sessions_of(served).values()))


def check_books(served: Served) -> None:
    """What is said to be in a slot is known, in one slot only, and nobody has that slot on lease."""
    held = keeper_of(served).held()

    assert len({place for place, _ in held.values()}) == len(held)
    assert all(named in sessions_of(served) for named in held)
    assert all(seat.tenant is None for _, seat in held.values())


# ---- where it was


async def test_new_hot_and_warm(tmp_path: Path) -> None:
    """A conversation stays in its slot; one that had to leave comes back from memory; the id stays the same."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        ann, ben = Person(served, "ann"), Person(served, "ben")
        turns = [await ann.say(), await ann.say(), await ben.say(), await ann.say(), await ben.say()]

    assert ["new", "hot", "new", "warm", "warm"] == [turn.label for turn in turns]
    assert [False, True, False, True, True] == [turn.is_reused for turn in turns]
    assert [0, 0] == [turns[at].cached for at in (0, 2)]
    assert [1, 2] == [len({turn.session for turn in some}) for some in (turns[:2] + turns[3:4], turns)]


async def test_cold(tmp_path: Path) -> None:
    """What is only on disk comes back from there."""
    async with sessions_served(tmp_path, **ONE_SLOT, sessions={"memory_mb": 0}) as served:
        ann, ben = Person(served, "ann"), Person(served, "ben")
        turns = [await ann.say(), await ben.say(), await ann.say()]

    assert ["new", "new", "cold"] == [turn.label for turn in turns]
    assert turns[2].is_reused


async def test_every_answer_tells(tmp_path: Path) -> None:
    """Streamed or not, in every dialect: where the session was, which it is, and how long bringing it back took."""
    body: dict[str, Any] = {"model": "chat", "max_tokens": 4}
    requests: list[tuple[str, dict[str, Any]]] = [
        (CHAT, chat(LONG)),
        (CHAT, chat(LONG, stream=True)),
        ("/v1/completions", {**body, "prompt": LONG}),
        ("/v1/responses", {"model": "chat", "input": LONG}),
        ("/v1/messages", {**body, "messages": [{"role": "user", "content": LONG}]}),
        ("/infill", {**body, "input_prefix": "a"}),
    ]
    async with sessions_served(tmp_path) as served:
        for path, request in requests:
            answer = await served.client.post(path, json=request)

            assert (200, True) == (answer.status_code, answer.headers["x-hugind-session"] in ("new", "hot", "warm"))
            assert answer.headers["x-hugind-session-id"].startswith("ses_")
            assert float(answer.headers["x-hugind-restore-ms"]) >= 0


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/completions"])
async def test_every_dialect_goes_on(tmp_path: Path, path: str) -> None:
    """What was said in one dialect is continued by the next request of it, however often others come in between."""

    def request(*said: str) -> dict[str, Any]:
        if path == "/v1/completions":
            return {"model": "chat", "prompt": "".join(said), "max_tokens": 4}
        messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
        return {"model": "chat", "max_tokens": 4, ("input" if path == "/v1/responses" else "messages"): messages}

    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        first = await served.client.post(path, json=request(LONG * 10))
        await Person(served, "ben").say()
        second = await served.client.post(path, json=request(LONG * 10, "I see.", "Go on."))

    assert 200 == second.status_code
    assert first.headers["x-hugind-session-id"] == second.headers["x-hugind-session-id"]
    assert "warm" == second.headers["x-hugind-session"]


@pytest.mark.parametrize("people", [6])
async def test_many_people_on_two_slots(tmp_path: Path, people: int) -> None:
    """Each is brought back, however many others were there in the meantime."""
    async with sessions_served(tmp_path) as served:
        everybody = [Person(served, f"person {number}", user=f"{number % 3}") for number in range(people)]
        rounds = [await asyncio.gather(*(person.say() for person in everybody)) for _ in range(3)]
        await leave_and_settle(served)
        check_books(served)

    assert {"new"} == {turn.label for turn in rounds[0]}
    assert {True} == {turn.is_reused for later in rounds[1:] for turn in later}
    assert people == len({turn.session for later in rounds for turn in later})


async def test_each_worker_can_bring_anybody_back(tmp_path: Path) -> None:
    """A conversation that one worker saved goes on with another."""
    async with sessions_served(tmp_path, server={"max_slots": 1, "concurrency": 2}) as served:
        ann = Person(served, "ann")
        first = await ann.say()
        await until_saved(served, first.session)
        place = keeper_of(served).held()[first.session][0]
        async with connect(served.port) as guest:  # stays in the other slot, so that others need this one
            await guest.send(http_request(endless()))
            await eventually(lambda: served.leases().free == 1)
            await Person(served, "ben").say()
            psutil.Process(place.worker.process.pid).kill()
            await eventually(lambda: place.worker.has_exited)
        second = await ann.say()

    assert ("warm", True) == (second.label, second.is_reused)


# ---- two at a time


async def test_two_requests_of_one_session_are_served_in_order(tmp_path: Path) -> None:
    """The second waits for the first, even where a slot is free."""
    body = chat(LONG, max_tokens=20, standin={"token_ms": 5})
    async with sessions_served(tmp_path) as served:
        headers = {"X-Hugind-Session": "main"}
        answers = await asyncio.gather(*(served.client.post(CHAT, json=body, headers=headers) for _ in "ab"))
        await leave_and_settle(served)
        labels = sorted(turn_of(answer).label for answer in answers)
        waits = sorted(float(answer.headers["x-hugind-queue-ms"]) for answer in answers)

    assert 1 == len({turn_of(answer).session for answer in answers})
    assert ["hot", "new"] == labels
    assert waits[1] >= 100 > waits[0]


async def test_a_session_that_is_busy_for_too_long(tmp_path: Path) -> None:
    """Who waits for an earlier request of the same session gives up in the end, and may ask again."""
    headers = {"X-Hugind-Session": "main"}
    async with sessions_served(tmp_path, limits={"max_wait_s": 0.2}) as served, connect(served.port) as first:
        await first.send(http_request(endless(), headers=("X-Hugind-Session: main",)))
        await eventually(lambda: served.leases().free == 1)
        answer = await served.client.post(CHAT, json=endless(), headers=headers)

        assert (503, "session_busy") == (answer.status_code, answer.json()["error"]["code"])
        assert "retry-after" in answer.headers
        first.leave()
        await leave_and_settle(served)
        check_books(served)


async def test_the_same_words_at_the_same_time_are_two_conversations(tmp_path: Path) -> None:
    """Nobody waits for a stranger who happens to say the same."""
    body = chat(LONG, max_tokens=20, standin={"token_ms": 5})
    async with sessions_served(tmp_path) as served:
        answers = await asyncio.gather(*(served.client.post(CHAT, json=body) for _ in "ab"))

    assert 2 == len({turn_of(answer).session for answer in answers})
    assert all(float(answer.headers["x-hugind-queue-ms"]) < 100 for answer in answers)


# ---- which it is


async def test_an_edited_history_forks(tmp_path: Path) -> None:
    """Another branch starts from what both have in common, and the first goes on as if nothing had been."""
    async with sessions_served(tmp_path) as served:
        ann = Person(served, "ann")
        first = [await ann.say("one"), await ann.say("two")]
        await until_saved(served, first[0].session)
        edited = await ann.send([*ann.messages[:2], {"role": "user", "content": "three"}])
        back = await ann.say("four")

    assert edited.session != first[0].session
    assert edited.is_reused
    assert {first[0].session} == {turn.session for turn in (*first, back)}
    assert back.is_reused
    assert back.cached >= first[1].total - 1


async def test_a_question_on_the_side_changes_nothing(tmp_path: Path) -> None:
    """A title, a summary: the conversation is where it was, and goes on from all that it had."""
    async with sessions_served(tmp_path) as served:
        ann = Person(served, "ann")
        main = [await ann.say(), await ann.say()]
        titles = [
            await ann.send([{"role": "user", "content": f"Give this a title: {ann.messages[0]['content']}"}]),
            await ann.send([*ann.messages, {"role": "user", "content": "Give this a title."}]),
        ]
        back = await ann.say()

    assert titles[0].session != main[0].session
    assert back.is_reused
    assert back.cached >= main[1].total - 1


@pytest.mark.parametrize("header", [{"X-Hugind-Session": "main"}, {}])
async def test_our_id_may_be_used_as_a_name(tmp_path: Path, header: dict[str, str]) -> None:
    """As `prompt_cache_key`, as header: it names the session that had it."""
    async with sessions_served(tmp_path) as served:
        ann = Person(served, "ann", headers=header)
        first = await ann.say()
        again = Person(served, "ann", prompt_cache_key=first.session)
        again.messages = ann.messages
        second = await again.say()

    assert first.session == second.session


async def test_nobody_reaches_anybody_elses(tmp_path: Path) -> None:
    """Another key, or another `user`, with the same words, name and id: a new session, computed from nothing."""
    keyring = Keyring()
    keyring.add(KEY, Principal("tester"))
    keyring.add("other-key", Principal("other"))
    with memory_folder() as memory:
        config = session_config(tmp_path, memory)
        async with serving(tmp_path, {"chat": config}, keyring=keyring) as served:
            ann = Person(served, "ann", headers={"X-Hugind-Session": "main"})
            first = await ann.say()
            await until_saved(served, first.session)
            for fields, key in (({"user": "ben"}, {}), ({}, {"Authorization": "Bearer other-key"})):
                for name in ("main", first.session):
                    headers = {"X-Hugind-Session": name, **key}
                    thief = Person(served, "ann", headers=headers, **fields)
                    thief.messages = list(ann.messages)
                    turn = await thief.say()

                    assert ("new", 0, False) == (turn.label, turn.cached, turn.session == first.session)


async def test_what_is_not_worth_keeping_is_dropped(tmp_path: Path) -> None:
    """A short conversation is known while it is in a slot, and leaves nothing behind."""
    async with sessions_served(tmp_path, **ONE_SLOT, sessions={"min_tokens": 500}) as served:
        turns = [await Person(served, name).say() for name in "abc"]
        await leave_and_settle(served, slots=1)
        known = list(sessions_of(served))
        there = files_in(sessions_folder(tmp_path))

    assert [turns[-1].session] == known
    assert set() == there


async def test_a_refused_request_is_no_session(tmp_path: Path) -> None:
    """What the engine would not take is not remembered, and the slot is as good as before."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        ann = Person(served, "ann")
        first = await ann.say()
        refused = await served.client.post(
            CHAT, json={"model": "chat", "messages": [*ann.messages, {"role": "user", "content": "x" * 50_000}]}
        )
        await leave_and_settle(served, slots=1)
        check_books(served)
        second = await ann.say()

    assert 400 == refused.status_code
    assert (first.session, True) == (second.session, second.is_reused)


# ---- who leaves


async def test_leaving_while_waiting_for_a_slot(tmp_path: Path) -> None:
    """The place is free for the next, and no session is left of who never had a turn."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served, connect(served.port) as first:
        await first.send(http_request(endless()))
        await eventually(lambda: served.leases().free == 0)
        known = set(sessions_of(served))
        async with connect(served.port) as second:
            await second.send(http_request(chat(LONG)))
            await eventually(lambda: served.leases().waiting == 1)
        await eventually(lambda: served.leases().waiting == 0)
        left = set(sessions_of(served))
        first.leave()
        await leave_and_settle(served, slots=1)
        check_books(served)

        assert known == left
        assert (await Person(served, "ann").say()).label == "new"


async def test_leaving_while_waiting_for_a_turn(tmp_path: Path) -> None:
    """An earlier request of the same session goes on, and so does the session."""
    header = "X-Hugind-Session: main"
    async with sessions_served(tmp_path) as served, connect(served.port) as first:
        await first.send(http_request(endless(), headers=(header,)))
        await eventually(lambda: served.leases().free == 1)
        (session,) = sessions_of(served).values()
        async with connect(served.port) as second:
            await second.send(http_request(endless(), headers=(header,)))
            await eventually(lambda: len(served.server.server_state.tasks) == 2)
        await eventually(lambda: len(served.server.server_state.tasks) == 1)

        assert session.turn_lock.locked()
        first.leave()
        await leave_and_settle(served)
        check_books(served)
        assert [session] == list(sessions_of(served).values())


@pytest.mark.parametrize("times", [5])
async def test_leaving_while_it_is_brought_back(tmp_path: Path, times: int) -> None:
    """At whatever moment: the slot is free again, and the conversation comes back for the next turn."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        ann, ben = Person(served, "ann"), Person(served, "ben")
        first = await ann.say()
        for pause in range(times):
            await ben.say()
            async with connect(served.port) as client:
                body = {"model": "chat", "messages": [*ann.messages, {"role": "user", "content": "and then?"}]}
                await client.send(http_request(body))
                for _ in range(pause * 3):
                    await asyncio.sleep(0)
                client.leave()
            await leave_and_settle(served, slots=1)
            check_books(served)
        back = await ann.say()

    assert (first.session, True) == (back.session, back.is_reused)


async def test_leaving_in_mid_answer(tmp_path: Path) -> None:
    """What was computed is saved, and the same question again, or the next, goes on from there."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        ann = Person(served, "ann")
        first = await ann.say()
        question = [*ann.messages, {"role": "user", "content": "tell me at length"}]
        async with connect(served.port) as client:
            await client.send(http_request(endless(token_ms=1) | {"messages": question}))
            await client.reader.readuntil(b"tok")
            client.leave()
        await leave_and_settle(served, slots=1)
        check_books(served)
        await Person(served, "ben").say()
        back = await ann.send(question)

    assert (first.session, "warm") == (back.session, back.label)
    assert back.cached == back.tokens - 1


# ---- workers come and go


async def test_a_worker_that_is_killed_costs_no_conversation(tmp_path: Path) -> None:
    """What was saved after the last reply is in the next life's slot."""
    async with sessions_served(tmp_path) as served:
        ann, ben = Person(served, "ann"), Person(served, "ben")
        first = await ann.say(), await ben.say()
        await until_saved(served, *(turn.session for turn in first))
        process = served.worker().spawn
        psutil.Process(served.spawn().process.pid).kill()
        await eventually(lambda: served.worker().spawn is not process and served.leases().free == 2)
        check_books(served)
        second = await ann.say(), await ben.say()

    assert ["warm", "warm"] == [turn.label for turn in second]
    assert all(turn.is_reused for turn in second)
    assert [turn.session for turn in first] == [turn.session for turn in second]


@pytest.mark.parametrize("is_memory_lost", [False, True])
async def test_the_next_gateway_goes_on(tmp_path: Path, is_memory_lost: bool) -> None:
    """A stop saves what is in the slots, at last; the next start finds it, after a reboot on disk."""
    with memory_folder() as memory:
        async with sessions_served(tmp_path, memory) as served, connect(served.port) as neighbour:
            await neighbour.send(http_request(endless()))
            await eventually(lambda: served.leases().free == 1)
            ann = Person(served, "ann")
            first = await ann.say()  # held back: the neighbour streams
            was_saved = sessions_of(served)[first.session].newest is not None
        if is_memory_lost:
            for file in files_in(memory):
                (memory / file).unlink()
        async with sessions_served(tmp_path, memory) as served:
            again = Person(served, "ann")
            again.messages = ann.messages
            second = await again.say()

    assert not was_saved
    assert ("cold" if is_memory_lost else "warm", first.session) == (second.label, second.session)
    assert second.is_reused


async def test_another_number_of_slots_keeps_the_conversations(tmp_path: Path) -> None:
    """A start with more or fewer slots rewrites what it brings back."""
    with memory_folder() as memory:
        people: list[Person] = []
        turns = []
        for slots in (2, 3, 1):
            async with sessions_served(tmp_path, memory, server={"max_slots": slots}) as served:
                ann = Person(served, "ann")
                ann.messages = people[-1].messages if people else []
                people.append(ann)
                turns.append(await ann.say())

    assert ["new", "warm", "warm"] == [turn.label for turn in turns]
    assert [False, True, True] == [turn.is_reused for turn in turns]


# ---- without sessions


async def test_switched_off(tmp_path: Path) -> None:
    """Nothing is saved, nothing is kept, and what somebody left in a slot is erased before the next."""
    async with sessions_served(tmp_path, **ONE_SLOT, sessions={"enabled": False}) as served:
        ann, ben = Person(served, "x", user="ann"), Person(served, "x", user="ben")
        turns = [await ann.say(), await ann.say(), await ben.say(), await ann.say()]
        await leave_and_settle(served, slots=1)
        verdict = keeper_of(served).policy.verdict
        in_memory = files_in(keeper_of(served).store.slots.path)

    assert ["new", "hot", "new", "new"] == [turn.label for turn in turns]
    assert [0, 0] == [turn.cached for turn in turns[2:]]
    assert verdict is not None
    assert "sessions.enabled" in verdict.reason
    assert (set(), set()) == (files_in(sessions_folder(tmp_path)), in_memory)


async def test_what_is_not_saved_is_erased_between_owners(tmp_path: Path) -> None:
    """Too short to be worth it is not too short to be read by somebody else."""
    async with sessions_served(tmp_path, **ONE_SLOT, sessions={"min_tokens": 10_000}) as served:
        turns = [await Person(served, "x", user=user).say() for user in ("ann", "ben")]

    assert [("new", 0), ("new", 0)] == [(turn.label, turn.cached) for turn in turns]


# ---- when it is saved


async def test_a_save_waits_while_a_neighbour_streams(tmp_path: Path) -> None:
    """It would be held up; as soon as it is done, the save is made."""
    async with sessions_served(tmp_path) as served, connect(served.port) as neighbour:
        await neighbour.send(http_request(endless()))
        await eventually(lambda: served.leases().free == 1)
        ann = Person(served, "ann")
        turns = [await ann.say() for _ in range(3)]
        (session,) = [sessions_of(served)[turn.session] for turn in turns[:1]]
        before = session.newest
        neighbour.leave()
        await until_saved(served, session.id)

    assert before is None
    assert ["new", "hot", "hot"] == [turn.label for turn in turns]
    assert turns[-1].total == (session.newest.tokens if session.newest else 0)


async def test_a_slot_that_is_needed_is_saved_at_once(tmp_path: Path) -> None:
    """Whoever needs it does not wait for a neighbour, and nothing is lost."""
    async with sessions_served(tmp_path) as served, connect(served.port) as neighbour:
        await neighbour.send(http_request(endless()))
        await eventually(lambda: served.leases().free == 1)
        ann, ben = Person(served, "ann"), Person(served, "ben")
        turns = [await ann.say(), await ben.say(), await ann.say()]

    assert ["new", "new", "warm"] == [turn.label for turn in turns]


async def test_the_latest_is_brought_back(tmp_path: Path) -> None:
    """A snapshot of more tokens is not better if it is older: something was rendered otherwise, or shorter, since."""
    async with sessions_served(tmp_path, **ONE_SLOT) as served:
        ann = Person(served, "ann")
        first = await ann.say("tell me", max_tokens=60)
        session = sessions_of(served)[first.session]
        await eventually(lambda: session.disk)
        store = keeper_of(served).store
        store.settings = store.settings.model_copy(update={"disk_after_s": 3600})
        ann.messages[-1:] = []  # the client asks again
        second = await ann.send([*ann.messages], max_tokens=2)
        await until_saved(served, second.session)
        sizes = [snapshot.tokens for snapshot in (session.memory, session.disk) if snapshot]
        await Person(served, "ben").say()
        third = await ann.send(
            [*ann.messages, {"role": "assistant", "content": second.text}, {"role": "user", "content": "go on"}]
        )

    assert first.session == second.session == third.session
    assert sizes[0] < sizes[1]
    assert ("warm", True) == (third.label, third.cached >= second.total - 1)


# ---- restores that save nothing


async def test_restores_that_save_nothing_are_given_up(tmp_path: Path) -> None:
    """After those of three users in a row, this engine saves and restores no more; everybody is served all the same."""
    keyring = Keyring()
    for name in "abc":
        keyring.add(name, Principal(name))
    with memory_folder() as memory:
        config = session_config(tmp_path, memory, **ONE_SLOT, engine={"extra_args": ("--hollow-after", "2")})
        async with serving(tmp_path, {"chat": config}, keyring=keyring) as served:
            people = [Person(served, name, headers={"Authorization": f"Bearer {name}"}) for name in "abc"]
            turns = [await person.say() for _ in range(3) for person in people]
            verdict = keeper_of(served).policy.verdict
            hollow = [session.hollow for session in sessions_of(served).values()]

    assert ["new"] * 3 + ["warm"] * 3 + ["new"] * 3 == [turn.label for turn in turns]
    assert {0} == {turn.cached for turn in turns}
    assert verdict is not None
    assert not verdict.is_worth_saving
    assert [1, 1, 1] == hollow[:3]
