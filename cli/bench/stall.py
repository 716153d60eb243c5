"""What a stream notices of its neighbours: its gaps while their turns come, are saved and evicted."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hugind.cli.bench.conversation import Chat, Conversation, Turn
from hugind.cli.bench.target import LoadError

ALONE_PIECES = 40
HOT_TURNS = 3
QUESTION = [{"role": "user", "content": "Tell me a long story."}]


@dataclass(frozen=True)
class Gaps:
    """Times between the pieces of a stream."""

    count: int
    median_ms: float
    longest_ms: float


@dataclass(frozen=True)
class Stall:
    """The same stream in three situations; None where it had ended before."""

    alone: Gaps | None
    hot: Gaps | None
    """A neighbour takes turns in its own slot: their prompts are computed, nothing is saved or restored."""
    evicting: Gaps | None
    """Neighbours come and go: the one before is saved and evicted, the next restored, its prompt computed."""


async def measure_stall(
    chat: Chat, neighbours: Sequence[Conversation], *, characters: int, stream_tokens: int
) -> Stall:
    """Stream one long answer while `neighbours` take turns of so many characters, one after the other.

    Needs two slots or more. The stream is broken off when they are done.

    Raises:
        LoadError: a turn was not answered.
    """
    arrivals: list[float] = []
    has_begun = asyncio.Event()

    def note(at: float) -> None:
        arrivals.append(at)
        if len(arrivals) >= ALONE_PIECES:
            has_begun.set()

    try:
        async with asyncio.TaskGroup() as group:
            stream = group.create_task(
                chat.ask(QUESTION, on_piece=note, user="the one who streams", max_tokens=stream_tokens)
            )
            begun = time.perf_counter()
            await asyncio.wait([stream, group.create_task(has_begun.wait())], return_when=asyncio.FIRST_COMPLETED)
            alone = _gaps_since(begun, arrivals, stream)
            await neighbours[0].take_turn(chat, characters)
            begun = time.perf_counter()
            for _ in range(HOT_TURNS):
                await neighbours[0].take_turn(chat, characters)
            hot = _gaps_since(begun, arrivals, stream)
            begun = time.perf_counter()
            for neighbour in neighbours[1:]:
                await neighbour.take_turn(chat, characters)
            evicting = _gaps_since(begun, arrivals, stream)
            stream.cancel()
            has_begun.set()
    except* LoadError as problems:
        raise problems.exceptions[0] from None
    return Stall(alone, hot, evicting)


def find_gaps(arrivals: Sequence[float], begun: float) -> Gaps | None:
    """The gaps that reach beyond the moment `begun`, all in seconds of one clock. None: there is none."""
    pairs = pairwise(arrivals)
    found = [(later - earlier) * 1e3 for earlier, later in pairs if later > begun]
    return Gaps(len(found), statistics.median(found), max(found)) if found else None


def _gaps_since(begun: float, arrivals: Sequence[float], stream: asyncio.Task[Turn]) -> Gaps | None:
    return None if stream.done() else find_gaps(arrivals, begun)
