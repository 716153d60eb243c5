"""What was said is remembered for those who need it later: whole, as it would be said again, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from hugind.proxy.sessions.history import History
from hugind.proxy.sessions.record import Session
from hugind.proxy.sessions.selftest import Ability, Verdict
from hugind.proxy.sessions.stores import Shelf
from hugind.proxy.sessions.transcript import Talk
from tests.proxy.serving import Served, chat, serving, standin_config
from tests.proxy.sessions.parts import idle
from tests.proxy.sessions.storing import ENGINE, memory_folder, needs_memory, talk_of

pytestmark = needs_memory

CHAT = "/v1/chat/completions"

Message = dict[str, Any]


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


class Remembering:
    """A history over a real store. `shelf.scribe` writes when it is told."""

    def __init__(self, history: History, shelf: Shelf) -> None:
        self.history = history
        self.shelf = shelf

    def session(self, *, is_kept: bool = True) -> Session:
        """A new one."""
        return self.shelf.store.create(talk_of("hello", name="mine", is_kept=is_kept))

    async def whole(self, session: Session, *messages: Message) -> list[Any]:
        """What a request with these messages is to the engine."""
        return await self.history.whole(session, talk(*messages, is_kept=True))


def talk(*messages: Message, is_kept: bool = False) -> Talk:
    return Talk(talk_of("hello").scope, (), messages=list(messages), is_kept=is_kept)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def at(tmp_path: Path, memory: Path) -> Iterator[Remembering]:
    """Of a model that can be restored from any beginning."""
    with idle(tmp_path, memory) as made:
        made.policy.verdict = Verdict(Ability.ANY_PREFIX, "good")
        shelf = made.shelf
        yield Remembering(History(shelf, made.policy), shelf)


@pytest.fixture
def extended(tmp_path: Path, memory: Path) -> Iterator[Remembering]:
    """Of a model that can only be extended."""
    with idle(tmp_path, memory) as made:
        made.policy.verdict = Verdict(Ability.EXTENSION, "good")
        shelf = made.shelf
        yield Remembering(History(shelf, made.policy), shelf)


def stream(*deltas: dict[str, Any], error: str | None = None) -> list[bytes]:
    """An engine's answer, as it was recorded: in pieces that end anywhere."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    if error is None:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    else:
        chunks.append({"error": {"code": 500, "message": error, "type": "server_error"}})
    data = b"".join(
        b"data: " + orjson.dumps({"id": "1", "model": "m", "created": 1, **chunk}) + b"\n\n" for chunk in chunks
    )
    data += b"" if error else b"data: [DONE]\n\n"
    return [data[at : at + 7] for at in range(0, len(data), 7)]


# ---- whole histories


async def test_only_what_is_new_is_sent(at: Remembering) -> None:
    """The engine gets all that was said so far, and what is new behind it."""
    session = at.session()
    first = await at.whole(session, system("Be brief."), user("Hello."))
    at.history.note_reply(session, {"messages": first}, stream({"content": "Hi."}))
    second = await at.whole(session, user("And then?"))

    assert [system("Be brief."), user("Hello.")] == first
    assert [system("Be brief."), user("Hello."), assistant("Hi."), user("And then?")] == second


@pytest.mark.parametrize("before", [[], [system("Be brief.")], [system("Be brief."), system("Be kind.")]])
@pytest.mark.parametrize("role", ["system", "developer"])
async def test_another_system_prompt(at: Remembering, before: list[Message], role: str) -> None:
    """It takes the place of those that there were, if there were any."""
    session = at.session()
    session.messages = [*before, user("Hello."), assistant("Hi.")]
    after = {"role": role, "content": "Be wordy."}

    assert [after, user("Hello."), assistant("Hi."), user("So?")] == await at.whole(session, after, user("So?"))


async def test_what_was_written_down(at: Remembering) -> None:
    """After a restart the history is read from the disk."""
    session = at.session()
    said = [user("Hello."), assistant("Hi.")]
    session.turns = 1
    at.shelf.scribe.note(session, said)
    await at.shelf.scribe.flush()
    session.messages = None

    assert [*said, user("So?")] == await at.whole(session, user("So?"))


async def test_nothing_was_said_yet(at: Remembering) -> None:
    """A new session has no history, and a request without messages adds nothing."""
    session = at.session()

    assert [user("Hello.")] == await at.whole(session, user("Hello."))
    assert [] == await at.history.whole(session, Talk(talk().scope, (), is_kept=True))


async def test_asking_changes_nothing(at: Remembering) -> None:
    """What is known stays as it was until the answer has come."""
    session = at.session()
    session.messages = [user("Hello."), assistant("Hi.")]
    await at.whole(session, system("Be wordy."), user("So?"))

    assert [user("Hello."), assistant("Hi.")] == session.messages


# ---- replies


async def test_a_reply(at: Remembering) -> None:
    """It is remembered behind what was asked, and noted to be written down."""
    session = at.session()
    at.history.note_reply(session, {"messages": [user("Hello.")]}, stream({"content": "H"}, {"content": "i."}))

    assert [user("Hello."), assistant("Hi.")] == session.messages == at.shelf.scribe.noted(session)


async def test_thinking_is_left_out(at: Remembering) -> None:
    """Clients do not send it again, and templates leave it out."""
    session = at.session()
    thought = stream({"reasoning_content": "Let me see."}, {"content": "Hi."})
    at.history.note_reply(session, {"messages": [user("Hello.")]}, thought)

    assert [user("Hello."), assistant("Hi.")] == session.messages


async def test_tool_calls(at: Remembering) -> None:
    """They are part of what was said."""
    session = at.session()
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    at.history.note_reply(session, {"messages": [user("Look.")]}, stream({"tool_calls": [call]}))

    assert session.messages
    (said,) = session.messages[1]["tool_calls"]
    assert ("call_1", {"name": "look", "arguments": "{}"}) == (said["id"], said["function"])


@pytest.mark.parametrize("recorded", [None, stream({"content": "Hi"}, error="Compute error."), stream()[:-8]])
async def test_no_reply(at: Remembering, recorded: list[bytes] | None) -> None:
    """What was not recorded, ended with an error or was cut off is not remembered."""
    session = at.session()
    before = session.messages = [user("Hello."), assistant("Hi.")]
    at.history.note_reply(session, {"messages": [*before, user("So?")]}, recorded)

    assert [user("Hello."), assistant("Hi.")] == session.messages
    assert None is at.shelf.scribe.noted(session)


async def test_a_reply_to_a_plain_prompt(extended: Remembering) -> None:
    """It has no messages: nothing is remembered."""
    session = extended.session(is_kept=False)
    extended.history.note_reply(session, {"prompt": "Hello."}, stream({"content": "Hi."}))

    assert None is session.messages


async def test_a_reply_that_is_not_kept(extended: Remembering) -> None:
    """It is remembered until the slot is saved, and not written down before."""
    session = extended.session(is_kept=False)
    extended.history.note_reply(session, {"messages": [user("Hello.")]}, stream({"content": "Hi."}))

    assert [user("Hello."), assistant("Hi.")] == session.messages
    assert None is extended.shelf.scribe.noted(session)


# ---- requests


async def test_what_a_request_says(at: Remembering) -> None:
    """It is known from when it goes out, with all that shapes its prompt and nothing else."""
    session = at.session(is_kept=False)
    more = {"tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": False}}
    at.history.note_request(session, {"messages": [user("Hello.")], "temperature": 1, **more})

    assert ([user("Hello.")], more) == (session.messages, session.template)


async def test_a_request_of_a_kept_session(at: Remembering) -> None:
    """Nothing of it is remembered before the answer: an aborted turn was never said."""
    session = at.session()
    session.messages = [user("Hello."), assistant("Hi.")]
    at.history.note_request(session, {"messages": [*session.messages, user("So?")]})

    assert [user("Hello."), assistant("Hi.")] == session.messages


async def test_a_plain_prompt(at: Remembering) -> None:
    """It has no messages to remember."""
    session = at.session(is_kept=False)
    at.history.note_request(session, {"prompt": "Hello."})

    assert (None, {}) == (session.messages, session.template)


# ---- who wants the answer


def test_nobody_wants_it(at: Remembering) -> None:
    """The answer is not read where neither a history is kept nor a model can only be extended."""

    assert [False, True] == [at.history.wants_reply(talk(user("Hello."), is_kept=kept)) for kept in (False, True)]


def test_a_model_that_can_only_be_extended(extended: Remembering) -> None:
    """The answers of its chats are wanted; a plain prompt cannot be rendered anew."""
    plain = Talk(talk().scope, ())

    assert [True, False] == [extended.history.wants_reply(one) for one in (talk(user("Hello.")), plain)]


# ---- through a gateway


@asynccontextmanager
async def keeping(folder: Path, memory: Path) -> AsyncIterator[Served]:
    """A gateway that keeps the histories of who says who they are."""
    config = standin_config(folder, chat={"history": "server"}, sessions={"memory_folder": str(memory)})
    async with serving(folder, {ENGINE: config}) as served:
        yield served


def say(text: str, **fields: Any) -> dict[str, Any]:
    """A request of somebody whose history is kept."""
    return chat(text, user="alice", **fields)


async def test_an_aborted_turn(tmp_path: Path, memory: Path) -> None:
    """Neither what was asked nor half an answer is remembered: the client may ask again."""
    async with keeping(tmp_path, memory) as served:
        slow = say("Wait!", stream=True, max_tokens=1000, standin={"token_ms": 5})
        first = await served.client.post(CHAT, json=say("Hello.", standin={"reply": "Hi."}))
        async with served.client.stream("POST", CHAT, json=slow) as response:
            await anext(response.aiter_raw())
        await served.until_free(2)
        (session,) = served.gateway.keeper(served.engine()).store.sessions.values()

        assert 200 == first.status_code
        assert [user("Hello."), assistant("Hi.")] == session.messages


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_turn(tmp_path: Path, memory: Path, is_streamed: bool) -> None:
    """However it is answered, it is remembered."""
    async with keeping(tmp_path, memory) as served:
        for text, reply in (("Hello.", "Hi."), ("So?", "Well.")):
            body = say(text, stream=is_streamed, standin={"reply": reply})
            assert 200 == (await served.client.post(CHAT, json=body)).status_code
        await served.until_free(2)
        (session,) = served.gateway.keeper(served.engine()).store.sessions.values()

        assert [user("Hello."), assistant("Hi."), user("So?"), assistant("Well.")] == session.messages
