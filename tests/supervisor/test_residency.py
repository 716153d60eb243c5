"""Which engines are loaded, which leave, which come: laws for any situation, and situations by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.models.sizing import Footprint
from hugind.supervisor.residency import (
    DEFAULT_LOAD_S,
    NOTHING,
    SETTLING_LOOK_S,
    TERM_S,
    Decision,
    FleetRules,
    Group,
    Stage,
    Standing,
    decide,
    value,
)

NOW = 1000.0
ROOM = FleetRules(ram_bytes=10, vram_bytes=10)
NAMES = "abcdef"


def size(ram: int, vram: int = 0) -> Footprint:
    return Footprint(ram, vram)


def ready(name: str, *, refs: int = 0, ram: int = 1, since: float = 900.0, **more: Any) -> Standing:
    """One that is loaded: idle since long, or in use."""
    idle_since = None if refs else since
    return Standing(name, "ready", size(ram), refs, ready_since=since, **{"idle_since": idle_since, **more})


def asking(name: str, *, ram: int = 1, since: float = 999.0, stage: Stage = "away", **more: Any) -> Standing:
    """One that somebody waits for."""
    return Standing(name, stage, size(ram), **{"refs": 1, "asked_since": since, **more})


def one_at_a_time(**more: Any) -> FleetRules:
    return FleetRules(max_resident=1, **more)


# ---- situations


def test_what_fits_is_loaded() -> None:
    """In the order in which it was asked for, beside what is there."""
    there = [asking("b", since=2), asking("a", since=3), ready("c"), asking("d", since=1, ram=8)]

    assert Decision(load=["d", "b"]) == decide(there[:1] + there[2:], ROOM, None, NOW)
    assert Decision(load=["d", "b"], unload=["c"]).load == decide(there, ROOM, None, NOW).load


def test_the_first_is_always_tried() -> None:
    """However large the estimate: the engine itself finds a way, or says why not."""
    assert ["a"] == decide([asking("a", ram=99)], ROOM, size(1), NOW).load


def test_a_large_one_has_the_machine_for_itself() -> None:
    """What would be too much with anything else comes once everything else has left."""
    decision = decide([asking("a", ram=99), ready("b"), ready("c")], ROOM, None, NOW)

    assert ([], {"b", "c"}) == (decision.load, set(decision.unload))


def test_the_least_valuable_leaves() -> None:
    """Quick to load again, seldom used, idle for long."""
    rules = FleetRules(max_resident=2)
    dear = ready("dear", load_s=30.0, uses=5)
    for cheap in (
        ready("cheap", load_s=1.0, uses=5),
        ready("cheap", load_s=30.0),
        ready("cheap", since=1, load_s=30.0),
    ):
        assert ["cheap"] == decide([asking("a"), dear, cheap], rules, None, NOW).unload
        assert value(cheap, NOW) < value(dear, NOW)


def test_no_more_leave_than_must() -> None:
    """A large one that makes the room alone leaves alone, though small ones are worth less."""
    small = [ready(name, ram=1, since=1) for name in "bc"]
    decision = decide([asking("a", ram=6), *small, ready("d", ram=8, load_s=60.0)], ROOM, None, NOW)

    assert ["d"] == decision.unload


def test_nobody_comes_before_others_have_left() -> None:
    """Its room is kept, for all who come later, too."""
    ending = Standing("b", "ending", size(8))
    head = asking("a", ram=8, since=1)

    assert [] == decide([head, ending], ROOM, None, NOW).load
    assert [] == decide([head, ending, asking("c", ram=5, since=2)], ROOM, None, NOW).load
    assert ["c"] == decide([head, ending, asking("c", ram=2, since=2)], ROOM, None, NOW).load


def test_one_that_is_wanted_again_while_it_leaves_keeps_its_place() -> None:
    """It comes when it is gone; nobody else takes its room."""
    there = [asking("a", stage="ending", since=1), asking("b", since=2)]

    assert Decision() == decide(there, one_at_a_time(), None, NOW)


def test_pinned_ones_stay() -> None:
    """Whoever has no room beside them is told so."""
    decision = decide([asking("a"), ready("b", is_pinned=True, expires_at=1)], one_at_a_time(), None, NOW)

    assert ([], []) == (decision.load, decision.unload)
    assert {"a": "there is no room beside what is pinned: b"} == decision.hopeless


def test_who_is_to_come_beside_pinned_ones_waits_for_memory() -> None:
    """What loads, or has just ended, may give back what is missing: only what will never fit is told so."""
    rules = FleetRules(max_resident=2)
    pinned, wanted = ready("pinned", ram=4, is_pinned=True), asking("a", ram=4)
    loading, busy = Standing("b", "loading", size(4), 1), ready("b", ram=1, refs=1, since=NOW)
    waits = Decision(look_again_at=NOW + SETTLING_LOOK_S)

    assert waits == decide([pinned, loading, wanted], rules, size(1), NOW)
    assert waits == decide([pinned, busy, wanted], rules, size(1), NOW, is_settling=True)
    assert {"a"} == decide([pinned, busy, wanted], rules, size(1), NOW).hopeless.keys()


def test_what_nobody_waits_for_sends_nobody_away() -> None:
    """One that comes at the start comes where there is room."""
    decision = decide([asking("a", refs=0, is_needed=False), ready("b")], one_at_a_time(), None, NOW)

    assert ([], [], ["a"]) == (decision.load, decision.unload, list(decision.hopeless))


def test_a_load_that_nobody_waits_for_any_more_may_be_given_up() -> None:
    """One that somebody waits for not."""
    abandoned = Standing("b", "loading", size(1))

    assert ["b"] == decide([asking("a"), abandoned], one_at_a_time(), None, NOW).unload
    assert [] == decide([asking("a"), replace(abandoned, refs=1)], one_at_a_time(), None, NOW).unload


@pytest.mark.parametrize(
    ("busy", "yields_at"),
    [
        (ready("b", refs=1, since=NOW - 5), NOW - 2),
        (ready("b", refs=1, since=NOW - 1), NOW + 2),
        (ready("b", refs=1, since=NOW - 9, has_served=False), NOW - 9 + TERM_S),
        (ready("b", refs=1, since=NOW - TERM_S, has_served=False), NOW),
        (ready("b", refs=1, since=NOW - 9, is_pinned=True), math.inf),
        (Standing("b", "loading", size(1), refs=1), math.inf),
    ],
)
def test_a_busy_one_yields_after_its_time(busy: Standing, yields_at: float) -> None:
    """It has served for as long as the other takes to load, and those who waited for it."""
    decision = decide([asking("a", load_s=3.0), busy], one_at_a_time(), None, NOW)

    assert (["b"] if yields_at <= NOW else []) == decision.unload
    assert (math.inf if yields_at <= NOW else yields_at) == decision.look_again_at


def test_of_busy_ones_the_longest_ready_yields() -> None:
    """And none while an idle one can leave; idle ones stay until the busy one may leave, too."""
    rules, busy = FleetRules(max_resident=2), [ready("b", refs=1, since=10), ready("c", refs=1, since=5)]
    pair = Group("pair", frozenset("ac"))
    young = ready("c", refs=1, since=NOW - 0.5)

    assert ["c"] == decide([asking("a"), *busy], rules, None, NOW).unload
    assert ["d"] == decide([asking("a"), busy[0], ready("d")], rules, None, NOW).unload
    waiting = decide([asking("a", ram=10), young, ready("d", ram=2)], replace(ROOM, groups=(pair,)), None, NOW)
    assert ([], NOW - 0.5 + DEFAULT_LOAD_S) == (waiting.unload, waiting.look_again_at)


def test_idle_ones_leave_in_time() -> None:
    """Not the pinned, not the busy; and somebody looks again when the next one is due."""
    there = [
        ready("a", expires_at=NOW),
        ready("b", expires_at=NOW - 1, is_pinned=True),
        ready("c", expires_at=NOW - 1, refs=1),
        ready("d", expires_at=NOW + 7),
        ready("e"),
    ]

    assert Decision(unload=["a"], look_again_at=NOW + 7) == decide(there, FleetRules(), None, NOW)


def test_groups_share_a_place() -> None:
    """As many members as may; others do not matter."""
    rules = FleetRules(groups=(Group("big", frozenset("abc"), at_most=2),))
    there = [asking("a"), ready("b"), ready("c", since=1), ready("d", since=0)]

    assert ["c"] == decide(there, rules, None, NOW).unload
    assert ["a"] == decide([there[0], there[1], there[3]], rules, None, NOW).load


def test_groups_that_are_alone() -> None:
    """Nothing beside a member that is none, whoever came first."""
    rules = FleetRules(groups=(Group("alone", frozenset("ab"), at_most=2, is_alone=True),))

    assert ["c"] == decide([asking("a"), ready("b"), ready("c")], rules, None, NOW).unload
    assert ["a"] == decide([asking("a"), ready("b")], rules, None, NOW).load
    assert ["a", "b"] == sorted(decide([asking("c"), ready("a"), ready("b")], rules, None, NOW).unload)


def test_the_machines_word_counts_too() -> None:
    """What is free now, and what those who leave give back; memory that others took is not there."""
    there = [asking("a", ram=4), ready("b", ram=3)]

    assert ["a"] == decide(there, ROOM, size(4), NOW).load
    assert ["b"] == decide(there, ROOM, size(3), NOW).unload
    assert [] == decide([*there, Standing("c", "ending", size(2))], ROOM, size(2), NOW).load


def test_what_was_given_back_may_be_missing_for_a_while() -> None:
    """Nobody is sent away for it: somebody looks again. Nor while one loads that may have taken its memory already."""
    there = [asking("a", ram=4), ready("b", ram=3)]
    waiting = decide(there, ROOM, size(1), NOW, is_settling=True)
    loading = decide([*there, Standing("c", "loading", size(1), refs=1)], ROOM, size(1), NOW)

    assert Decision(look_again_at=NOW + SETTLING_LOOK_S) == waiting == loading


def test_who_comes_at_the_start() -> None:
    """All in their order, preloaded ones first; on demand only those."""
    rules = FleetRules(preload=("c", "nobody"))

    assert ["c", "a", "b"] == rules.expected("abc")
    assert ["c"] == replace(rules, is_on_demand=True).expected("abc")


# ---- laws


@st.composite
def standings(draw: st.DrawFn) -> list[Standing]:
    """Any situation."""
    return [draw(one_standing(name)) for name in NAMES[: draw(st.integers(0, len(NAMES)))]]


@st.composite
def one_standing(draw: st.DrawFn, name: str) -> Standing:
    """Any engine."""
    moments = st.floats(0, NOW, allow_nan=False)
    stage: Stage = draw(st.sampled_from(["away", "loading", "ready", "ending"]))
    refs = draw(st.integers(0, 2))
    is_asked = stage in ("away", "ending") and draw(st.booleans())
    return Standing(
        name,
        stage,
        size(draw(st.integers(0, 12)), draw(st.integers(0, 12))),
        refs,
        is_pinned=draw(st.booleans()),
        asked_since=draw(moments) if is_asked else None,
        is_needed=draw(st.booleans()),
        ready_since=draw(moments) if stage == "ready" else None,
        has_served=draw(st.booleans()),
        load_s=draw(st.none() | st.floats(0, 100)),
        uses=draw(st.floats(0, 100)),
        idle_since=None if refs else draw(moments),
        expires_at=draw(st.just(math.inf) | st.floats(0, 2 * NOW)),
    )


groups = st.builds(Group, st.just("g"), st.frozensets(st.sampled_from(NAMES)), st.integers(1, 3), st.booleans())
rules = st.builds(
    FleetRules,
    max_resident=st.integers(0, 4),
    groups=st.lists(groups, max_size=2).map(tuple),
    ram_bytes=st.none() | st.integers(0, 30),
    vram_bytes=st.none() | st.integers(0, 30),
)
free = st.none() | st.builds(Footprint, st.integers(0, 30), st.integers(0, 30))


@given(standings(), rules, free, st.booleans())
def test_laws(there: list[Standing], rules: FleetRules, free: Footprint | None, is_settling: bool) -> None:
    """Nobody who is needed is sent away before their time, and what is loaded has room."""
    decision = decide(there, rules, free, NOW, is_settling=is_settling)
    by_name = {one.name: one for one in there}

    assert len(set(decision.load + decision.unload)) == len(decision.load + decision.unload)
    for name in decision.unload:
        one = by_name[name]
        assert one.stage in ("ready", "loading")
        assert not one.is_pinned
        if one.is_busy:
            assert one.ready_since is not None
            assert one.has_served or NOW - one.ready_since >= TERM_S
            assert any(other.is_needed and other.asked_since is not None for other in there)
    for name in [*decision.load, *decision.hopeless]:
        assert by_name[name].asked_since is not None
    if decision.load:
        assert all(by_name[name].stage == "away" for name in decision.load)
        after = {one.name for one in there if one.stage != "away"} | set(decision.load)
        _check_room([by_name[name] for name in after], decision.load, rules, free)


def _check_room(after: list[Standing], load: list[str], rules: FleetRules, free: Footprint | None) -> None:
    assert not rules.max_resident or len(after) <= rules.max_resident
    names = {one.name for one in after}
    for group in rules.groups:
        members = names & group.members
        assert len(members) <= group.at_most
        assert not (group.is_alone and members) or members == names
    if len(after) == 1:
        return
    ram, vram = sum(one.footprint.ram_bytes for one in after), sum(one.footprint.vram_bytes for one in after)
    assert rules.ram_bytes is None or ram <= rules.ram_bytes
    assert rules.vram_bytes is None or vram <= rules.vram_bytes
    if free is not None:
        assert sum(one.footprint.ram_bytes for one in after if one.name in load) <= free.ram_bytes
        assert sum(one.footprint.vram_bytes for one in after if one.name in load) <= free.vram_bytes


@given(standings(), rules, st.data())
def test_whoever_waits_is_served(there: list[Standing], rules: FleetRules, data: st.DataObject) -> None:
    """However the turns fall: everybody who was asked for at the beginning is loaded once, or told that it cannot be.

    Time passes, loads end well, what drains ends; busy ones stay busy for ever, and are asked for again when they left.
    """
    there = [
        replace(one, refs=max(one.refs, 1), is_needed=True, idle_since=None) if one.asked_since is not None else one
        for one in there
    ]
    waiting = {one.name for one in there if one.asked_since is not None}
    now = NOW
    for _ in range(20 * len(NAMES)):
        decision = decide(there, rules, None, now)
        waiting -= {*decision.load, *decision.hopeless}
        if not waiting:
            return
        there = [_after(one, decision, now, data) for one in there]
        now += 200.0

    pytest.fail(f"{waiting} still wait")


def _after(one: Standing, decision: Decision, now: float, data: st.DataObject) -> Standing:
    if one.name in decision.load:
        return replace(one, stage="loading", asked_since=None, ready_since=None)
    if one.name in decision.hopeless:
        return replace(one, refs=0, asked_since=None)
    if one.name in decision.unload:
        return replace(one, stage="ending", ready_since=None, asked_since=now if one.refs else None)
    if one.stage == "ending" and data.draw(st.booleans(), label=f"{one.name} is gone"):
        return replace(one, stage="away")
    if one.stage == "loading":
        return replace(one, stage="ready", ready_since=now, has_served=False)
    return replace(one, has_served=True)


def test_nothing_is_nothing() -> None:
    """No engines, nothing to do."""
    assert Decision() == decide([], FleetRules(), NOTHING, NOW)
