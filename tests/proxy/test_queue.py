"""The laws of fair slots: nobody shares one, none is lost, and whoever was served least is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hugind.proxy.queue import Asker, Flow, Grant, Place, PlacesFull, QueueFull, SlotQueue
from hugind.proxy.service import MAX_CREDIT

MAX_WAITING = 4
Queue = SlotQueue[str, int]

askers = st.builds(
    Asker,
    flow=st.builds(Flow, st.sampled_from("ab"), st.none() | st.just("x")),
    band=st.integers(0, 1),
    places=st.none() | st.integers(0, 2),
    cost=st.integers(0, 3000),
)


class QueueMachine(RuleBasedStateMachine):
    """Any order of arrivals, releases, withdrawals, deaths and births, beside a model that is easy to believe."""

    one_turn_each = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: Queue = SlotQueue(
            MAX_WAITING,
            self.choose,
            lambda: self.now,
            one_turn_each=self.one_turn_each,
            push_out=self.is_pushed_out,
        )
        self.wishes: dict[int, int] = {}
        self.askers: dict[int, Asker] = {}
        self.workers: dict[str, int] = {}
        self.holders: dict[Place[str], int] = {}
        """0: work that is no turn."""
        self.line: list[int] = []
        self.aside: list[Asker] = []
        self.tickets = 0
        self.births = 0
        self.expects_push = False

    @rule(slots=st.integers(min_value=1, max_value=3))
    def worker_arrives(self, slots: int) -> None:
        self.births += 1
        name = f"w{self.births}"
        self.workers[name] = slots
        grants = self.queue.add_worker(name, slots)
        for grant in grants:
            self.is_granted(grant)

        assert len(grants) <= slots

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data())
    def worker_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[name]
        for grant in self.queue.remove_worker(name):
            self.is_granted(grant)

    @rule(wish=st.integers(min_value=0, max_value=3), asker=askers)
    def ask(self, wish: int, asker: Asker) -> None:
        """`wish` 3: any slot; else that one of some worker and no other."""
        self.tickets += 1
        ticket = self.tickets
        self.wishes[ticket], self.askers[ticket] = wish, asker
        fits = any(wish in (3, place.slot) for place in self.open())
        refusal = None if fits else self.refusal(asker)
        if refusal is not None:
            with pytest.raises(refusal):
                self.queue.ask(ticket, asker)
            return
        self.expects_push = not fits and self.is_full()
        place = self.queue.ask(ticket, asker)
        assert fits == (place is not None)
        assert not self.expects_push
        if place is None:
            self.line.append(ticket)
        else:
            self.hold(ticket, place)

    @rule(asker=askers)
    def step_aside(self, asker: Asker) -> None:
        """To wait for something else; it takes room as others do."""
        if refusal := self.refusal(asker):
            with pytest.raises(refusal):
                self.queue.step_aside(asker)
            return
        self.expects_push = self.is_full()
        self.queue.step_aside(asker)
        assert not self.expects_push
        self.aside.append(asker)

    @precondition(lambda self: bool(self.aside))
    @rule(data=st.data())
    def step_back(self, data: st.DataObject) -> None:
        asker = self.aside.pop(data.draw(st.integers(0, len(self.aside) - 1)))
        self.queue.step_back(asker)

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data())
    def take_for_work(self, data: st.DataObject) -> None:
        """Work takes what is free and nothing else; a turn on the worker is no hindrance."""
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        place = Place(worker, data.draw(st.integers(min_value=0, max_value=self.workers[worker] - 1)))
        is_free = place in self.free()

        assert is_free == self.queue.take(place)
        if is_free:
            self.holders[place] = 0

    @precondition(lambda self: bool(self.holders))
    @rule(data=st.data(), tokens=st.integers(0, 5000))
    def settle(self, data: st.DataObject, tokens: int) -> None:
        """As often as one likes; it frees nothing."""
        self.queue.settle(data.draw(st.sampled_from(sorted(self.holders, key=repr))), tokens)

    @precondition(lambda self: bool(self.holders))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.holders, key=repr)))
        del self.holders[place]
        for grant in self.queue.release(place):
            assert place.worker in self.workers
            self.is_granted(grant)

    @rule(position=st.integers(min_value=0, max_value=MAX_WAITING))
    def withdraw(self, position: int) -> None:
        if position < len(self.line):
            self.queue.withdraw(self.line.pop(position))
        else:
            self.queue.withdraw(-1)

    @rule(seconds=st.floats(0, 100))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_slot_is_lost(self) -> None:
        """Every slot of a living worker is free or held by exactly one."""
        held = sum(place.worker in self.workers for place in self.holders)

        assert sum(self.workers.values()) == self.queue.free + held

    @invariant()
    def who_waits_is_known_and_bounded(self) -> None:
        assert len(self.line) == self.queue.waiting
        assert len(self.line) + len(self.aside) <= MAX_WAITING

    @invariant()
    def the_order_names_everybody_once(self) -> None:
        """Higher bands first, and within a flow who came first."""
        order = self.queue.order()

        assert sorted(order) == sorted(self.line)
        assert order == sorted(order, key=lambda ticket: -self.askers[ticket].band)
        for key in {self.key(ticket) for ticket in order}:
            own = [ticket for ticket in order if self.key(ticket) == key]
            assert own == sorted(own)

    @invariant()
    def nobody_waits_beside_a_slot_that_would_do(self) -> None:
        assert all(self.choose(ticket, self.open()) is None for ticket in self.line)

    @invariant()
    def idle_is_who_has_all_slots_free(self) -> None:
        for worker, slots in self.workers.items():
            held = any(place.worker == worker for place in self.holders)

            assert self.queue.is_idle(worker, slots) is not held

    @invariant()
    def a_worker_has_no_more_turns_than_it_may(self) -> None:
        turns = Counter(place.worker for place, ticket in self.holders.items() if ticket)

        assert not self.one_turn_each or all(turns[worker] <= 1 for worker in self.workers)

    def is_granted(self, grant: Grant[str, int]) -> None:
        """None of a higher band, and none of the same flow that came before, would have taken the place."""
        for ticket in self.line:
            would_take = self.wishes[ticket] in (3, grant.place.slot)
            is_before = self.key(ticket) == self.key(grant.ticket) and ticket < grant.ticket
            is_higher = self.askers[ticket].band > self.askers[grant.ticket].band

            assert not (would_take and (is_before or is_higher))
        self.line.remove(grant.ticket)
        self.hold(grant.ticket, grant.place)

    def is_pushed_out(self, ticket: int) -> None:
        """Only where there is no room, and the last of those of whom most wait."""
        own = [other for other in self.line if self.key(other) == self.key(ticket)]
        lengths = Counter(self.key(other) for other in self.line)

        assert self.expects_push
        assert ticket == own[-1]
        assert len(own) == max(lengths.values())
        self.expects_push = False
        self.line.remove(ticket)

    def refusal(self, asker: Asker) -> type[Exception] | None:
        """Why it may not wait."""
        key = (asker.band, asker.flow)
        lengths = Counter(self.key(ticket) for ticket in self.line)
        own = lengths[key] + sum((other.band, other.flow) == key for other in self.aside)
        if asker.places is not None and own >= asker.places:
            return PlacesFull
        if not self.is_full():
            return None
        longest = max(lengths.values(), default=0)
        gives_way = [band for (band, _), length in lengths.items() if length == longest]
        if longest <= own + 1 or min(gives_way) > asker.band:
            return QueueFull
        return None

    def is_full(self) -> bool:
        return len(self.line) + len(self.aside) >= MAX_WAITING

    def key(self, ticket: int) -> tuple[int, Flow]:
        return (self.askers[ticket].band, self.askers[ticket].flow)

    def choose(self, ticket: int, free: Collection[Place[str]]) -> Place[str] | None:
        return next((place for place in free if self.wishes[ticket] in (3, place.slot)), None)

    def free(self) -> list[Place[str]]:
        places = [Place(worker, slot) for worker, slots in self.workers.items() for slot in range(slots)]
        return [place for place in places if place not in self.holders]

    def open(self) -> list[Place[str]]:
        """What a turn may have."""
        busy = {place.worker for place, ticket in self.holders.items() if ticket} if self.one_turn_each else set()
        return [place for place in self.free() if place.worker not in busy]

    def hold(self, ticket: int, place: Place[str]) -> None:
        """Never a slot that somebody has, nor one that does not exist."""
        assert place not in self.holders
        assert 0 <= place.slot < self.workers[place.worker]
        self.holders[place] = ticket


class TurnsMachine(QueueMachine):
    """The same, where a worker has one turn at a time."""

    one_turn_each = True


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_place_of_a_removed_worker_is_nobodys() -> None:
    """What is released after its worker left goes to no one who waits."""
    queue: Queue = SlotQueue(1, first_free, lambda: 0)
    queue.add_worker("a", 1)
    place = queue.ask(1, ANN)
    assert place is not None
    queue.ask(2, ANN)
    queue.remove_worker("a")

    assert queue.release(place) == []
    assert (queue.free, queue.waiting) == (0, 1)


# ---- who is next


def test_a_crowd_is_overtaken() -> None:
    """Whoever has not been served yet is next, however many wait."""
    queue = crowded(ANN._replace(cost=10), 5)
    queue.ask(100, BEN)
    order = queue.order()

    assert [100, 3, 4, 5] == order
    assert [Grant(100, Place("w", 0))] == queue.release(Place("w", 0))


def test_what_runs_counts_before_it_is_over() -> None:
    """Somebody whose turn is expected to be large does not get the next place as well."""
    queue: Queue = SlotQueue(9, first_free, lambda: 0)
    queue.add_worker("w", 2)
    for ticket, asker in ((1, ANN._replace(cost=4000)), (2, BEN), (3, ANN), (4, BEN), (5, BEN)):
        queue.ask(ticket, asker)
    queue.settle(Place("w", 1), 10)
    second = queue.release(Place("w", 1))
    queue.settle(Place("w", 0), 1)
    third = queue.release(Place("w", 0))

    assert [[4], [3]] == [[grant.ticket for grant in grants] for grants in (second, third)]


def test_equals_take_turns() -> None:
    """Whatever order they came in."""
    queue = crowded(ANN._replace(cost=10), 3, room=20)
    for ticket in range(100, 103):
        queue.ask(ticket, BEN._replace(cost=10))

    assert [100, 101, 3, 102] == queue.order()


@pytest.mark.parametrize(("away_s", "order"), [(0.0, [4, 3]), (3600.0, [3, 4])])
def test_who_was_away_for_long_owes_nothing(away_s: float, order: list[int]) -> None:
    """What somebody got counts while others want something too, and a while longer."""
    now = 0.0
    queue: Queue = SlotQueue(9, first_free, lambda: now)
    queue.add_worker("w", 1)
    place = queue.ask(1, ANN)
    assert place is not None
    queue.settle(place, 1000)
    queue.release(place)
    now += away_s
    queue.ask(2, CLEO)
    queue.ask(3, ANN)
    queue.ask(4, BEN)

    assert order == queue.order()


def test_a_higher_band_is_first() -> None:
    """Even who had everything so far."""
    queue: Queue = SlotQueue(9, first_free, lambda: 0)
    queue.add_worker("w", 1)
    high = ANN._replace(band=1, cost=9000)
    queue.ask(1, high)
    for ticket, asker in ((2, BEN), (3, high), (4, BEN), (5, high)):
        queue.ask(ticket, asker)
    queue.settle(Place("w", 0), 100_000)

    assert [3, 5, 2, 4] == queue.order()


@dataclass
class Client:
    """Keeps so many requests going, one after the other; between two of them it pauses."""

    flow: Flow
    at_once: int
    sizes: Iterator[int]
    guess: Callable[[int], int]
    pause: float = 0.0
    served: int = 0


class Hall:
    """Clients, and workers whose every slot makes one token a second. Hours pass in no time."""

    def __init__(self, workers: int, slots: int, clients: list[Client], *, one_turn_each: bool) -> None:
        self.now = 0.0
        self.queue: Queue = SlotQueue(10_000, first_free, lambda: self.now, one_turn_each=one_turn_each)
        self.clients = clients
        self.places = workers if one_turn_each else workers * slots
        self.overtaken: dict[Flow, int] = Counter()
        """The most turns that began while one of a flow waited."""
        self._turns: dict[int, tuple[Client, int]] = {}
        self._passed: dict[int, int] = {}
        """Of each ticket that waits: turns that began meanwhile."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count(1)
        for index in range(workers):
            self.queue.add_worker(f"w{index}", slots)
        for client in clients:
            for _ in range(client.at_once):
                self._ask(client)

    def join(self, client: Client, when: float, *, at_once: int) -> None:
        """A client that is there comes with more, later."""
        for _ in range(at_once):
            self._at(when, lambda: self._ask(client))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heappop(self._events)
            happen()

    def _ask(self, client: Client) -> None:
        ticket = next(self._numbers)
        size = next(client.sizes)
        self._turns[ticket] = (client, size)
        place = self.queue.ask(ticket, Asker(client.flow, cost=client.guess(size)))
        if place is None:
            self._passed[ticket] = 0
        else:
            self._begin(ticket, place)

    def _begin(self, ticket: int, place: Place[str]) -> None:
        client, size = self._turns.pop(ticket)
        self.overtaken[client.flow] = max(self.overtaken[client.flow], self._passed.pop(ticket, 0))
        for other in self._passed:
            self._passed[other] += 1
        self._at(self.now + size, lambda: self._end(client, size, place))

    def _end(self, client: Client, size: int, place: Place[str]) -> None:
        client.served += size
        self.queue.settle(place, size)
        for grant in self.queue.release(place):
            self._begin(grant.ticket, grant.place)
        self._at(self.now + client.pause, lambda: self._ask(client))

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._numbers), happen))


sizes = st.lists(st.integers(20, 1000), min_size=1, max_size=5)
guesses = st.sampled_from((lambda size: size, lambda size: 1500, lambda size: size // 4))
halls = st.tuples(st.integers(1, 2), st.integers(1, 3), st.booleans())


@settings(max_examples=40, deadline=None)
@given(hall=halls, crowds=st.lists(st.tuples(sizes, guesses), min_size=2, max_size=4))
def test_equally_busy_users_get_equal_tokens(
    hall: tuple[int, int, bool], crowds: list[tuple[list[int], Callable[[int], int]]]
) -> None:
    """Within what may run at once and the credit, whatever the size of their turns and whatever is expected of them."""
    workers, slots, one_turn_each = hall
    clients = [
        Client(Flow(str(number)), at_once=workers * slots + 2, sizes=cycle(of_turns), guess=guess)
        for number, (of_turns, guess) in enumerate(crowds)
    ]
    served = Hall(workers, slots, clients, one_turn_each=one_turn_each)
    served.run(until=20_000)
    got = [client.served for client in clients]

    assert max(got) - min(got) <= MAX_CREDIT + 2 * served.places * 1500
    assert sum(got) >= 20_000 * served.places - served.places * 1000, "a place stood idle"


@settings(max_examples=40, deadline=None)
@given(
    hall=halls,
    crowd=st.lists(st.integers(500, 3000), min_size=1, max_size=5),
    light=st.lists(st.integers(1, 500), min_size=1, max_size=5),
    guess=guesses,
    pause=st.floats(1, 5000),
)
def test_who_asks_for_one_turn_at_a_time_is_next(
    hall: tuple[int, int, bool], crowd: list[int], light: list[int], guess: Callable[[int], int], pause: float
) -> None:
    """In front of all 32 of somebody else: no turn begins while theirs waits."""
    workers, slots, one_turn_each = hall
    clients = [
        Client(Flow("crowd"), at_once=32, sizes=cycle(crowd), guess=guess),
        Client(Flow("light"), at_once=1, sizes=cycle(light), guess=guess, pause=pause),
    ]
    served = Hall(workers, slots, clients, one_turn_each=one_turn_each)
    served.run(until=100_000)

    assert clients[1].served
    assert 0 == served.overtaken[clients[1].flow]


@settings(max_examples=40, deadline=None)
@given(hall=halls, others=st.integers(1, 6), guess=guesses)
def test_several_light_users_wait_for_each_other_only(
    hall: tuple[int, int, bool], others: int, guess: Callable[[int], int]
) -> None:
    """A crowd gets no turn between theirs."""
    workers, slots, one_turn_each = hall
    clients = [Client(Flow("crowd"), at_once=32, sizes=cycle([500]), guess=guess)] + [
        Client(Flow(f"light {number}"), at_once=1, sizes=cycle([100]), guess=guess, pause=997.0 + number)
        for number in range(others)
    ]
    served = Hall(workers, slots, clients, one_turn_each=one_turn_each)
    served.run(until=100_000)

    assert max(served.overtaken[client.flow] for client in clients[1:]) < others


@settings(max_examples=30, deadline=None)
@given(hall=halls, away=st.floats(0, 50_000))
def test_who_comes_back_does_not_hog_everybody(hall: tuple[int, int, bool], away: float) -> None:
    """After hours away, a flood gets the credit ahead, and then its share."""
    workers, slots, one_turn_each = hall
    clients = [Client(Flow(name), at_once=0, sizes=cycle([100]), guess=lambda size: size) for name in "ab"]
    served = Hall(workers, slots, clients, one_turn_each=one_turn_each)
    for client, begins in zip(clients, (0.0, away), strict=True):
        served.join(client, begins, at_once=32)
    served.run(until=away)
    before = [client.served for client in clients]
    served.run(until=away + 20_000)
    got = [client.served - had for client, had in zip(clients, before, strict=True)]

    assert abs(got[0] - got[1]) <= MAX_CREDIT + 2 * served.places * 100


ANN, BEN, CLEO = Asker(Flow("ann")), Asker(Flow("ben")), Asker(Flow("cleo"))


def first_free(_: int, free: Collection[Place[str]]) -> Place[str] | None:
    """Any place does."""
    return next(iter(free), None)


def crowded(asker: Asker, tickets: int, room: int = 9) -> Queue:
    """A worker with two slots, both taken by an asker of whom the rest waits."""
    queue: Queue = SlotQueue(room, first_free, lambda: 0)
    queue.add_worker("w", 2)
    for ticket in range(1, tickets + 1):
        queue.ask(ticket, asker)
    return queue
