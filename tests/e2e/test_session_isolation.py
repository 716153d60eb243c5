"""Nobody's words in anybody else's slot, and no hint of them in the figures, whatever people do."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.sessions.record import Owner
from hugind.proxy.sessions.slotfile import token_ids
from tests.e2e.conversations import (
    CHAT,
    HAS_MEMORY,
    keeper,
    make_slow_gguf,
    memory_folder,
    session_config,
)
from tests.eventually import eventually
from tests.proxy.serving import Served, serving

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not HAS_MEMORY, reason="there is no tmpfs")]

TURNS = 500
SLOTS = 2
USERS = (None, "ann", "ben", "cat")
"""The same names with each of two keys."""
NAMES = (None, None, "main", "1", "ses_0")
"""Ids that everybody uses."""
OPENING = "You help everybody in the same way, whoever they are."
START = "Please look at the following, which starts the same for all of us. "
MAX_PROMPT = 700
SPECIAL = re.compile(r"<s>|</s>|<unk>|<\|im_start\|>|<\|im_end\|>|.", re.DOTALL)
MARKER = re.compile(r"@\d=@")


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


@dataclass
class Person:
    """Somebody with a key, who may say who they are, and has a word that nobody else uses."""

    number: int
    client: httpx.AsyncClient
    owner: Owner
    talks: dict[str | None, list[dict[str, Any]]] = field(default_factory=dict)
    """What was said last, by the id that was sent with it."""
    sessions: list[str] = field(default_factory=list)
    """As the gateway calls them."""
    computed: list[tuple[str | None, list[str]]] = field(default_factory=list)
    """All that the engine was ever asked to compute for them: the id, and the tokens."""

    @property
    def word(self) -> str:
        return f"@{self.number}=@"

    def earned(self, name: str | None, prompt: list[str]) -> int:
        """How many tokens of a prompt were computed for them before; who gives an id means the talks of that id."""
        return max((_shared(prompt, tokens) for own, tokens in self.computed if name is None or own == name), default=0)


async def test_nobody_meets_anybody_else(tmp_path: Path, memory: Path) -> None:
    """Eight people on two slots: after every turn each slot holds what its session's owner said and nothing else, and
    nobody is told of cached tokens that they had not computed themselves."""
    keyring = Keyring()
    for key in ("one", "two"):
        keyring.add(key, Principal(key))
    config = session_config(make_slow_gguf(tmp_path / "model.gguf"), memory, sessions={"disk_after_s": 0})
    async with serving(tmp_path, {"chat": config}, keyring=keyring) as served:
        people = [
            Person(2 * number + at, _client(served, key), Owner(key, user))
            for number, user in enumerate(USERS)
            for at, key in enumerate(("one", "two"))
        ]
        crowd = _Crowd(served, people, random.Random(0))
        while crowd.turns < TURNS:
            await crowd.step()
        for person in people:
            await person.client.aclose()
        hits = sum((session.hits for session in keeper(served).store.sessions.values()), start=Counter[str]())

    assert not crowd.wrong
    assert min(hits[label] for label in ("hot", "warm", "new")) > TURNS // 20
    assert min(crowd.acts.values()) > TURNS // 20


class _Crowd:
    """Eight people who act at random. `wrong` tells what must not have happened."""

    def __init__(self, served: Served, people: list[Person], dice: random.Random) -> None:
        self.turns = 0
        self.wrong: list[str] = []
        self.acts: dict[str, int] = {}
        self._served = served
        self._people = people
        self._dice = dice

    async def step(self) -> None:
        """One to three of them say something at the same time; then all slots are looked into."""
        together = self._dice.sample(self._people, self._dice.choice((1, 1, 2, 3)))
        async with asyncio.TaskGroup() as group:
            for person in together:
                group.create_task(self._act(person))
        await eventually(lambda: self._served.leases().free == SLOTS)
        await self._look_into_slots()

    async def _act(self, person: Person) -> None:
        dice = self._dice
        self.turns += 1
        name = dice.choice(NAMES)
        act = dice.choice(("say", "say", "say", "edit", "again", "abort", "choices", "pry"))
        self.acts[act] = self.acts.get(act, 0) + 1
        messages = list(person.talks.get(name, []))
        if act == "edit" and len(messages) > 2:
            messages = messages[: dice.randrange(1, len(messages), 2)]
        if act == "pry":
            name, messages = self._of_somebody_else(person)
        elif act == "again" and len(messages) > 2:
            messages = messages[:-1]
        else:
            messages = self._with_next(person, messages)
        body = {"model": "chat", "messages": messages, "max_tokens": 8, "temperature": 0, "user": person.owner.user}
        headers = {"X-Hugind-Session": name} if name else {}
        prompt = _prompt(messages)
        earned = person.earned(name, prompt)
        person.computed.append((name, prompt))
        if act == "abort":
            await self._leave_early(person, body, headers)
            return
        if act == "choices":
            body["n"] = 2
        answer = await person.client.post(CHAT, json=body, headers=headers)
        self._check(person, act, answer, prompt, earned)
        person.sessions.append(answer.headers["x-hugind-session-id"])
        said = [choice["message"]["content"] for choice in answer.json()["choices"]]
        person.computed += [(name, prompt + SPECIAL.findall(text)) for text in said]
        person.talks[name] = [*messages, {"role": "assistant", "content": dice.choice(said)}]

    def _with_next(self, person: Person, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not messages or len(_prompt(messages)) > MAX_PROMPT:
            messages = [{"role": "system", "content": OPENING}]
        words = f"{START if len(messages) == 1 else ''}{person.word} says {self._dice.randrange(20)}. "
        return [*messages, {"role": "user", "content": words + f"So {person.word} said. " * self._dice.randrange(4)}]

    def _of_somebody_else(self, person: Person) -> tuple[str | None, list[dict[str, Any]]]:
        """What another one said, word for word, perhaps with the id of their session."""
        other = self._dice.choice([one for one in self._people if one is not person])
        messages = self._dice.choice(list(other.talks.values()) or [[]])[:-1] or self._with_next(other, [])
        return self._dice.choice([None, *other.sessions[-3:]]), messages

    async def _leave_early(self, person: Person, body: dict[str, Any], headers: dict[str, str]) -> None:
        body |= {"stream": True, "max_tokens": 300}
        chunks = self._dice.randrange(3)
        try:
            async with (
                asyncio.timeout(self._dice.uniform(0, 0.1) if chunks == 0 else 20),
                person.client.stream("POST", CHAT, json=body, headers=headers) as response,
            ):
                stream = response.aiter_raw()
                for _ in range(chunks):
                    await anext(stream)
        except TimeoutError:
            pass

    def _check(self, person: Person, act: str, answer: httpx.Response, prompt: list[str], earned: int) -> None:
        what = f"turn {self.turns}: {act} of {person.owner}"
        assert 200 == answer.status_code, f"{what}: {answer.text}"
        usage = answer.json()["usage"]
        label, cached = answer.headers["x-hugind-session"], usage["prompt_tokens_details"]["cached_tokens"]
        if usage["prompt_tokens"] != len(prompt):
            self.wrong.append(f"{what}: {usage['prompt_tokens']} tokens in the prompt, and it has {len(prompt)}")
        if cached > (0 if label == "new" else earned):
            self.wrong.append(f"{what}: {cached} tokens cached ({label}), and {earned} were earned")

    async def _look_into_slots(self) -> None:
        for session_id, (place, _) in keeper(self._served).held().items():
            lease = self._served.leases().take(place)
            if lease is None:  # it is being saved: next time
                continue
            file = keeper(self._served).store.slots.path / "look.kv"
            try:
                saved = await lease.spawn.client.save(lease.slot, file.name)
                tokens = token_ids(file.read_bytes()).tolist() if saved.tokens else []
            finally:
                file.unlink(missing_ok=True)
                self._served.leases().release(lease)
            await self._check_tokens(session_id, tokens)

    async def _check_tokens(self, session_id: str, tokens: list[int]) -> None:
        session = keeper(self._served).store.sessions[session_id]
        person = next(person for person in self._people if person.owner == session.owner)
        answer = await person.client.post("/detokenize", json={"model": "chat", "tokens": tokens})
        held = SPECIAL.findall(answer.json()["content"])
        own = [known for _, known in person.computed]
        words = set(MARKER.findall("".join(held)))
        if words - {person.word, *MARKER.findall("".join("".join(known) for known in own))}:
            self.wrong.append(f"turn {self.turns}: the slot of {person.owner} holds {words}")
        if not any(_shared(held, known) == min(len(held), len(known)) for known in own):
            self.wrong.append(f"turn {self.turns}: the slot of {person.owner} holds what they never said: {held}")


def _client(served: Served, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=served.client.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=20, trust_env=False
    )


def _prompt(messages: list[dict[str, Any]]) -> list[str]:
    """The tokens of a chat: the models of random weights have one for every character."""
    said = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return ["<s>", *SPECIAL.findall(f"{said}<|im_start|>assistant\n")]


def _shared(one: list[str], other: list[str]) -> int:
    """Length of the common beginning."""
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length
