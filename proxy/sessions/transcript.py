"""Which session does a request continue? The one whose messages are the longest beginning of its own. Pure.

A conversation is known by its chain: one digest for each message, of that message and all before it, seeded with whose
it is. Two chains have a digest in common only if they have the same owner and everything up to there in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from hugind.proxy.sessions.record import Owner

TEXT_BLOCK = 512
"""Characters of a plain prompt that count as one message."""

_DIGEST_BYTES = 16
_HEAD_ROLES = ("system", "developer")
_SAID = ("role", "content", "tool_calls", "tool_call_id", "name", "function_call", "call_id", "arguments", "output")
"""What of a message reaches the prompt. Clients change other things between turns: ids, reasoning, cache marks."""


@dataclass(frozen=True)
class Scope:
    """Where sessions can be found from: nothing in a request reaches beyond it."""

    owner: Owner
    engine: str
    family: str

    @property
    def seed(self) -> bytes:
        """What every chain of the scope starts from."""
        parts = (self.owner.digest, self.engine, self.family)
        return _digest(b"", "\0".join(parts).encode())


@dataclass(frozen=True)
class Talk:
    """What a request says about the conversation that it belongs to."""

    scope: Scope
    chain: tuple[bytes, ...]
    head: int = 0
    """Messages at the start that many conversations share: the system prompt."""
    name: str | None = None
    """The id that the client gave."""
    messages: list[Any] | None = None
    """Of a chat, as it goes to the engine."""
    is_kept: bool = False
    """The gateway keeps the history."""


@dataclass(frozen=True)
class Match:
    """What `TranscriptIndex.find` found."""

    whole: tuple[str, ...] = ()
    """Sessions that the request continues: all that they know is its beginning. The latest first."""
    parent: str | None = None
    """Else the session that has the longest beginning in common with it, and went on differently."""
    shared: int = 0
    """Messages in common."""


def chat_chain(scope: Scope, messages: Iterable[Any]) -> tuple[bytes, ...]:
    """The chain of a chat, also of the items of a Responses request."""
    return _chain(scope.seed, (orjson.dumps(_said(message), option=orjson.OPT_SORT_KEYS) for message in messages))


def text_chain(scope: Scope, prompt: str) -> tuple[bytes, ...]:
    """The chain of a plain prompt: its whole blocks, or all of it where it is shorter than one."""
    whole = len(prompt) - len(prompt) % TEXT_BLOCK or len(prompt)
    blocks = (prompt[at : at + TEXT_BLOCK].encode("utf-8", "surrogatepass") for at in range(0, whole, TEXT_BLOCK))
    return _chain(_digest(scope.seed, b"text"), blocks)


def begins_with(chain: tuple[bytes, ...], beginning: tuple[bytes, ...]) -> bool:
    """Whether a chain goes on from another. Chained: an equal last digest means that all before it are equal."""
    return chain[len(beginning) - 1 : len(beginning)] == beginning[-1:] if beginning else True


def count_head(messages: Sequence[Any]) -> int:
    """How many messages at the start are no conversation yet."""
    count = 0
    while count < len(messages) and isinstance(messages[count], dict) and messages[count].get("role") in _HEAD_ROLES:
        count += 1
    return count


class TranscriptIndex:
    """The chains of all sessions of an engine, found by their beginnings. Lives as long as their store."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._names: dict[tuple[Scope, str, bool], dict[str, None]] = {}
        self._ends: dict[bytes, dict[str, None]] = {}
        """Sessions by their last digest, the latest last."""
        self._passing: dict[bytes, str | dict[str, None]] = {}
        """Sessions that a digest is in the middle of, the latest last. Mostly it is one: then that without a dict."""

    def __len__(self) -> int:
        return len(self._known)

    def put(self, session: str, scope: Scope, chain: tuple[bytes, ...], *, name: str | None, is_kept: bool) -> None:
        """Learn a session, or what it says now; it becomes the latest."""
        self.drop(session)
        self._known[session] = _Known(scope, chain, name, is_kept)
        if name is not None:
            self._names.setdefault((scope, name, is_kept), {})[session] = None
        if chain and not is_kept:
            self._ends.setdefault(chain[-1], {})[session] = None
            for digest in chain[:-1]:
                self._pass(digest, session)

    def drop(self, session: str) -> None:
        """Forget a session. Unknown ones are ignored."""
        known = self._known.pop(session, None)
        if known is None:
            return
        if known.name is not None:
            _discard(self._names, (known.scope, known.name, known.is_kept), session)
        if known.chain:
            _discard(self._ends, known.chain[-1], session)
        for digest in known.chain[:-1]:
            if self._passing.get(digest) == session:
                del self._passing[digest]
            else:
                _discard(self._passing, digest, session)

    def find(self, talk: Talk) -> Match:
        """What a request continues. One that names a session looks among the branches of that name only."""
        if talk.is_kept or not talk.chain:
            return Match(whole=tuple(self._called(talk)))
        for shared in range(len(talk.chain), talk.head, -1):
            digest = talk.chain[shared - 1]
            if whole := tuple(self._allowed(talk, self._ends.get(digest, {}))):
                return Match(whole, None, shared)
            passing = self._passing.get(digest, {})
            if parent := next(self._allowed(talk, {passing: None} if isinstance(passing, str) else passing), None):
                return Match((), parent, shared)
        return Match()

    def _called(self, talk: Talk) -> Iterator[str]:
        """Sessions of the request's name that are known by nothing else: their history is kept, or not known."""
        name = talk.name or ""
        named = self._names.get((talk.scope, name, talk.is_kept), {})
        for session in dict.fromkeys((*reversed(named), name)):
            known = self._known.get(session)
            if known is None or (known.scope, known.is_kept) != (talk.scope, talk.is_kept):
                continue
            if talk.is_kept or not known.chain:
                yield session

    def _allowed(self, talk: Talk, sessions: dict[str, None]) -> Iterator[str]:
        """Those that the request may mean, the latest first. The id that we gave may be used as a name."""
        for session in reversed(sessions):
            if talk.name is None or talk.name in (session, self._known[session].name):
                yield session

    def _pass(self, digest: bytes, session: str) -> None:
        passing = self._passing.setdefault(digest, session)
        if isinstance(passing, dict):
            passing[session] = None
        elif passing != session:
            self._passing[digest] = {passing: None, session: None}


@dataclass(frozen=True)
class _Known:
    scope: Scope
    chain: tuple[bytes, ...]
    name: str | None
    is_kept: bool


def _said(message: Any) -> Any:
    """What of a message counts, so that the same message is the same however a client spells it."""
    if not isinstance(message, dict):
        return message
    said = {key: message[key] for key in _SAID if key in message}
    if "content" in said:
        said["content"] = _content(said["content"])
    if said.get("role") in _HEAD_ROLES:
        said["role"] = "system"
    return {key: value for key, value in said.items() if value not in (None, "", [])}


def _content(content: Any) -> Any:
    if isinstance(content, list):
        content = [_part(part) for part in content]
        if all(isinstance(part, str) for part in content):
            content = "".join(content)
    return content.strip() if isinstance(content, str) else content


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("text"), str):
        return part["text"]
    return {key: value for key, value in part.items() if key != "cache_control"}


def _chain(seed: bytes, parts: Iterable[bytes]) -> tuple[bytes, ...]:
    chain = []
    for part in parts:
        seed = _digest(seed, part)
        chain.append(seed)
    return tuple(chain)


def _digest(before: bytes, part: bytes) -> bytes:
    return hashlib.blake2b(part, key=before, digest_size=_DIGEST_BYTES).digest()


def _discard(sets: dict[Any, Any], key: Any, member: str) -> None:
    if isinstance(members := sets.get(key), dict):
        members.pop(member, None)
        if not members:
            del sets[key]
