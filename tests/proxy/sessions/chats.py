"""People who talk to a gateway, and see where their conversations were in the meantime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.record import Session
from hugind.supervisor.config import Config
from tests.eventually import eventually
from tests.proxy.serving import Served, serving, standin_config
from tests.proxy.sessions.storing import memory_folder

CHAT = "/v1/chat/completions"
LONG = "a tale of slots and of those who come back to them, told so that there is something to save; "


def session_config(folder: Path, memory: Path | None = None, **sections: Any) -> Config:
    """The stand-in, slow enough that short conversations are worth saving; they are copied to disk at once."""
    engine = sections.pop("engine", {})
    engine["extra_args"] = ("--prefill-ms", "20", *engine.get("extra_args", ()))
    sessions = {"min_tokens": 8, "disk_after_s": 0, **sections.pop("sessions", {})}
    if memory is not None:
        sessions["memory_folder"] = str(memory)
    return standin_config(folder, sessions=sessions, engine=engine, **sections)


@asynccontextmanager
async def sessions_served(folder: Path, memory: Path | None = None, **sections: Any) -> AsyncIterator[Served]:
    """A gateway that keeps sessions in `memory`, or in a folder of its own in memory."""
    if memory is None:
        with memory_folder() as own:
            async with serving(folder, {"chat": session_config(folder, own, **sections)}) as served:
                yield served
        return
    async with serving(folder, {"chat": session_config(folder, memory, **sections)}) as served:
        yield served


def keeper_of(served: Served) -> Keeper:
    """Of the engine `chat`."""
    return served.gateway.keeper(served.engine())


def sessions_of(served: Served) -> dict[str, Session]:
    """All that are known."""
    return keeper_of(served).store.sessions


async def until_saved(served: Served, *ids: str) -> None:
    """Wait until these sessions have a snapshot of what is in their slots."""
    known, keeper = sessions_of(served), keeper_of(served)

    def is_clean(named: str) -> bool:
        _, seat = keeper.held().get(named, (None, None))
        return known[named].newest is not None and not (seat and seat.is_dirty)

    await eventually(lambda: all(is_clean(named) for named in ids))


@dataclass(frozen=True)
class Turn:
    """What a client sees of one turn."""

    label: str
    session: str
    cached: int
    tokens: int
    """Of the prompt."""
    text: str
    total: int
    """Of prompt and answer."""

    @property
    def is_reused(self) -> bool:
        """Nearly nothing but the new words was computed."""
        return self.cached > 0.6 * self.tokens


def turn_of(answer: httpx.Response) -> Turn:
    """Read an answer that went well."""
    assert 200 == answer.status_code, answer.text
    body, headers = answer.json(), answer.headers
    usage = body["usage"]
    return Turn(
        headers["x-hugind-session"],
        headers["x-hugind-session-id"],
        usage["prompt_tokens_details"]["cached_tokens"],
        usage["prompt_tokens"],
        body["choices"][0]["message"]["content"],
        usage["total_tokens"],
    )


class Person:
    """Somebody who sends the whole history with each turn, as most clients do."""

    def __init__(self, served: Served, name: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        self._served = served
        self._headers = dict(headers or {})
        self._fields = fields
        self.name = name
        self.messages: list[dict[str, Any]] = []

    async def say(self, text: str = "and then?", **fields: Any) -> Turn:
        """One more turn; what was answered is remembered."""
        if not self.messages:
            text = f"{self.name}: {LONG}{text}"
        self.messages.append({"role": "user", "content": text})
        turn = await self.send(self.messages, **fields)
        self.messages.append({"role": "assistant", "content": turn.text})
        return turn

    async def send(self, messages: list[dict[str, Any]], **fields: Any) -> Turn:
        """Whatever; nothing is remembered."""
        body = {"model": "chat", "messages": messages, "max_tokens": 8, **self._fields, **fields}
        return turn_of(await self._served.client.post(CHAT, json=body, headers=self._headers))
