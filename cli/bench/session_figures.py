"""What the session bench measured, and what is asked of it. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hugind.cli.bench.conversation import Turn
from hugind.cli.bench.load import Latency
from hugind.cli.bench.stall import Stall

LABELS = {
    "best": "hot",
    "returning": "warm",
    "after_kill": "warm",
    "after_restart": "cold",
    "after_reboot": "cold",
    "reprefill": "new",
}
"""The gateway's word that the turns of a figure should carry."""
_PLACES = ("hot", "warm", "cold", "new")
"""The same words, the fastest first."""
WORDS = {
    "best": "best: never left its slot",
    "returning": "returning, from memory",
    "after_kill": "after kill -9 of the engine",
    "after_restart": "after a restart, from disk",
    "after_reboot": "after a reboot, nothing cached",
    "engine_cache": "engine's RAM cache",
    "engine_cache_pinned": "the same, pinned",
    "engine_hot": "engine, never left its slot",
    "reprefill": "computed anew",
}
"""Every figure, for people, in the order of a table."""

LONG_HISTORY = 3500
"""Tokens. Computing a short history anew is so fast that nothing can be so many times faster."""
_SHARES_OF_REPREFILL = ((16, 50), (128, 15))
"""New tokens at most, and how many times faster than computing everything anew a return is to be."""


@dataclass(frozen=True)
class Goal:
    """One median against another."""

    figure: str
    limit: float
    """As a multiple of `than`."""
    than: str
    found: float

    @property
    def is_met(self) -> bool:
        return self.found <= self.limit

    def __str__(self) -> str:
        limit = f"{self.limit:.2f}" if self.limit > 0.5 else f"1/{1 / self.limit:.0f}"
        found = f"{self.found:.2f}" if self.limit > 0.5 else f"1/{1 / self.found:.1f}"
        return f"{'met' if self.is_met else 'MISSED'}: {found} of {self.than} (at most {limit})"


@dataclass
class Run:
    """One length of history with one size of turns. Filled turn by turn."""

    tokens: int
    new: int
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    saved_bytes: list[int] = field(default_factory=list)
    unsaved: int = 0
    """Turns after which no snapshot was seen."""
    stall: Stall | None = None

    def add(self, figure: str, turn: Turn) -> None:
        """Count a turn."""
        self.turns.setdefault(figure, []).append(turn)

    def latency(self, figure: str) -> Latency | None:
        """The times to first token of a figure, without turns that would flatter us."""
        samples = tuple(turn.ttft_ms for turn in self.turns.get(figure, []) if not _is_flattering(figure, turn))
        return Latency(samples) if samples else None

    def median_ms(self, figure: str) -> float | None:
        """The median time to first token, milliseconds; None where it was not measured."""
        latency = self.latency(figure)
        return latency.p50_ms if latency else None

    @property
    def cached_share(self) -> float | None:
        """Of the prompts of returning turns, the share of tokens that was not computed."""
        turns = self.turns.get("returning", [])
        prompt = sum(turn.prompt_tokens for turn in turns)
        return sum(turn.cached_tokens for turn in turns) / prompt if prompt else None

    @property
    def unexpected(self) -> dict[str, dict[str, int]]:
        """Turns that did not come from where they should have, by figure and by label."""
        found = {
            figure: Counter(str(turn.label) for turn in self.turns.get(figure, []) if turn.label != label)
            for figure, label in LABELS.items()
        }
        return {figure: dict(labels) for figure, labels in found.items() if labels}

    def rows(self) -> list[tuple[object, ...]]:
        """A table for people: figure, median, p99, multiple of the best case, what was asked of it."""
        goals = self.goals()
        rows: list[tuple[object, ...]] = []
        for figure, words in WORDS.items():
            if (latency := self.latency(figure)) is None:
                continue
            ratio = self._ratio(figure, "best")
            asked = "; ".join(str(goal) for goal in goals if goal.figure == figure)
            times = (f"{latency.p50_ms:.1f}", f"{latency.p99_ms:.1f}", f"{ratio:.2f}" if ratio is not None else None)
            rows.append((words, *times, asked or None))
        return rows

    def __str__(self) -> str:
        """What the table does not say."""
        parts = [f"{self.tokens} tokens, turns of {self.new}"]
        if self.cached_share is not None:
            parts.append(f"{self.cached_share:.1%} of a returning prompt reused")
        if self.saved_bytes:
            parts.append(f"{statistics.median(self.saved_bytes) / 1e6:.1f} MB saved a turn")
        if self.stall and self.stall.alone and self.stall.evicting:
            beside = f"{self.stall.hot.longest_ms:.0f}" if self.stall.hot else "-"
            parts.append(
                f"longest gap of a neighbour's stream {self.stall.evicting.longest_ms:.0f} ms "
                f"({beside} beside hot turns, {self.stall.alone.longest_ms:.0f} alone; "
                f"median {self.stall.alone.median_ms:.1f})"
            )
        if self.unsaved:
            parts.append(f"{self.unsaved} turns were not saved")
        for figure, labels in self.unexpected.items():
            parts.append(f"{figure}: " + ", ".join(f"{count} turns {label}" for label, count in labels.items()))
        return "; ".join(parts)

    def goals(self) -> list[Goal]:
        """What is asked of a return, as far as it was measured."""
        wanted = [("returning", 1.15, "best"), ("returning", 1.05, "engine_cache")]
        share = next((share for new, share in _SHARES_OF_REPREFILL if self.new <= new), None)
        if share is not None and self.tokens >= LONG_HISTORY:
            wanted.append(("returning", 1 / share, "reprefill"))
        wanted += [("after_kill", 1.2, "best"), ("after_restart", 1.5, "best"), ("after_reboot", 1.5, "best")]
        ratios = ((figure, limit, than, self._ratio(figure, than)) for figure, limit, than in wanted)
        return [Goal(figure, limit, than, found) for figure, limit, than, found in ratios if found is not None]

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        medians = {f"{figure}_ttft_ms": _rounded(self.median_ms(figure)) for figure in WORDS}
        evicting = self.stall.evicting if self.stall else None
        latencies = {figure: self.latency(figure) for figure in WORDS}
        return {
            "tokens": self.tokens,
            "new": self.new,
            **medians,
            "cached_share": _rounded(self.cached_share, 4),
            "neighbour_stall_ms": _rounded(evicting.longest_ms) if evicting else None,
            "neighbour": asdict(self.stall) if self.stall else None,
            "bytes_per_turn": round(statistics.median(self.saved_bytes)) if self.saved_bytes else None,
            "unsaved": self.unsaved,
            "unexpected": self.unexpected,
            "ttft_ms": {
                figure: {"p50": _rounded(one.p50_ms), "p99": _rounded(one.p99_ms), "samples": len(one.samples_ms)}
                for figure, one in latencies.items()
                if one is not None
            },
            "parts_ms": {figure: self._parts(turns) for figure, turns in self.turns.items()},
            "goals": [{**asdict(goal), "is_met": goal.is_met} for goal in self.goals()],
        }

    def _ratio(self, figure: str, than: str) -> float | None:
        one, other = self.median_ms(figure), self.median_ms(than)
        return one / other if one is not None and other else None

    @staticmethod
    def _parts(turns: list[Turn]) -> Mapping[str, float | None]:
        """Medians of where the time of a figure's turns went, beside how many tokens were computed."""
        names = dict.fromkeys(name for turn in turns for name in turn.parts_ms)
        parts = {name: _rounded(statistics.median(turn.parts_ms.get(name, 0.0) for turn in turns)) for name in names}
        return {**parts, "computed_tokens": statistics.median(turn.computed_tokens for turn in turns)}


def _is_flattering(figure: str, turn: Turn) -> bool:
    """A best case that was none; or a turn that had it easier than its figure says."""
    label = LABELS.get(figure)
    if label is None or turn.label == label:
        return False
    return figure == "best" or (turn.label in _PLACES and _PLACES.index(turn.label) < _PLACES.index(label))


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
