"""May a dead worker be restarted now? Backoff, crash loop, give up. Pure: the clock and the dice are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_DOUBLINGS = 64
"""Beyond it a float could not hold the delay, whatever `max_deaths` allows."""


@dataclass(frozen=True)
class RestartPolicy:
    """How patient to be. All times in seconds."""

    backoff_s: float
    backoff_max_s: float
    max_deaths: int
    death_window_s: float


@dataclass(frozen=True)
class RestartIn:
    """Start again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True)
class GiveUp:
    """A crash loop: `deaths` within `window_s`. Somebody has to look."""

    deaths: int
    window_s: float


def decide(deaths: Sequence[float], now: float, policy: RestartPolicy, jitter: float) -> RestartIn | GiveUp:
    """What to do after the last of `deaths` (times on the clock of `now`).

    The delay doubles with each death inside the window, up to `backoff_max_s`, and is then stretched by up to half
    with `jitter` in [0, 1], so that workers that died together do not return together.
    """
    recent = [t for t in deaths if now - t <= policy.death_window_s]
    if len(recent) >= policy.max_deaths:
        return GiveUp(len(recent), policy.death_window_s)
    doublings = min(max(len(recent) - 1, 0), MAX_DOUBLINGS)
    delay = min(policy.backoff_s * 2**doublings, policy.backoff_max_s)
    return RestartIn(delay * (1 + jitter / 2))
