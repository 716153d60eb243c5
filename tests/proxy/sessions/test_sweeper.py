"""The laws of leaving: no more than must, the least valuable first, the pinned last, the busy never."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.sessions.slots import chance_of_return
from hugind.proxy.sessions.sweeper import Budget, Kept, Plan, plan

HOUR, DAY = 3600.0, 86400.0
ROOMY = Budget(memory_bytes=1000, disk_bytes=1000, user_disk_bytes=None, memory_ttl_s=HOUR, disk_ttl_s=30 * DAY)
NONE_BUSY_OR_OLD = Kept(
    session="a",
    owner="ann",
    memory_bytes=100,
    disk_bytes=100,
    is_on_disk=True,
    tokens=1000,
    turns=1,
    idle_s=60,
    is_pinned=False,
    is_busy=False,
)


def session(name: str, **values: object) -> Kept:
    return replace(NONE_BUSY_OR_OLD, session=name, **values)  # type: ignore[arg-type]


@st.composite
def crowds(draw: st.DrawFn) -> list[Kept]:
    """Sessions of three owners, with sizes and ages around the budgets."""
    crowd = []
    for number in range(draw(st.integers(0, 12))):
        memory = draw(st.sampled_from((0, 1, 50, 100, 100, 300)))
        disk = draw(st.sampled_from((0, 1, 60, 100, 100, 300)))
        crowd.append(
            Kept(
                session=f"s{number}",
                owner=draw(st.sampled_from("xyz")),
                memory_bytes=memory,
                disk_bytes=disk,
                is_on_disk=disk > 0 and draw(st.booleans()),
                tokens=draw(st.integers(0, 5000)),
                turns=draw(st.integers(0, 20)),
                idle_s=draw(st.sampled_from((0.0, 10.0, HOUR, HOUR + 1, 30 * DAY, 31 * DAY))),
                is_pinned=draw(st.integers(0, 4)) == 0,
                is_busy=draw(st.integers(0, 4)) == 0,
            )
        )
    return crowd


budgets = st.builds(
    Budget,
    memory_bytes=st.integers(0, 800),
    disk_bytes=st.integers(0, 800),
    user_disk_bytes=st.none() | st.integers(0, 500),
    memory_ttl_s=st.just(HOUR),
    disk_ttl_s=st.just(30 * DAY),
)
wishes = st.fixed_dictionaries(
    {
        "wanted_memory": st.integers(0, 900),
        "wanted_disk": st.integers(0, 900),
        "wanted_owner": st.none() | st.sampled_from("xyz"),
    }
)


class After:
    """What a plan leaves behind: who is where, and what it takes up with what is wanted and could ever fit."""

    def __init__(self, crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
        self.plan = plan(crowd, budget, **wish)  # type: ignore[arg-type]
        self.budget = budget
        self.left = [one for one in crowd if one.session not in self.plan.forget]
        self.in_memory = {
            one.session: one.memory_bytes for one in self.left if one.session not in self.plan.leave_memory
        }
        self.wanted_memory = _fitting(wish["wanted_memory"], budget.memory_bytes)
        owner = wish["wanted_owner"]
        limits = [budget.disk_bytes]
        if owner is not None and budget.user_disk_bytes is not None:
            limits.append(budget.user_disk_bytes)
        self.wanted_disk = _fitting(wish["wanted_disk"], min(limits))
        self.owners: Counter[str] = Counter()
        self.disk = self.wanted_disk
        for one in self.left:
            if one.session not in self.plan.leave_disk:
                self.owners[one.owner] += self.on_disk(one)
                self.disk += self.on_disk(one)
        if owner is not None:
            self.owners[str(owner)] += self.wanted_disk

    @property
    def memory(self) -> int:
        return self.wanted_memory + sum(self.in_memory.values())

    def on_disk(self, one: Kept) -> int:
        """Bytes there, with what leaves memory copied."""
        leaves = one.session in self.plan.leave_memory
        return one.memory_bytes if leaves and not one.is_on_disk else one.disk_bytes

    def is_owner_over(self, owner: str, more: int = 0) -> bool:
        limit = self.budget.user_disk_bytes
        return limit is not None and self.owners[owner] + more > limit


def _fitting(wanted: object, limit: int) -> int:
    return wanted if isinstance(wanted, int) and wanted <= limit else 0


@given(crowds(), budgets, wishes)
def test_budgets_hold(crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
    """After the plan every budget holds, unless only what may not be touched remains."""
    after = After(crowd, budget, wish)
    movable_memory = [one for one in after.left if after.in_memory.get(one.session) and not one.is_busy]
    movable_disk = [
        one
        for one in after.left
        if after.on_disk(one) and one.session not in after.plan.leave_disk and not (one.is_busy or one.is_pinned)
    ]

    assert after.memory <= budget.memory_bytes or not movable_memory
    assert after.disk <= budget.disk_bytes or not movable_disk
    assert not [one for one in movable_disk if after.is_owner_over(one.owner)]


@given(crowds(), budgets, wishes)
def test_nothing_leaves_without_need(crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
    """Of all that leaves young, nothing could have stayed; and what leaves was there."""
    after = After(crowd, budget, wish)
    by_name = {one.session: one for one in crowd}
    for one in map(by_name.__getitem__, after.plan.leave_memory):
        assert one.memory_bytes > 0
        assert one.idle_s > budget.memory_ttl_s or after.memory + one.memory_bytes > budget.memory_bytes
    for one in map(by_name.__getitem__, after.plan.leave_disk):
        size = after.on_disk(one)

        assert size > 0
        assert after.disk + size > budget.disk_bytes or after.is_owner_over(one.owner, size)
    for one in map(by_name.__getitem__, after.plan.forget):
        assert one.idle_s > budget.disk_ttl_s


@given(crowds(), budgets, wishes)
def test_who_is_never_named(crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
    """Busy sessions are left alone; pinned ones are not forgotten, and stay on disk."""
    made = After(crowd, budget, wish).plan
    busy = {one.session for one in crowd if one.is_busy}
    pinned = {one.session for one in crowd if one.is_pinned}

    assert not busy & {*made.leave_memory, *made.leave_disk, *made.forget}
    assert not pinned & {*made.leave_disk, *made.forget}


@given(crowds(), budgets, wishes)
def test_no_session_twice(crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
    """No list names a session twice, and what is forgotten is in no other."""
    made = After(crowd, budget, wish).plan
    for names in (made.leave_memory, made.leave_disk, made.forget):
        assert len(set(names)) == len(names)
    assert not {*made.forget} & {*made.leave_memory, *made.leave_disk}


@given(crowds(), budgets, wishes, st.randoms(use_true_random=False))
def test_order_of_the_crowd(crowd: list[Kept], budget: Budget, wish: dict[str, object], random: object) -> None:
    """The same sessions give the same plan, in whatever order they come."""
    first = After(crowd, budget, wish).plan
    random.shuffle(crowd)  # type: ignore[attr-defined]

    assert first == After(crowd, budget, wish).plan


@given(crowds(), budgets, wishes)
def test_settled(crowd: list[Kept], budget: Budget, wish: dict[str, object]) -> None:
    """Once a plan is carried out, there is nothing more to do."""
    after = After(crowd, budget, wish)
    now = []
    for one in after.left:
        moved = one.session in after.plan.leave_memory
        disk = 0 if one.session in after.plan.leave_disk else after.on_disk(one)
        memory = 0 if moved else one.memory_bytes
        now.append(
            replace(one, memory_bytes=memory, disk_bytes=disk, is_on_disk=disk > 0 and (moved or one.is_on_disk))
        )

    assert Plan() == After(now, budget, wish).plan


@given(crowds(), st.integers(0, 1200))
def test_least_valuable_first(crowd: list[Kept], memory_bytes: int) -> None:
    """Among equals in size, who stays in memory is worth no less than who leaves it."""
    crowd = [replace(one, memory_bytes=100, is_pinned=False, is_busy=False, idle_s=60) for one in crowd]
    made = plan(crowd, replace(ROOMY, memory_bytes=memory_bytes, disk_bytes=10**6))
    worth = {one.session: max(one.tokens, 1) * chance_of_return(one.turns, one.idle_s) for one in crowd}
    leaving = [worth.pop(name) for name in made.leave_memory]

    assert sorted(leaving) == leaving
    assert not leaving or not worth or max(leaving) <= min(worth.values())


def test_nothing_to_do() -> None:
    """Within budget and young, all stay."""
    assert Plan() == plan([session("a"), session("b", is_pinned=True)], ROOMY)
    assert Plan() == plan([], ROOMY)


def test_age() -> None:
    """Idle for long leaves memory, idle for very long is forgotten; the longest idle first."""
    crowd = [
        session("young", idle_s=HOUR),
        session("old", idle_s=HOUR + 1),
        session("older", idle_s=2 * HOUR),
        session("on disk only", idle_s=3 * HOUR, memory_bytes=0),
        session("ancient", idle_s=31 * DAY),
        session("transcript only", idle_s=32 * DAY, memory_bytes=0, disk_bytes=0, is_on_disk=False),
        session("pinned", idle_s=33 * DAY, is_pinned=True),
        session("busy", idle_s=34 * DAY, is_busy=True),
    ]

    assert Plan(("older", "old"), (), ("transcript only", "ancient")) == plan(crowd, ROOMY)


def test_wanted() -> None:
    """What is about to be written gets room; what could never fit gets none."""
    crowd = [session("a", tokens=10), session("b", tokens=20)]
    tight = replace(ROOMY, memory_bytes=200, disk_bytes=200)

    assert Plan(("a",)) == plan(crowd, tight, wanted_memory=1)
    assert Plan(("a", "b")) == plan(crowd, tight, wanted_memory=200)
    assert Plan() == plan(crowd, tight, wanted_memory=201)
    assert Plan((), ("a",)) == plan(crowd, tight, wanted_disk=100)
    assert Plan() == plan(crowd, tight, wanted_disk=201)


def test_a_byte_is_what_counts() -> None:
    """A small snapshot with as many tokens stays; a big one that had to leave brings small ones back."""
    small, big = session("small", memory_bytes=10), session("big", memory_bytes=200)
    worthless = session("worthless", memory_bytes=10, tokens=1)

    assert Plan(("big",)) == plan([small, big], replace(ROOMY, memory_bytes=200))
    assert Plan(("big",)) == plan([worthless, big], replace(ROOMY, memory_bytes=100))


def test_first_what_the_disk_has() -> None:
    """Of two equally valuable, the one that needs no copying leaves memory."""
    crowd = [session("a", is_on_disk=False, disk_bytes=0), session("b")]

    assert Plan(("b",)) == plan(crowd, replace(ROOMY, memory_bytes=100))


def test_copies_count() -> None:
    """What leaves memory takes up disk: room is made for it there, or it is lost where there is none."""
    unsaved = session("unsaved", is_on_disk=False, disk_bytes=0, idle_s=2 * HOUR)
    cheap = session("cheap", memory_bytes=0, tokens=1, idle_s=2 * HOUR)
    dear = replace(cheap, session="dear", tokens=10**6)
    full = replace(ROOMY, disk_bytes=100)

    assert Plan(("unsaved",), ("cheap",)) == plan([unsaved, cheap], full)
    assert Plan(("unsaved",), ("unsaved",)) == plan([unsaved, dear], full)
    assert Plan(("unsaved",), ("unsaved",)) == plan([unsaved], replace(full, disk_bytes=0))


def test_owner_budget() -> None:
    """An owner who is over budget makes room alone, however much less the others' sessions are worth."""
    crowd = [
        session("ann 1", tokens=1000),
        session("ann 2", tokens=2000),
        session("bob 1", owner="bob", tokens=1),
    ]
    per_user = replace(ROOMY, user_disk_bytes=150)

    assert Plan((), ("ann 1",)) == plan(crowd, per_user)
    assert Plan((), ("ann 1", "ann 2")) == plan(crowd, per_user, wanted_disk=51, wanted_owner="ann")
    assert Plan((), ("bob 1", "ann 1")) == plan(crowd, per_user, wanted_disk=51, wanted_owner="bob")


def test_pinned_go_last() -> None:
    """A pinned session leaves memory after all others, and keeps its place on disk even over budget."""
    pinned = session("pinned", is_pinned=True, tokens=1, memory_bytes=300, disk_bytes=0, is_on_disk=False)
    crowd = [pinned, session("dear", tokens=10**6)]

    assert Plan(("dear",)) == plan(crowd, replace(ROOMY, memory_bytes=300))
    assert Plan(("dear", "pinned"), ("dear",)) == plan(crowd, replace(ROOMY, memory_bytes=50, disk_bytes=200))


@pytest.mark.parametrize("over", ["memory_bytes", "disk_bytes"])
def test_busy_stay(over: str) -> None:
    """A busy session stays, whatever its budget; others leave for it."""
    crowd = [session("busy", is_busy=True, tokens=1), session("idle")]
    made = plan(crowd, replace(ROOMY, **{over: 50}))

    assert ("idle",) == (made.leave_memory or made.leave_disk)
