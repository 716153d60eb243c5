"""The laws of continuing: what a session said is the longest beginning of the request, and nobody else's ever is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hugind.proxy.sessions.record import Owner
from hugind.proxy.sessions.transcript import (
    TEXT_BLOCK,
    Match,
    Scope,
    Talk,
    TranscriptIndex,
    chat_chain,
    count_head,
    text_chain,
)

SCOPE = Scope(Owner("ann"), "chat", "f1")
SCOPES = (
    SCOPE,
    replace(SCOPE, owner=Owner("bob")),
    replace(SCOPE, owner=Owner("ann", "bob")),
    replace(SCOPE, owner=Owner("ann", "")),
    replace(SCOPE, engine="code"),
    replace(SCOPE, family="f2"),
)
SYSTEM = {"role": "system", "content": "be kind"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


HISTORY = [SYSTEM, user("hello"), assistant("hi"), user("how are you?"), assistant("fine")]


def index_of(*sessions: tuple[str, list[Any]], name: str | None = None) -> TranscriptIndex:
    index = TranscriptIndex()
    for session, messages in sessions:
        index.put(session, SCOPE, chat_chain(SCOPE, messages), name=name, is_kept=False)
    return index


def talk_of(messages: list[Any], *, name: str | None = None, scope: Scope = SCOPE) -> Talk:
    return Talk(scope, chat_chain(scope, messages), min(count_head(messages), len(messages) - 1), name, messages)


# ---- any order of learning, forgetting and asking, beside a model that compares everything with everything


@dataclass(frozen=True)
class Learned:
    """A session as the model knows it: by what was said, not by digests."""

    scope: Scope
    words: tuple[str, ...]
    name: str | None
    is_kept: bool


NAMES = (None, "x", "y", "s0", "s1")
scopes = st.sampled_from((SCOPE, SCOPE, SCOPE, *SCOPES))
words = st.lists(st.sampled_from("ab"), max_size=4).map(tuple)
sessions = st.sampled_from(("s0", "s1", "s2", "s3", "s4", "s5"))
names = st.sampled_from((None, None, None, *NAMES))


class IndexMachine(RuleBasedStateMachine):
    """Few words, few names and several scopes, so that everything meets everything."""

    def __init__(self) -> None:
        super().__init__()
        self.index = TranscriptIndex()
        self.learned: dict[str, Learned] = {}
        """The latest last."""

    @rule(session=sessions, scope=scopes, said=words, name=names, is_kept=st.integers(0, 4).map(lambda n: n == 4))
    def learn(self, session: str, scope: Scope, said: tuple[str, ...], name: str | None, is_kept: bool) -> None:
        self.put(session, Learned(scope, said, name, is_kept))

    @precondition(lambda self: bool(self.learned))
    @rule(data=st.data(), more=words)
    def continue_it(self, data: st.DataObject, more: tuple[str, ...]) -> None:
        """What a turn does: its session says more, and becomes the latest."""
        session = data.draw(st.sampled_from(sorted(self.learned)))
        known = self.learned[session]
        self.put(session, replace(known, words=(*known.words, *more)))

    @rule(session=sessions)
    def drop(self, session: str) -> None:
        self.learned.pop(session, None)
        self.index.drop(session)

    @rule(said=words, head=st.integers(0, 2))
    def find(self, said: tuple[str, ...], head: int) -> None:
        """The same words in every scope, by every name and none."""
        head = min(head, max(len(said) - 1, 0))
        for scope, name, is_kept in product(SCOPES, NAMES, (False, True)):
            talk = Talk(scope, chain_of(scope, said), head, name, is_kept=is_kept)

            assert self.expected(scope, said, head, name, is_kept) == self.index.find(talk)

    @invariant()
    def knows_as_many(self) -> None:
        assert len(self.learned) == len(self.index)

    def teardown(self) -> None:
        """What is dropped leaves nothing behind."""
        for session in list(self.learned):
            self.index.drop(session)

        assert traces(self.index) == 0

    def put(self, session: str, known: Learned) -> None:
        self.learned.pop(session, None)
        self.learned[session] = known
        chain = chain_of(known.scope, known.words)
        self.index.put(session, known.scope, chain, name=known.name, is_kept=known.is_kept)

    def expected(self, scope: Scope, said: tuple[str, ...], head: int, name: str | None, is_kept: bool) -> Match:
        """Nothing of another scope; kept ones by name alone; else the longest beginning in common, whole ones first."""
        mine = [
            (session, known.words)
            for session, known in reversed(self.learned.items())
            if known.scope == scope and known.is_kept is is_kept and (name is None or name in (known.name, session))
        ]
        if name is None and (is_kept or not said):
            return Match()
        if is_kept or not said:
            of_name = [session for session, its in mine if is_kept or not its]
            return Match(tuple(sorted(of_name, key=lambda session: self.learned[session].name != name)))
        shared = max((common(its, said) for _, its in mine), default=0)
        if shared <= head:
            return Match()
        best = [(session, its) for session, its in mine if common(its, said) == shared]
        whole = tuple(session for session, its in best if len(its) == shared)
        return Match(whole, None, shared) if whole else Match((), best[0][0], shared)


def chain_of(scope: Scope, said: tuple[str, ...]) -> tuple[bytes, ...]:
    return chat_chain(scope, [user(word) for word in said])


def common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def traces(index: TranscriptIndex) -> int:
    return sum(len(kept) for kept in vars(index).values())


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# ---- what clients do


def test_continuing_finds_the_session() -> None:
    """A history with more behind it is the session that said it."""
    index = index_of(("other", [SYSTEM, user("bye")]), ("mine", HISTORY[:2]))

    assert Match(("mine",), None, 2) == index.find(talk_of(HISTORY))
    assert Match(("mine",), None, 2) == index.find(talk_of(HISTORY[:2]))


def test_an_edited_history_forks() -> None:
    """Who goes back and says something else gets a session of its own, with what was in common."""
    index = index_of(("mine", HISTORY))

    assert Match((), "mine", 3) == index.find(talk_of([*HISTORY[:3], user("who are you?")]))


def test_a_parent_outlives_its_branch() -> None:
    """A branch that is forgotten, because its client left at once, takes nothing of the session it came from along."""
    edited = [*HISTORY[:3], user("who are you?")]
    index = index_of(("mine", HISTORY), ("branch", [*edited, assistant("me")]))
    index.drop("branch")

    assert Match((), "mine", 3) == index.find(talk_of(edited))


def test_a_system_prompt_alone_is_no_conversation() -> None:
    """Two conversations that begin with the same system prompts have nothing in common yet."""
    index = index_of(("mine", [SYSTEM, SYSTEM, user("hello")]), ("bare", [SYSTEM]))

    assert Match() == index.find(talk_of([SYSTEM, SYSTEM, user("bye")]))
    assert Match() == index.find(talk_of([SYSTEM, user("bye")]))


@pytest.mark.parametrize(
    "side",
    [
        [user("Make a title for: hello / hi / how are you? / fine")],
        [{"role": "system", "content": "You make titles"}, *HISTORY[1:], user("Make a title")],
        [SYSTEM, user(repr(HISTORY))],
        [*HISTORY[:2], user("Make a title")],
        HISTORY[:-1],
        HISTORY[:1],
    ],
)
def test_a_side_request_is_not_the_conversation(side: list[Any]) -> None:
    """A request without all that a session said never counts as going on with it."""
    assert () == index_of(("mine", HISTORY)).find(talk_of(side)).whole


def test_a_name_keeps_to_its_branches() -> None:
    """Who names a session finds those of that name and no better ones; who names none finds all."""
    index = index_of(("older", HISTORY[:2]), ("edited", [*HISTORY[:2], user("what?")]), name="x")
    index.put("longer", SCOPE, chat_chain(SCOPE, HISTORY[:4]), name="y", is_kept=False)

    assert Match(("older",), None, 2) == index.find(talk_of(HISTORY, name="x"))
    assert Match(("longer",), None, 4) == index.find(talk_of(HISTORY, name="y"))
    assert Match(("longer",), None, 4) == index.find(talk_of(HISTORY))
    assert Match() == index.find(talk_of(HISTORY, name="z"))


def test_our_id_is_a_name() -> None:
    """The id that an answer carried finds its session, for its owner, and its branches."""
    index = index_of(("ses_1", HISTORY[:2]), ("ses_2", HISTORY[:4]))
    index.put("branch", SCOPE, chat_chain(SCOPE, HISTORY[:3]), name="ses_1", is_kept=False)

    assert Match(("ses_1",), None, 2) == index.find(talk_of(HISTORY[:2], name="ses_1"))
    assert Match(("branch",), None, 3) == index.find(talk_of(HISTORY, name="ses_1"))
    assert Match() == index.find(talk_of(HISTORY, name="ses_1", scope=SCOPES[1]))


def test_a_name_is_enough_where_nothing_can_be_compared() -> None:
    """A request of another kind, such as `/infill`, goes on with what was asked in that name and way before."""
    index = index_of(("bare", []), ("chat", HISTORY), name="x")

    assert Match(("bare",)) == index.find(Talk(SCOPE, (), name="x"))
    assert Match() == index.find(Talk(SCOPE, (), name="y"))
    assert Match() == index.find(Talk(SCOPE, ()))
    assert Match() == index.find(Talk(SCOPES[1], (), name="x"))


def test_kept_histories() -> None:
    """A history that is kept here is found by its name or id, by requests that want it kept, and by no others."""
    index = TranscriptIndex()
    index.put("ses_1", SCOPE, (), name="x", is_kept=True)
    index.put("ses_2", SCOPE, chat_chain(SCOPE, HISTORY), name="x", is_kept=False)

    assert Match(("ses_1",)) == index.find(Talk(SCOPE, (), name="x", is_kept=True))
    assert Match(("ses_1",)) == index.find(Talk(SCOPE, (), name="ses_1", is_kept=True))
    assert Match() == index.find(Talk(SCOPE, (), name="ses_2", is_kept=True))
    assert Match() == index.find(Talk(SCOPES[1], (), name="x", is_kept=True))
    assert Match() == index.find(Talk(SCOPE, (), name="ses_1"))
    assert Match() == index.find(Talk(SCOPE, (), name="x"))
    assert Match(("ses_2",), None, 5) == index.find(talk_of(HISTORY, name="x"))


def test_ten_thousand_sessions_of_one_name() -> None:
    """The right one is found among all that share a system prompt and an id."""
    index = TranscriptIndex()
    for number in range(10_000):
        said = chat_chain(SCOPE, [SYSTEM, user(f"I am {number}"), assistant("hi")])
        index.put(f"s{number}", SCOPE, said, name="app", is_kept=False)
    continued = [SYSTEM, user("I am 4321"), assistant("hi"), user("who am I?")]

    assert Match(("s4321",), None, 3) == index.find(talk_of(continued))
    assert Match(("s4321",), None, 3) == index.find(talk_of(continued, name="app"))
    assert Match((), "s77", 2) == index.find(talk_of([SYSTEM, user("I am 77"), assistant("no")], name="app"))
    assert Match() == index.find(talk_of([SYSTEM, user("I am nobody")]))
    for number in range(10_000):
        index.drop(f"s{number}")
    assert traces(index) == 0


# ---- when two messages are the same

texts = st.text(alphabet="ab \n", max_size=4)
images = st.sampled_from("xy").map(lambda data: {"type": "image_url", "image_url": {"url": data}})
plain_parts = st.one_of(texts.map(lambda text: {"type": "text", "text": text}), images)
calls = st.sampled_from("xy").map(
    lambda a: [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": a}}]
)
plain = st.fixed_dictionaries(
    {"role": st.sampled_from(("system", "user", "assistant", "tool"))},
    optional={
        "content": st.one_of(st.none(), texts, st.lists(plain_parts, max_size=3)),
        "tool_calls": calls,
        "tool_call_id": st.sampled_from(("c1", "c2")),
        "name": st.sampled_from(("f", "g")),
    },
)
marks = st.fixed_dictionaries(
    {},
    optional={
        "reasoning_content": texts,
        "cache_control": st.just({"type": "ephemeral"}),
        "id": texts,
        "refusal": st.none(),
        "annotations": st.just([]),
    },
)


@st.composite
def respelled(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message, and the same as another client would send it."""
    message = draw(plain)
    other: dict[str, Any] = {**copy.deepcopy(message), **draw(marks)}
    if other["role"] == "system":
        other["role"] = draw(st.sampled_from(("system", "developer")))
    content = other.get("content")
    if isinstance(content, str):
        content += draw(st.sampled_from(("", " ", "\n")))
        cut = draw(st.integers(0, len(content)))
        pieces = [content] if draw(st.booleans()) else [content[:cut], content[cut:]]
        parts = [{"type": "text", "text": piece, **draw(marks)} for piece in pieces]
        other["content"] = draw(st.sampled_from((content, parts)))
    elif isinstance(content, list):
        cached = {"cache_control": {"type": "ephemeral"}}
        other["content"] = [{**part, **cached} if draw(st.booleans()) else part for part in content]
    for key in ("content", "tool_calls"):
        if not other.get(key) and draw(st.booleans()):
            other[key] = draw(st.sampled_from((None, "", [])))
    keys = draw(st.permutations(sorted(other)))
    return message, {key: other[key] for key in keys}


@given(respelled(), st.lists(plain, max_size=2))
def test_the_same_however_it_is_spelled(pair: tuple[dict[str, Any], dict[str, Any]], before: list[Any]) -> None:
    """Parts or text, blanks around it, marks, empty fields, their order, developer for system: it is the same."""
    message, other = pair

    assert chat_chain(SCOPE, [*before, message]) == chat_chain(SCOPE, [*before, other])


def test_a_mark_on_an_image() -> None:
    """Clients move the mark for the cache to the last part of the last message, whatever that is."""
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    marked = {**image, "cache_control": {"type": "ephemeral"}}

    assert chat_chain(SCOPE, [{"role": "user", "content": [image]}]) == chat_chain(
        SCOPE, [{"role": "user", "content": [marked]}]
    )


def meant(message: dict[str, Any]) -> Iterator[Any]:
    """What a message says, spelled in one way only."""
    content = message.get("content") or []
    parts: list[dict[str, Any]] = [{"text": content}] if isinstance(content, str) else content
    pieces: list[Any] = [part.get("text", part) for part in parts]
    is_text = all(isinstance(piece, str) for piece in pieces)
    yield message["role"]
    yield "".join(pieces).strip() if is_text else [repr(piece) for piece in pieces]
    yield from (message.get(key) or None for key in ("tool_calls", "tool_call_id", "name"))


@given(plain, plain)
def test_what_differs_is_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two messages are the same if they say the same, and only then."""
    assert (list(meant(one)) == list(meant(other))) is (chat_chain(SCOPE, [one]) == chat_chain(SCOPE, [other]))


@given(st.lists(plain, max_size=4), st.lists(plain, max_size=4), scopes, scopes)
def test_chains_meet_as_far_as_the_talk_does(one: list[Any], other: list[Any], a: Scope, b: Scope) -> None:
    """Two chains have exactly their common beginning in common; of two scopes, nothing at all."""
    said, heard = ([tuple(map(repr, meant(message))) for message in talk] for talk in (one, other))
    shared = common(tuple(map(str, said)), tuple(map(str, heard))) if a == b else 0
    first, second = chat_chain(a, one), chat_chain(b, other)

    assert set(first[:shared]) == set(first) & set(second)
    assert first[:shared] == second[:shared]
    assert len(set(first)) == len(one)


def test_where_one_message_ends_counts() -> None:
    """The same words in other messages are another conversation."""
    assert chat_chain(SCOPE, [user("a"), user("b")])[-1] != chat_chain(SCOPE, [user("ab")])[-1]
    assert chat_chain(SCOPE, [user("a")])[-1] != chat_chain(SCOPE, [assistant("a")])[-1]


def test_what_is_no_message_has_a_chain_too() -> None:
    """Nonsense is for the engine to refuse."""
    assert 5 == len(chat_chain(SCOPE, [None, 1, "text", ["list"], {"role": ["odd"], "content": {"odd": 1}}]))


@pytest.mark.parametrize(
    ("messages", "head"),
    [([], 0), ([SYSTEM], 1), (HISTORY, 1), ([{"role": "developer"}, SYSTEM, user("")], 2), ([user(""), SYSTEM], 0)],
)
def test_head(messages: list[Any], head: int) -> None:
    """System prompts at the start are no conversation; later ones are."""
    assert head == count_head(messages)


# ---- plain text


@given(st.integers(0, 3 * TEXT_BLOCK), st.integers(0, 3 * TEXT_BLOCK), st.integers(0, 3 * TEXT_BLOCK))
def test_text_by_blocks(length: int, other: int, differs_at: int) -> None:
    """Two prompts have their equal whole blocks in common; one shorter than a block counts whole."""
    one = "a" * length
    two = "".join("b" if at == differs_at else "a" for at in range(other))
    first, second = text_chain(SCOPE, one), text_chain(SCOPE, two)
    same = min(length, other) if differs_at >= other else min(length, differs_at)
    shared = same // TEXT_BLOCK or int(0 < same == length == other)

    assert max(length // TEXT_BLOCK, min(length, 1)) == len(first)
    assert shared == len(set(first) & set(second))
    assert first[:shared] == second[:shared]


def test_text_is_no_chat() -> None:
    """A prompt and a chat of the same words have nothing in common; half a character is one, too."""
    assert not set(text_chain(SCOPE, '"text"')) & set(chat_chain(SCOPE, ["text", '"text"', '"text"']))
    assert 1 == len(text_chain(SCOPE, "\ud800"))
