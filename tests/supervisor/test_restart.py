"""Laws of restarting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.restart import GiveUp, RestartIn, RestartPolicy, decide

_POLICY = RestartPolicy(backoff_s=1, backoff_max_s=8, max_deaths=6, death_window_s=100)
_TIMES = st.lists(st.floats(0, 1000), min_size=1, max_size=20).map(sorted)
_POLICIES = st.builds(
    RestartPolicy,
    backoff_s=st.floats(0, 100),
    backoff_max_s=st.floats(0, 1000),
    max_deaths=st.integers(1, 30),
    death_window_s=st.floats(0.001, 1000),
)
_JITTER = st.floats(0, 1)


def test_delays_double_up_to_the_longest() -> None:
    """Each death within the window doubles the delay, up to the longest."""
    delays = [decide([99.0] * deaths, 100, _POLICY, jitter=0) for deaths in range(1, 6)]

    assert delays == [RestartIn(1), RestartIn(2), RestartIn(4), RestartIn(8), RestartIn(8)]


def test_gives_up() -> None:
    """So many deaths within the window are a crash loop."""
    assert decide([99.0] * 6, 100, _POLICY, jitter=0) == GiveUp(6, 100)


def test_old_deaths_are_forgotten() -> None:
    """Deaths before the window neither delay nor count."""
    assert decide([1.0] * 50 + [200.0], 200, _POLICY, jitter=0) == RestartIn(1)


def test_patience_without_end() -> None:
    """However many deaths are allowed, a delay can be computed."""
    policy = RestartPolicy(backoff_s=0.5, backoff_max_s=30, max_deaths=10_000, death_window_s=300)

    assert decide([0.0] * 5000, 1, policy, jitter=0) == RestartIn(30)


@given(_TIMES, _POLICIES, _JITTER)
def test_delay_is_bounded(deaths: list[float], policy: RestartPolicy, jitter: float) -> None:
    """A delay is never negative and at most half longer than the longest."""
    match decide(deaths, deaths[-1], policy, jitter):
        case RestartIn(delay_s):
            assert 0 <= delay_s <= policy.backoff_max_s * 1.5
        case GiveUp(count):
            assert count >= policy.max_deaths


@given(_TIMES, _POLICIES, _JITTER)
def test_another_death_never_helps(deaths: list[float], policy: RestartPolicy, jitter: float) -> None:
    """One death more never shortens the delay, and never undoes giving up."""
    now = deaths[-1]
    before, after = decide(deaths, now, policy, jitter), decide([*deaths, now], now, policy, jitter)
    if isinstance(before, GiveUp):
        assert isinstance(after, GiveUp)
    elif isinstance(after, RestartIn):
        assert after.delay_s >= before.delay_s


@given(_TIMES, _POLICIES, _JITTER, _JITTER)
def test_dice_only_stretch(deaths: list[float], policy: RestartPolicy, one: float, other: float) -> None:
    """The dice decide when, never whether."""
    kinds = {type(decide(deaths, deaths[-1], policy, jitter)) for jitter in (one, other)}

    assert len(kinds) == 1
