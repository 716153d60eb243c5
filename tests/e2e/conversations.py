"""Somebody who talks to a gateway over many turns, and strangers who take the slots meanwhile."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hugind.proxy.sessions.keeper import Keeper
from hugind.proxy.sessions.record import Session
from hugind.supervisor.config import Config
from tests.engines import engine_binary
from tests.eventually import eventually
from tests.proxy.serving import Served, chat
from tools.random_gguf import make_llama_gguf

CHAT = "/v1/chat/completions"
CTX_SIZE = 2048
_SHARED_MEMORY = Path("/dev/shm")
_strangers = itertools.count(1)

HAS_MEMORY = _SHARED_MEMORY.is_dir()


@dataclass(frozen=True)
class Turn:
    """An answer of status 200."""

    text: str
    label: str
    session: str
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int

    @property
    def computed(self) -> int:
        """Tokens that the next turn could find: of the last one nothing is kept."""
        return self.prompt_tokens + self.answer_tokens - 1


class Conversation:
    """Sends all that was said with each turn, as OpenAI clients do. Every answer has the same number of tokens."""

    def __init__(self, opening: str | None = None, *, max_tokens: int = 12, **fields: Any) -> None:
        """`opening`: a system prompt."""
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": opening}] if opening else []
        self.fields = {"model": "chat", "temperature": 0, "max_tokens": max_tokens, **fields}

    def ask(self, text: str) -> dict[str, Any]:
        """The body of the next turn."""
        self.messages.append({"role": "user", "content": text})
        return {**self.fields, "messages": self.messages}

    def hear(self, response: httpx.Response) -> Turn:
        """The answer to what was asked last."""
        turn = read_turn(response)
        self.messages.append({"role": "assistant", "content": turn.text})
        return turn

    async def say(self, client: httpx.AsyncClient, text: str) -> Turn:
        """One turn."""
        return self.hear(await client.post(CHAT, json=self.ask(text)))

    async def say_instead(self, client: httpx.AsyncClient, text: str | None = None) -> Turn:
        """Take the last turn back and say something else; None: ask for another answer to the same."""
        said = self.messages[-2]["content"]
        self.messages = self.messages[:-2]
        return await self.say(client, said if text is None else text)

    def say_now(self, client: httpx.Client, text: str) -> Turn:
        """One turn, where no event loop runs."""
        return self.hear(client.post(CHAT, json=self.ask(text)))


def read_turn(response: httpx.Response) -> Turn:
    """What an unstreamed answer says; it must be one."""
    assert 200 == response.status_code, response.text
    answer = response.json()
    usage = answer["usage"]
    return Turn(
        text=answer["choices"][0]["message"]["content"],
        label=response.headers["x-hugind-session"],
        session=response.headers["x-hugind-session-id"],
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        answer_tokens=usage["completion_tokens"],
    )


def keeper(served: Served) -> Keeper:
    """Of the engine `chat`."""
    return served.gateway.keeper(served.engine())


async def crowd_out(served: Served) -> None:
    """Have as many strangers as there are slots talk at the same time: nobody else's session is in one then."""
    slots = served.engine().config.server.max_slots
    async with AsyncExitStack() as stack:
        for _ in range(slots):
            body = chat("I am in the way. " * 6, user=f"stranger {next(_strangers)}", stream=True, max_tokens=1500)
            response = await stack.enter_async_context(served.client.stream("POST", CHAT, json=body))
            assert 200 == response.status_code
            await anext(response.aiter_raw())
    await eventually(lambda: served.leases().free == slots)


async def until_saved(served: Served, turn: Turn) -> Session:
    """Wait until a snapshot holds all of a turn; returns its session."""
    session = keeper(served).store.sessions[turn.session]
    await eventually(lambda: session.newest and session.newest.tokens >= turn.computed)
    return session


async def kill_worker(served: Served) -> None:
    """Kill the first worker, and wait until it is known to be dead."""
    spawn = served.spawn()
    os.kill(spawn.process.pid, signal.SIGKILL)
    await eventually(lambda: served.worker().spawn is not spawn)


def session_config(model: Path, memory: Path, **sections: dict[str, Any]) -> Config:
    """Two slots, and snapshots of short conversations, too; `sections` as in the YAML file."""
    return Config.model_validate(session_sections(model, memory, **sections))


def session_sections(model: Path, memory: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """As `session_config`, for a file."""
    sections["sessions"] = {"min_tokens": 64, "memory_folder": str(memory), **sections.get("sessions", {})}
    sections["engine"] = {"binary": engine_binary(), "backoff_s": 0.05, **sections.get("engine", {})}
    return {
        "model": {"model_path": str(model)},
        "context": {"ctx_size": CTX_SIZE},
        "device": {"threads": 1, "threads_batch": 1},  # OpenMP threads wait for each other badly beside other work
        "server": {"max_slots": 2},
        **sections,
    }


def make_slow_gguf(path: Path, *, seed: int = 0) -> Path:
    """A model with little to save and much to compute, so that saving pays even where turns are short."""
    return make_llama_gguf(path, ff=8192, half=True, seed=seed)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A tmpfs folder for snapshots, gone when the block ends; those of the default one are left for a next gateway."""
    folder = Path(tempfile.mkdtemp(prefix="hugind-test-", dir=_SHARED_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
