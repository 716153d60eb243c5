"""The client of the session bench: what it reads of an answer, and what it remembers."""

from __future__ import annotations

import orjson
import pytest

from hugind.cli.bench.conversation import Chat, Conversation, Turn
from hugind.cli.bench.target import LoadError, Target
from tests.cli.bench.scripted_server import scripted_server

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
    b"x-hugind-session: warm\r\nx-hugind-restore-ms: 4.500\r\n\r\n"
)
USAGE = {"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 12}}


def event(**content: object) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def piece(**delta: object) -> bytes:
    return event(choices=[{"delta": delta}])


ANSWER = (
    *(HEAD, piece(role="assistant", content=None), piece(content="He"), piece(content="llo")),
    event(choices=[], usage=USAGE, timings={"prompt_ms": 3.25, "predicted_ms": 1}) + b"data: [DONE]\n\n",
)


def chat(target: Target) -> Chat:
    return Chat("it", "http://{}:{}".format(*target.address), model="m", key="k")


async def test_reads_what_a_client_sees() -> None:
    """Text, counts, where the KV came from and where the time went; the first piece is the first with text in it."""
    at: list[float] = []
    async with scripted_server(*ANSWER, then_close=True) as target, chat(target) as it:
        turn = await it.ask([{"role": "user", "content": "Hi"}], on_piece=at.append)

    assert ("Hello", 20, 12, "warm") == (turn.text, turn.prompt_tokens, turn.cached_tokens, turn.label)
    assert 8 == turn.computed_tokens
    assert {"restore": 4.5, "prompt": 3.25} == turn.parts_ms
    assert 2 == len(at)
    assert turn.ttft_ms > 0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy",), "it: status 503: busy"),
        ((HEAD, event(error={"message": "out of memory"})), "it: the answer is not whole: .*out of memory"),
        ((HEAD, piece(content="He")), "it: the answer is not whole: 'He'"),
    ],
)
async def test_what_is_no_answer_is_an_error(answer: tuple[bytes, ...], problem: str) -> None:
    """A refusal, an error in the stream, a stream that breaks off: no sample."""
    async with scripted_server(*answer, then_close=True) as target, chat(target) as it:
        conversation = Conversation("somebody", seed=0)
        with pytest.raises(LoadError, match=problem):
            await conversation.take_turn(it, 10)

    assert [] == conversation.messages


async def test_conversation_grows() -> None:
    """Each turn says so many characters more, and the answer is part of the next request."""
    async with scripted_server(*ANSWER, then_close=True) as target, chat(target) as it:
        conversation, twin = Conversation("somebody", seed=5), Conversation("somebody", seed=5)
        turns = [await conversation.take_turn(it, characters) for characters in (200, 1)]
        await twin.take_turn(it, 200)
        other = twin.copy()
        await other.take_turn(it, 3)

    assert all(isinstance(turn, Turn) for turn in turns)
    assert ["user", "assistant"] * 2 == [message["role"] for message in conversation.messages]
    assert [200, 5, 1, 5] == [len(message["content"]) for message in conversation.messages]
    assert twin.messages == conversation.messages[:2]
    assert 4 == len(other.messages)
