"""Silence alone proves no hang."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.hang import HangWatch, Look

_FIRST = Look(at=0, has_answered=True, bytes_relayed=0, cpu_s=0)


def _watch(*, max_failures: int = 3, compute_stall_s: float = 100) -> HangWatch:
    return HangWatch(_FIRST, max_failures, compute_stall_s)


def _silent(at: float, *, relayed: int = 0, cpu_s: float = 0) -> Look:
    return Look(at, has_answered=False, bytes_relayed=relayed, cpu_s=cpu_s)


def test_silence_without_work() -> None:
    """So many looks in a row without an answer, a byte or work are a hang, and not one fewer."""
    watch = _watch()
    verdicts = [watch.judge(_silent(at)) for at in (1, 2, 3)]

    assert verdicts == [None, None, "no answer to 3 looks in a row and no progress"]


def test_an_answer_begins_anew() -> None:
    """Failed looks count only in a row."""
    watch = _watch()
    looks = [_silent(1), _silent(2), Look(3, True, 0, 0), _silent(4), _silent(5)]

    assert [watch.judge(look) for look in looks] == [None] * 5


def test_bytes_are_progress() -> None:
    """A worker whose turn streams is no hang, even where one failed look would be enough."""
    watch = _watch(max_failures=1)

    assert [watch.judge(_silent(at, relayed=at)) for at in range(1, 20)] == [None] * 19
    assert watch.judge(_silent(20, relayed=19)) is not None


def test_computing_is_progress_for_so_long() -> None:
    """A worker that computes is no hang until `compute_stall_s` have passed since its last sign."""
    watch = _watch(max_failures=1, compute_stall_s=10)

    assert [watch.judge(_silent(at, cpu_s=at)) for at in range(1, 11)] == [None] * 10
    assert watch.judge(_silent(11, cpu_s=11)) == "no answer for 11 s of computing"


def test_a_little_cpu_is_no_computing() -> None:
    """What a process uses to do nothing is no sign of life."""
    watch = _watch(max_failures=2)

    assert [watch.judge(_silent(at, cpu_s=at * 0.01)) is None for at in (1, 2)] == [True, False]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.floats(0, 1)), max_size=50), st.integers(1, 5))
def test_a_worker_that_answers_is_never_ended(steps: list[tuple[bool, int, float]], max_failures: int) -> None:
    """Whatever came before, no look that got an answer ends a worker."""
    watch = _watch(max_failures=max_failures)
    relayed, cpu_s = 0, 0.0
    for at, (has_answered, moved, used) in enumerate(steps, start=1):
        relayed, cpu_s = relayed + moved, cpu_s + used
        verdict = watch.judge(Look(at, has_answered, relayed, cpu_s))

        assert verdict is None or not (has_answered or moved)
