"""From a request to its conversation: whose it is, what it is called, and what clients may not send."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from hugind.proxy.errors import ApiError
from hugind.proxy.sessions.record import Owner
from hugind.proxy.sessions.talks import (
    HISTORY_HEADER,
    MAX_NAME,
    SESSION_HEADER,
    Header,
    bare_talk,
    chat_talk,
    owner_of,
    responses_talk,
    text_talk,
)
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain, text_chain

SCOPE = Scope(Owner("app"), "chat", "f")
ANNS = Scope(Owner("app", "ann"), "chat", "f")
SYSTEM = {"role": "system", "content": "be kind"}
HELLO = {"role": "user", "content": "hello"}
KINDS = (
    lambda header, request: chat_talk(SCOPE, header, {"messages": [HELLO], **request}, history="client"),
    lambda header, request: text_talk(SCOPE, header, {"prompt": "hello", **request}),
    lambda header, request: responses_talk(SCOPE, header, request, request.get("input", [HELLO])),
    lambda header, request: bare_talk(SCOPE, header, request),
)
IDS = ("chat", "text", "responses", "bare")


def sent(session: bytes | None = None, history: bytes | None = None) -> Header:
    """The headers of a request."""
    return {SESSION_HEADER: session, HISTORY_HEADER: history}.get


NO_HEADERS = sent()


def chat(
    *messages: Any, scope: Scope = SCOPE, header: Header = NO_HEADERS, history: str = "client", **request: Any
) -> Talk:
    return chat_talk(scope, header, {"messages": list(messages), **request}, history=history)


# ---- whose


@pytest.mark.parametrize(
    ("request_", "user"),
    [
        ({}, None),
        ({"user": "ann"}, "ann"),
        ({"safety_identifier": "ann"}, "ann"),
        ({"metadata": {"user_id": "ann"}}, "ann"),
        ({"user": "ann", "safety_identifier": "bob", "metadata": {"user_id": "carl"}}, "ann"),
        ({"user": "", "safety_identifier": "bob"}, "bob"),
        ({"user": 5, "metadata": {"user_id": "carl"}}, "carl"),
        ({"user": None, "safety_identifier": ["x"], "metadata": "ann"}, None),
        ({"metadata": {"user_id": 5}}, None),
    ],
    ids=str,
)
def test_owner(request_: dict[str, Any], user: str | None) -> None:
    """The `user` of OpenAI, old or new, or of Anthropic, says which of the principal's people asks."""
    assert Owner("app", user) == owner_of("app", None, request_)


def test_a_user_is_not_a_principal() -> None:
    """Whatever `user` says, the conversation stays the principal's."""
    owner = owner_of("app", None, {"user": "other"})

    assert ("app", "other") == (owner.principal, owner.user)
    assert owner != owner_of("other", None, {})
    assert owner.digest != owner_of("other", None, {}).digest


# ---- what it is called


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize(
    ("header", "request_", "name"),
    [
        (sent(), {}, None),
        (sent(b"x"), {}, "x"),
        (sent(), {"prompt_cache_key": "x"}, "x"),
        (sent(), {"conversation": "x"}, "x"),
        (sent(), {"conversation": {"id": "x"}}, "x"),
        (sent(b"x"), {"prompt_cache_key": "y", "conversation": "z"}, "x"),
        (sent(), {"prompt_cache_key": "y", "conversation": "z"}, "y"),
        (sent(b""), {"prompt_cache_key": "", "conversation": {"id": "z"}}, "z"),
        (sent(), {"prompt_cache_key": 5, "conversation": {"id": None}}, None),
        (sent("ö".encode()), {}, "ö"),
        (sent(b"\xff"), {}, "\ufffd"),
        (sent(b"n" * MAX_NAME), {}, "n" * MAX_NAME),
    ],
)
def test_name(kind: Any, header: Header, request_: dict[str, Any], name: str | None) -> None:
    """The header wins, then the key for the cache, then the conversation; on every route."""
    talk = kind(header, request_)

    assert (name, SCOPE, False) == (talk.name, talk.scope, talk.is_kept)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize(
    ("header", "request_"),
    [
        (sent(b"n" * (MAX_NAME + 1)), {}),
        (sent(), {"prompt_cache_key": "n" * (MAX_NAME + 1)}),
        (sent(), {"conversation": {"id": "n" * (MAX_NAME + 1)}}),
    ],
)
def test_a_name_that_is_too_long(kind: Any, header: Header, request_: dict[str, Any]) -> None:
    """It is refused, with the limit."""
    with pytest.raises(ApiError) as caught:
        kind(header, request_)

    assert (400, "the id of a session has at most 256 characters") == (caught.value.status, caught.value.message)


# ---- what it says


def test_chat() -> None:
    """The chain of all messages; those of the system at the start are its head."""
    talk = chat(SYSTEM, SYSTEM, HELLO)

    assert Talk(SCOPE, chat_chain(SCOPE, [SYSTEM, SYSTEM, HELLO]), 2, None, [SYSTEM, SYSTEM, HELLO]) == talk


@pytest.mark.parametrize(
    ("messages", "head"), [([], 0), ([SYSTEM], 0), ([SYSTEM, SYSTEM], 1), ([SYSTEM, HELLO], 1), ([HELLO, SYSTEM], 0)]
)
def test_head(messages: list[Any], head: int) -> None:
    """The last message is always what is asked."""
    assert head == chat(*messages).head


@pytest.mark.parametrize("messages", [None, "hello", {"role": "user"}, 5])
def test_no_messages(messages: Any) -> None:
    """What makes no sense says nothing; the engine will tell what is wrong."""
    request = {"messages": messages, "prompt_cache_key": "x"}

    assert Talk(SCOPE, (), name="x") == chat_talk(SCOPE, sent(), request, history="server")


def test_text() -> None:
    """A prompt of text is known by its blocks; one of tokens, or several at once, by a name only."""
    assert Talk(SCOPE, text_chain(SCOPE, "hello")) == text_talk(SCOPE, sent(), {"prompt": "hello"})
    for prompt in ([1, 2], ["hello", "hi"], None):
        assert Talk(SCOPE, (), name="x") == text_talk(SCOPE, sent(b"x"), {"prompt": prompt})


def test_responses() -> None:
    """As a chat, whoever keeps the histories of those."""
    messages = [SYSTEM, HELLO, HELLO]
    assert chat(*messages) == responses_talk(SCOPE, sent(history=b"server"), {"input": "x"}, messages)
    assert Talk(SCOPE, chat(SYSTEM).chain, 0, "x", [SYSTEM]) == responses_talk(SCOPE, sent(b"x"), {}, [SYSTEM])


def test_bare() -> None:
    """Of a route with prompts of its own nothing is compared."""
    assert Talk(SCOPE, (), name="x") == bare_talk(SCOPE, sent(b"x"), {"prompt": "hello", "messages": [HELLO]})


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]], ids=["chat", "responses"])
def test_nested_too_deeply(kind: Any) -> None:
    """What can be read but never be sent on is refused before it breaks anything."""
    deep = orjson.loads("[" * 400 + "]" * 400)
    with pytest.raises(ApiError) as caught:
        kind(sent(), {"messages": [{"role": "user", "content": deep}], "input": [{"role": "user", "content": deep}]})

    assert (400, "the request body is nested too deeply") == (caught.value.status, caught.value.message)


# ---- who keeps the history


@pytest.mark.parametrize(
    ("talk", "name"),
    [
        (chat(HELLO, scope=ANNS, header=sent(history=b"server")), "history"),
        (chat(HELLO, scope=ANNS, header=sent(b"x", b" Server ")), "x"),
        (chat(HELLO, header=sent(b"x", b"server")), "x"),
        (chat(HELLO, header=sent(history=b"server"), prompt_cache_key="x"), "x"),
        (chat(HELLO, scope=ANNS, history="server"), "history"),
        (chat(HELLO, header=sent(b"x"), history="server"), "x"),
        (chat(HELLO, header=sent(b"x", b"server"), history="server"), "x"),
    ],
)
def test_kept_here(talk: Talk, name: str) -> None:
    """Asked for by the header or the config, a history is known by its name alone: the id, or that of the `user`."""
    assert ((), 0, name, [HELLO], True) == (talk.chain, talk.head, talk.name, talk.messages, talk.is_kept)


@pytest.mark.parametrize(
    "talk",
    [
        chat(HELLO, scope=ANNS),
        chat(HELLO, scope=ANNS, header=sent(history=b"")),
        chat(HELLO, scope=ANNS, header=sent(history=b"client")),
        chat(HELLO, scope=ANNS, header=sent(history=b"client"), history="server"),
        chat(HELLO, header=sent(b"x", b"client"), history="server"),
        chat(HELLO, history="server"),
    ],
)
def test_kept_by_the_client(talk: Talk) -> None:
    """Without a wish, against the config's, or without any name under a config's, it is as OpenAI does it."""
    assert not talk.is_kept
    assert chat_chain(talk.scope, [HELLO]) == talk.chain


@pytest.mark.parametrize("history", ["client", "server"])
@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        (b"gateway", "X-Hugind-History is 'server' or 'client'", "X-Hugind-History"),
        (b"\xff", "X-Hugind-History is 'server' or 'client'", "X-Hugind-History"),
        (
            b"server",
            "a history that is kept here needs a name: send 'user', or the header X-Hugind-Session",
            "user",
        ),
    ],
)
def test_histories_that_cannot_be_kept(asked: bytes, message: str, param: str, history: str) -> None:
    """A header that makes no sense, or that asks for a history without a name, is refused with what to do."""
    with pytest.raises(ApiError) as caught:
        chat(HELLO, header=sent(history=asked), history=history)

    assert (400, message, param) == (caught.value.status, caught.value.message, caught.value.param)
