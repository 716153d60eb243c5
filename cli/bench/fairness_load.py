"""The users of the fairness bench: one who always has many turns in flight, light ones who pause, equally busy ones."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType

import httpx

from hugind.cli.bench.fairness_figures import Served
from hugind.cli.bench.target import LoadError

TURN_TIMEOUT_S = 3600
"""A turn behind all others of a slow machine; how long a measurement takes is bounded elsewhere."""
WARM_UP_TURNS = 4
"""Of the heavy user, before anybody else asks: all of its turns are in the gateway by then."""

Ask = Callable[[], Awaitable[Served]]
"""Takes one turn."""


class Person:
    """Somebody who asks an engine, with a key. An async context manager; takes any number of turns at a time."""

    def __init__(self, name: str, url: str, *, engine: str, key: str, seed: int) -> None:
        self.name = name
        self._engine = engine
        self._dice = random.Random(seed)  # noqa: S311 - small talk
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(TURN_TIMEOUT_S, connect=10),
            limits=httpx.Limits(),  # none
            trust_env=False,
        )

    async def __aenter__(self) -> Person:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, characters: int, answer_tokens: int) -> Served:
        """Say so many characters that were never said before, and hear so many tokens.

        Raises:
            LoadError: it was not answered.
        """
        said = "".join(self._dice.choices(string.ascii_lowercase, k=characters))
        body = {
            "model": self._engine,
            "messages": [{"role": "user", "content": said}],
            "temperature": 0,
            "max_tokens": answer_tokens,
            "ignore_eos": True,
        }
        asked_s = time.perf_counter()
        try:
            response = await self._client.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise LoadError(f"{self.name}: {error or type(error).__name__}") from error
        ended_s = time.perf_counter()
        if response.status_code != 200:
            raise LoadError(f"{self.name}: status {response.status_code}: {response.text[:300]}")
        usage = response.json()["usage"]
        return Served(
            asked_s,
            ended_s,
            wait_ms=float(response.headers["x-hugind-queue-ms"]),
            tokens=usage["prompt_tokens"] + usage["completion_tokens"],
        )


@dataclass(frozen=True)
class Crowd:
    """What one heavy user and some light ones got, side by side."""

    heavy: list[Served]
    light: list[Served]


async def measure_crowd(
    heavy: Ask, light: Sequence[Ask], *, in_flight: int, turns: int, pause_s: Callable[[], float], limit_s: float
) -> Crowd:
    """One user always has `in_flight` turns, until each light one, who has one at a time, has had so many.

    `pause_s`: how long a light user reads before the next turn, and before the first. Of the heavy user only what was
    asked beside light ones is returned.

    Raises:
        LoadError: a turn was not answered, or all of it took longer than `limit_s`.
    """
    served: list[Served] = []
    by_light: list[list[Served]] = [[] for _ in light]
    is_warm, is_done = asyncio.Event(), asyncio.Event()

    def count_heavy(turn: Served) -> None:
        served.append(turn)
        if len(served) >= WARM_UP_TURNS:
            is_warm.set()

    def count_light(mine: list[Served], turn: Served) -> None:
        mine.append(turn)
        if all(len(one) >= turns for one in by_light):
            is_done.set()

    async def ask_again(ask: Ask, count: Callable[[Served], None]) -> None:
        while True:
            count(await ask())

    async def ask_and_read(ask: Ask, mine: list[Served]) -> None:
        while True:
            await asyncio.sleep(pause_s())
            count_light(mine, await ask())

    begun_s = 0.0
    with _one_error():
        async with _bounded(limit_s), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_again(heavy, count_heavy)) for _ in range(in_flight)]
            await is_warm.wait()
            begun_s = time.perf_counter()
            tasks += [group.create_task(ask_and_read(*one)) for one in zip(light, by_light, strict=True)]
            await is_done.wait()
            for task in tasks:
                task.cancel()
    return Crowd([turn for turn in served if turn.asked_s >= begun_s], [turn for mine in by_light for turn in mine])


@dataclass(frozen=True)
class Shares:
    """What equally busy users got in the same time."""

    tokens: dict[str, int]
    seconds: float


async def measure_shares(busy: Mapping[str, Ask], *, in_flight: int, warm_up_s: float, window_s: float) -> Shares:
    """Every user always has `in_flight` turns; the tokens of each one's turns that ended in the window.

    Raises:
        LoadError: a turn was not answered.
    """
    served: dict[str, list[Served]] = {name: [] for name in busy}

    async def ask_again(name: str, ask: Ask) -> None:
        while True:
            served[name].append(await ask())

    begun_s = ended_s = 0.0
    with _one_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_again(*one)) for one in busy.items() for _ in range(in_flight)]
            await asyncio.sleep(warm_up_s)
            begun_s = time.perf_counter()
            await asyncio.sleep(window_s)
            ended_s = time.perf_counter()
            for task in tasks:
                task.cancel()
    tokens = {
        name: sum(turn.tokens for turn in turns if begun_s < turn.ended_s <= ended_s) for name, turns in served.items()
    }
    return Shares(tokens, ended_s - begun_s)


@contextmanager
def _one_error() -> Iterator[None]:
    """The first of the errors that ended a group of users."""
    try:
        yield
    except* LoadError as problems:
        raise problems.exceptions[0] from None


@asynccontextmanager
async def _bounded(limit_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise LoadError(f"not done within {limit_s:.0f} s") from None
