"""What the fairness bench measured, and what is asked of it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hugind.cli.bench.load import Latency

MAX_LIGHT_WAIT_TURNS = 1.5
MIN_JAIN = 0.95
MAX_OWN_TURNS = 1.5
"""Of a turn that has the machine to itself, p95: what takes longer shares it with something that is not measured."""
JUDGED = "fair"
"""The policy that something is asked of; the others are there to be compared with."""


@dataclass(frozen=True)
class Served:
    """One answered turn, as its user saw it."""

    asked_s: float
    """On the clock of `time.perf_counter`, as `ended_s`."""
    ended_s: float
    wait_ms: float
    """For a slot, by the gateway's word."""
    tokens: int
    """Of prompt and answer."""

    @property
    def own_ms(self) -> float:
        """From the slot to the end: what it took besides waiting."""
        return (self.ended_s - self.asked_s) * 1e3 - self.wait_ms


@dataclass(frozen=True)
class Goal:
    """One figure of ours, and its limit."""

    figure: str
    found: float
    limit: float
    is_most: bool
    """The figure must not be above the limit; else not below."""

    @property
    def is_met(self) -> bool:
        return self.found <= self.limit if self.is_most else self.found >= self.limit

    def __str__(self) -> str:
        return f"{'met' if self.is_met else 'MISSED'}: at {'most' if self.is_most else 'least'} {self.limit:g}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"figure": self.figure, "found": round(self.found, 4), "limit": self.limit, "is_met": self.is_met}


def jain(amounts: Sequence[float]) -> float | None:
    """Jain's index: 1 where everybody got the same, 1/n where one of n got everything. None: nobody got anything."""
    squares = sum(amount**2 for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else None


@dataclass
class Measured:
    """What was measured of one policy. Filled block by block."""

    alone: list[Served] = field(default_factory=list)
    """Turns of the light users on the idle engine."""
    light: list[Served] = field(default_factory=list)
    heavy: list[Served] = field(default_factory=list)
    back_to_back: list[Served] = field(default_factory=list)
    """Turns of light users who do not pause."""
    tokens: dict[str, int] = field(default_factory=dict)
    """What each of the equally busy users got."""
    seconds: float = 0
    """In which they got it."""

    @property
    def jain(self) -> float | None:
        """Of what the equally busy users got."""
        return jain(list(self.tokens.values()))

    @property
    def tokens_per_s(self) -> float | None:
        """What they got together."""
        return sum(self.tokens.values()) / self.seconds if self.seconds else None


@dataclass
class Figures:
    """Every policy's, and the time that a turn takes: the same for all, so that they can be compared."""

    by_policy: dict[str, Measured]

    @property
    def turn_ms(self) -> float | None:
        """A turn's own time: the median of the turns that were alone on an idle engine, of all policies."""
        own = [turn.own_ms for measured in self.by_policy.values() for turn in measured.alone]
        return statistics.median(own) if own else None

    def wait_turns(self, turns: Sequence[Served], percent: int) -> float | None:
        """A quantile of what these turns waited, as a multiple of a turn's own time."""
        return self._in_turns(_waits(turns), percent)

    @property
    def is_disturbed(self) -> bool:
        """The machine had something else to do: turns that had it to themselves took much longer than alone."""
        ours = self.by_policy.get(JUDGED, Measured())
        own_turns = self._in_turns(_own(ours.light), 95)
        return own_turns is not None and own_turns > MAX_OWN_TURNS

    def goals(self) -> list[Goal]:
        """What is asked of us, as far as it was measured."""
        ours = self.by_policy.get(JUDGED, Measured())
        asked = (
            ("light_p95_wait_turns", self.wait_turns(ours.light, 95), MAX_LIGHT_WAIT_TURNS, True),
            ("jain", ours.jain, MIN_JAIN, False),
        )
        return [Goal(name, found, limit, is_most) for name, found, limit, is_most in asked if found is not None]

    def rows(self) -> list[tuple[object, ...]]:
        """A table for people: the figure, each policy's, what was asked."""
        asked = {goal.figure: str(goal) for goal in self.goals()}
        every = list(self.by_policy.values())
        rows: list[tuple[object, ...]] = []
        groups = (
            ("light users", [one.light for one in every], "light_p95_wait_turns"),
            ("the heavy user", [one.heavy for one in every], None),
            ("light users who never pause", [one.back_to_back for one in every], None),
        )
        for who, turns, goal in groups:
            for percent in (50, 95):
                words = f"{who} wait, p{percent}" if who != "the heavy user" else f"{who} waits, p{percent}"
                cells = [self._in_words(_waits(one), percent) for one in turns]
                rows.append((words, *cells, asked.get(goal or "") if percent == 95 else None))
        for percent in (50, 95):
            cells = [self._in_words(_own(one.light), percent) for one in every]
            rows.append((f"light turns take from slot to end, p{percent}", *cells, None))
        rows.append(("turns of light users measured", *(len(one.light) for one in every), None))
        rows.append(("Jain's index", *(_rounded(one.jain, 3) for one in every), asked.get("jain")))
        rows.append(("tokens a second", *(_rounded(one.tokens_per_s, 0) for one in every), None))
        return rows

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            **{name: self._describe(measured) for name, measured in self.by_policy.items()},
            "turn_ms": _rounded(self.turn_ms, 2),
            "is_disturbed": self.is_disturbed,
            "goals": [goal.as_json() for goal in self.goals()],
        }

    def _describe(self, one: Measured) -> dict[str, Any]:
        return {
            "light_p95_wait_turns": _rounded(self.wait_turns(one.light, 95), 3),
            "jain": _rounded(one.jain, 4),
            "light": self._describe_turns(one.light),
            "heavy": self._describe_turns(one.heavy),
            "back_to_back": self._describe_turns(one.back_to_back),
            "alone": self._describe_turns(one.alone),
            "tokens": one.tokens,
            "tokens_per_s": _rounded(one.tokens_per_s, 1),
        }

    def _describe_turns(self, turns: Sequence[Served]) -> dict[str, Any] | None:
        if not turns:
            return None
        waits, own = _waits(turns), _own(turns)
        return {
            "wait_turns": {f"p{percent}": _rounded(self._in_turns(waits, percent), 3) for percent in (50, 95)},
            "wait_ms": {f"p{percent}": round(waits.quantile_ms(percent), 2) for percent in (50, 95)},
            "own_ms": {f"p{percent}": round(own.quantile_ms(percent), 2) for percent in (50, 95)},
            "samples": len(turns),
        }

    def _in_turns(self, times: Latency, percent: int) -> float | None:
        turn_ms = self.turn_ms
        return times.quantile_ms(percent) / turn_ms if times.samples_ms and turn_ms else None

    def _in_words(self, times: Latency, percent: int) -> str | None:
        multiple = self._in_turns(times, percent)
        return None if multiple is None else f"{multiple:.2f} turns, {times.quantile_ms(percent):.0f} ms"


def _waits(turns: Sequence[Served]) -> Latency:
    return Latency(tuple(turn.wait_ms for turn in turns))


def _own(turns: Sequence[Served]) -> Latency:
    return Latency(tuple(turn.own_ms for turn in turns))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
