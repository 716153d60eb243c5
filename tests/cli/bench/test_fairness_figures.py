"""Statistics of the fairness bench, by values."""

from __future__ import annotations

import json

import pytest

from hugind.cli.bench.fairness_figures import Figures, Measured, Served, jain

NEEDED = {"light_p95_wait_turns", "jain"}


def turn(wait_ms: float, own_ms: float = 100, tokens: int = 20) -> Served:
    return Served(1, 1 + (wait_ms + own_ms) / 1e3, wait_ms, tokens)


def filled() -> Figures:
    """A turn takes 100 ms alone: at the one policy's engine a little less, at the other's a little more."""
    fifo = Measured(
        alone=[turn(0, 90), turn(0, 100)],
        light=[turn(2000, 200), turn(3000, 200)],
        heavy=[turn(2500, 200)],
        tokens={"busy-8": 10, "busy-64": 30},
        seconds=4,
    )
    fair = Measured(
        alone=[turn(0, 100), turn(0, 110)],
        light=[turn(float(wait_ms)) for wait_ms in range(101)],
        heavy=[turn(4000), turn(5000)],
        back_to_back=[turn(400)],
        tokens={"busy-8": 20, "busy-64": 21},
        seconds=4,
    )
    return Figures({"fifo": fifo, "fair": fair})


@pytest.mark.parametrize(
    ("amounts", "index"),
    [
        ([5, 5, 5, 5], 1.0),
        ([7, 0, 0, 0], 0.25),
        ([1, 3], 0.8),
        ([3], 1.0),
        ([0, 0], None),
        ([], None),
    ],
)
def test_jain(amounts: list[float], index: float | None) -> None:
    """1 where all got the same, 1/n where one got all, nothing where nobody got anything."""
    assert index == jain(amounts)


def test_own_time_is_what_is_not_waiting() -> None:
    """From the slot to the end: what the client saw, less what it waited by the gateway's word."""
    assert 60 == pytest.approx(Served(10.0, 10.1, 40, 1).own_ms)


def test_all_are_measured_in_the_same_turns() -> None:
    """A turn is the median of those alone on the idle engine, of both policies: not what a crowded one makes of it."""
    figures = filled()
    fifo, fair = figures.by_policy.values()

    assert 100 == pytest.approx(figures.turn_ms)
    assert 29.5 == pytest.approx(figures.wait_turns(fifo.light, 95))
    assert 0.95 == pytest.approx(figures.wait_turns(fair.light, 95))


@pytest.mark.parametrize(
    ("waits", "tokens", "met"),
    [((100, 149), (20, 20), [True, True]), ((151, 151), (10, 30), [False, False])],
)
def test_something_is_asked_of_ours_alone(waits: tuple[float, ...], tokens: tuple[int, int], met: list[bool]) -> None:
    """A wait of at most one turn and a half, nearly equal shares; order of arrival may be as bad as it is."""
    figures = filled()
    figures.by_policy["fair"].light = [turn(wait_ms) for wait_ms in waits]
    figures.by_policy["fair"].tokens = dict(zip(("busy-8", "busy-64"), tokens, strict=True))

    assert ["light_p95_wait_turns", "jain"] == [goal.figure for goal in figures.goals()]
    assert met == [goal.is_met for goal in figures.goals()]
    assert ["met: at most 1.5" if met[0] else "MISSED: at most 1.5"] == [str(figures.goals()[0])]


@pytest.mark.parametrize(("own_ms", "is_disturbed"), [(140, False), (160, True)])
def test_busy_machine_is_noticed(own_ms: float, is_disturbed: bool) -> None:
    """A turn that has the machine to itself takes as long as alone, or something else is going on."""
    figures = filled()
    figures.by_policy["fair"].light = [turn(10, 100)] * 18 + [turn(10, own_ms)] * 2

    assert is_disturbed == figures.is_disturbed == figures.as_json()["is_disturbed"]


def test_json_has_every_figure() -> None:
    """By the names that programs rely on; waits in turns and in milliseconds, with their number."""
    said = json.loads(json.dumps(filled().as_json()))

    assert said["fifo"].keys() == said["fair"].keys() >= NEEDED
    assert (29.5, 0.8) == (said["fifo"]["light_p95_wait_turns"], said["fifo"]["jain"])
    assert {
        "wait_turns": {"p50": 0.5, "p95": 0.95},
        "wait_ms": {"p50": 50, "p95": 95},
        "own_ms": {"p50": 100, "p95": 100},
        "samples": 101,
    } == said["fair"]["light"]
    assert 45 == said["fair"]["heavy"]["wait_turns"]["p50"]
    assert None is said["fifo"]["back_to_back"]
    assert (10, {"busy-8": 10, "busy-64": 30}) == (said["fifo"]["tokens_per_s"], said["fifo"]["tokens"])
    assert [True, True] == [goal["is_met"] for goal in said["goals"]]
    assert 100 == said["turn_ms"]


def test_table_for_people() -> None:
    """A row for each figure, a column for each policy; what was not measured is left open."""
    rows = {str(row[0]): row[1:] for row in filled().rows()}

    assert ("29.50 turns, 2950 ms", "0.95 turns, 95 ms", "met: at most 1.5") == rows["light users wait, p95"]
    assert ("25.00 turns, 2500 ms", "45.00 turns, 4500 ms", None) == rows["the heavy user waits, p50"]
    assert (None, "4.00 turns, 400 ms", None) == rows["light users who never pause wait, p95"]
    assert ("2.00 turns, 200 ms", "1.00 turns, 100 ms", None) == rows["light turns take from slot to end, p95"]
    assert (2, 101, None) == rows["turns of light users measured"]
    assert (0.8, 0.999, "met: at least 0.95") == rows["Jain's index"]


def test_what_was_not_measured_is_null() -> None:
    """No turns, no figures, and nothing is asked."""
    empty = Figures({"fifo": Measured(), "fair": Measured()})
    said = empty.as_json()

    assert {None} == {said[name][figure] for name in ("fifo", "fair") for figure in NEEDED}
    assert [] == said["goals"]
    assert 11 == len(empty.rows())
    assert not empty.is_disturbed
