"""The laws of fair slots: nobody shares one, none is lost, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hugind.proxy.queue import Grant, Place, SlotQueue

MAX_WAITING = 4
Queue = SlotQueue[str, int]


class QueueMachine(RuleBasedStateMachine):
    """Any order of arrivals, releases, withdrawals, deaths and births, beside a model that is easy to believe."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue = SlotQueue(MAX_WAITING, self.choose)
        self.wishes: dict[int, int] = {}
        self.workers: dict[str, int] = {}
        self.holders: dict[Place[str], int] = {}
        self.line: deque[int] = deque()
        self.tickets = 0
        self.births = 0

    @rule(slots=st.integers(min_value=1, max_value=3))
    def worker_arrives(self, slots: int) -> None:
        self.births += 1
        name = f"w{self.births}"
        self.workers[name] = slots
        grants = self.queue.add_worker(name, slots)
        for grant in grants:
            self.take(grant)

        assert len(grants) <= slots

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data())
    def worker_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[name]
        for grant in self.queue.remove_worker(name):
            self.take(grant)

    @rule(wish=st.integers(min_value=0, max_value=3))
    def ask(self, wish: int) -> None:
        """`wish` 3: any slot; else that one of some worker and no other."""
        self.tickets += 1
        self.wishes[self.tickets] = wish
        fits = any(wish in (3, place.slot) for place in self.free())
        if not fits and len(self.line) == MAX_WAITING:
            with pytest.raises(OverflowError):
                self.queue.ask(self.tickets)
            return
        place = self.queue.ask(self.tickets)
        assert fits == (place is not None)
        if place is None:
            self.line.append(self.tickets)
        else:
            self.hold(self.tickets, place)

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data())
    def take_for_work(self, data: st.DataObject) -> None:
        """Work takes what is free and nothing else."""
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        place = Place(worker, data.draw(st.integers(min_value=0, max_value=self.workers[worker] - 1)))
        is_free = place in self.free()

        assert is_free == self.queue.take(place)
        if is_free:
            self.holders[place] = 0

    @precondition(lambda self: bool(self.holders))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.holders, key=repr)))
        del self.holders[place]
        for grant in self.queue.release(place):
            assert place.worker in self.workers
            self.take(grant)

    @rule(position=st.integers(min_value=0, max_value=MAX_WAITING))
    def withdraw(self, position: int) -> None:
        if position < len(self.line):
            ticket = self.line[position]
            del self.line[position]
            self.queue.withdraw(ticket)
        else:
            self.queue.withdraw(-1)

    @invariant()
    def no_slot_is_lost(self) -> None:
        """Every slot of a living worker is free or held by exactly one."""
        held = sum(place.worker in self.workers for place in self.holders)

        assert sum(self.workers.values()) == self.queue.free + held

    @invariant()
    def who_waits_is_known_and_bounded(self) -> None:
        assert len(self.line) == self.queue.waiting <= MAX_WAITING

    @invariant()
    def nobody_waits_beside_a_slot_that_would_do(self) -> None:
        assert all(self.choose(ticket, self.free()) is None for ticket in self.line)

    @invariant()
    def idle_is_who_has_all_slots_free(self) -> None:
        for worker, slots in self.workers.items():
            held = any(place.worker == worker for place in self.holders)

            assert self.queue.is_idle(worker, slots) is not held

    def take(self, grant: Grant[str, int]) -> None:
        """First come, first served, among those whom the place would do."""
        before = list(self.line)[: self.line.index(grant.ticket)]
        assert all(self.wishes[ticket] not in (3, grant.place.slot) for ticket in before)
        self.line.remove(grant.ticket)
        self.hold(grant.ticket, grant.place)

    def choose(self, ticket: int, free: Collection[Place[str]]) -> Place[str] | None:
        return next((place for place in free if self.wishes[ticket] in (3, place.slot)), None)

    def free(self) -> list[Place[str]]:
        places = [Place(worker, slot) for worker, slots in self.workers.items() for slot in range(slots)]
        return [place for place in places if place not in self.holders]

    def hold(self, ticket: int, place: Place[str]) -> None:
        """Never a slot that somebody has, nor one that does not exist."""
        assert place not in self.holders
        assert 0 <= place.slot < self.workers[place.worker]
        self.holders[place] = ticket


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_place_of_a_removed_worker_is_nobodys() -> None:
    """What is released after its worker left goes to no one who waits."""
    queue: Queue = SlotQueue(1, lambda _, free: next(iter(free), None))
    queue.add_worker("a", 1)
    place = queue.ask(1)
    assert place is not None
    queue.ask(2)
    queue.remove_worker("a")

    assert queue.release(place) == []
    assert (queue.free, queue.waiting) == (0, 1)
