"""The laws of fair slots: nobody shares one, none is lost, first come first served."""

from __future__ import annotations

from collections import deque

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
        self.queue: Queue = SlotQueue(MAX_WAITING)
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

        assert min(slots, len(grants) + len(self.line)) == len(grants)

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data())
    def worker_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[name]
        self.queue.remove_worker(name)

    @rule()
    def ask(self) -> None:
        self.tickets += 1
        if self.queue.free == 0 and len(self.line) == MAX_WAITING:
            with pytest.raises(OverflowError):
                self.queue.ask(self.tickets)
            return
        place = self.queue.ask(self.tickets)
        if place is None:
            self.line.append(self.tickets)
        else:
            self.hold(self.tickets, place)

    @precondition(lambda self: bool(self.holders))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.holders, key=repr)))
        del self.holders[place]
        grant = self.queue.release(place)
        if place.worker not in self.workers:
            assert grant is None
        elif grant is not None:
            assert place == grant.place
            self.take(grant)
        else:
            assert not self.line

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
    def nobody_waits_beside_a_free_slot(self) -> None:
        assert not (self.queue.free and self.queue.waiting)

    def take(self, grant: Grant[str, int]) -> None:
        """First come, first served."""
        assert self.line.popleft() == grant.ticket
        self.hold(grant.ticket, grant.place)

    def hold(self, ticket: int, place: Place[str]) -> None:
        """Never a slot that somebody has, nor one that does not exist."""
        assert place not in self.holders
        assert 0 <= place.slot < self.workers[place.worker]
        self.holders[place] = ticket


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_idlest_worker_comes_first() -> None:
    """Turns spread over the workers instead of filling the first."""
    queue: Queue = SlotQueue(1)
    queue.add_worker("a", 2)
    queue.add_worker("b", 2)

    places = [queue.ask(1), queue.ask(2)]

    assert {"a", "b"} == {place.worker for place in places if place}


def test_a_place_of_a_removed_worker_is_nobodys() -> None:
    """What is released after its worker left goes to no one who waits."""
    queue: Queue = SlotQueue(1)
    queue.add_worker("a", 1)
    place = queue.ask(1)
    assert place is not None
    queue.ask(2)
    queue.remove_worker("a")

    assert queue.release(place) is None
    assert (queue.free, queue.waiting) == (0, 1)
