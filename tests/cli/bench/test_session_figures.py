"""Statistics of the session bench, by values."""

from __future__ import annotations

import json

import pytest

from hugind.cli.bench.conversation import Turn
from hugind.cli.bench.session_figures import Goal, Run
from hugind.cli.bench.stall import Gaps, Stall

NEEDED = {
    *("tokens", "reprefill_ttft_ms", "returning_ttft_ms", "engine_cache_ttft_ms", "after_kill_ttft_ms"),
    *("after_restart_ttft_ms", "cached_share", "neighbour_stall_ms"),
}


def turn(ttft_ms: float, label: str | None = None, *, prompt: int = 100, cached: int = 0) -> Turn:
    return Turn(ttft_ms, "text", prompt, cached, label, {"restore": ttft_ms / 10})


def filled() -> Run:
    run = Run(4000, 90)
    for ttft_ms in (100, 200, 300):
        run.add("best", turn(ttft_ms, "hot"))
        run.add("returning", turn(ttft_ms * 1.1, "warm", prompt=4000, cached=3900))
        run.add("engine_cache", turn(ttft_ms * 1.08))
        run.add("after_kill", turn(ttft_ms * 1.3, "warm"))
        run.add("after_restart", turn(ttft_ms * 1.4, "cold"))
        run.add("after_reboot", turn(ttft_ms * 1.6, "cold"))
        run.add("reprefill", turn(4400, "new"))
    run.saved_bytes += [10_000_000, 50_000_000, 60_000_000]
    run.stall = Stall(Gaps(40, 5.0, 7.0), Gaps(50, 6.0, 30.0), Gaps(50, 6.0, 41.5))
    return run


def test_goals_by_values() -> None:
    """Each goal is one median against another."""
    found = {(goal.figure, goal.than): (round(goal.found, 3), goal.is_met) for goal in filled().goals()}

    assert {
        ("returning", "best"): (1.1, True),
        ("returning", "engine_cache"): (1.019, True),
        ("returning", "reprefill"): (0.05, True),
        ("after_kill", "best"): (1.3, False),
        ("after_restart", "best"): (1.4, True),
        ("after_reboot", "best"): (1.6, False),
    } == found


@pytest.mark.parametrize(
    ("tokens", "new", "limit"),
    [(4000, 8, 1 / 50), (4000, 90, 1 / 15), (16000, 90, 1 / 15), (1000, 90, None), (4000, 500, None)],
)
def test_reprefill_goal_depends_on_the_sizes(tokens: int, new: int, limit: float | None) -> None:
    """The fewer tokens are new the more is asked; of short histories, and of long turns, nothing."""
    run = Run(tokens, new)
    run.add("returning", turn(1, "warm"))
    run.add("reprefill", turn(100, "new"))

    assert ([limit] if limit else []) == [goal.limit for goal in run.goals()]


def test_flattering_turns_are_counted_apart() -> None:
    """A return that never left, a best case that had to be restored: neither is a sample; a worse return is one."""
    run = Run(4000, 90)
    for label, ttft_ms in (("warm", 10), ("hot", 1), ("new", 1000), ("cold", 20)):
        run.add("returning", turn(ttft_ms, label))
        run.add("best", turn(ttft_ms, label))

    assert 20 == run.median_ms("returning")
    assert 1 == run.median_ms("best")
    assert {"best": {"warm": 1, "new": 1, "cold": 1}, "returning": {"hot": 1, "new": 1, "cold": 1}} == run.unexpected


def test_goal_reads_as_a_sentence() -> None:
    """For people: met or missed, what was found, what was asked."""
    assert "met: 1.10 of best (at most 1.15)" == str(Goal("returning", 1.15, "best", 1.1))
    assert "MISSED: 1/10.0 of reprefill (at most 1/15)" == str(Goal("returning", 1 / 15, "reprefill", 0.1))


def test_json_has_every_figure() -> None:
    """Medians on top, by the names that programs rely on; quantiles and parts below."""
    said = json.loads(json.dumps(filled().as_json()))

    assert said.keys() >= NEEDED
    assert (200, 220, 0.975, 41.5) == (
        *(said["best_ttft_ms"], said["returning_ttft_ms"]),
        *(said["cached_share"], said["neighbour_stall_ms"]),
    )
    assert {"p50": 220, "p99": 327.8, "samples": 3} == said["ttft_ms"]["returning"]
    assert {"restore": 22, "computed_tokens": 100} == said["parts_ms"]["returning"]
    assert 50_000_000 == said["bytes_per_turn"]
    assert 6 == said["neighbour"]["evicting"]["median_ms"]
    assert [True, True, True, False, True, False] == [goal["is_met"] for goal in said["goals"]]


def test_what_was_not_measured_is_null() -> None:
    """One slot has no neighbours; a figure without turns has no median, and nothing is asked of it."""
    said = Run(4000, 90).as_json()

    assert {None} == {said[key] for key in NEEDED - {"tokens"}}
    assert [] == said["goals"] == Run(4000, 90).rows()


def test_table_for_people() -> None:
    """A row for each figure that was measured, with its multiple of the best case."""
    rows = filled().rows()

    assert ("best: never left its slot", "200.0", "298.0", "1.00", None) == rows[0]
    assert rows[1][4] is not None
    assert 7 == len(rows)
    assert (
        "4000 tokens, turns of 90; 97.5% of a returning prompt reused; 50.0 MB saved a turn; longest gap of a "
        "neighbour's stream 42 ms (30 beside hot turns, 7 alone; median 5.0)"
    ) == str(filled())
