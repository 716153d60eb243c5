"""The laws of seats: a session is in one slot at most, finds it again, and nobody ever sits in what another left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hugind.proxy.queue import Asker, Flow, Grant, Place, SlotQueue
from hugind.proxy.sessions.slots import SlotTable, Wish, chance_of_return

MAX_WAITING = 4
A0, A1, B0, B1 = (Place(worker, slot) for worker in "ab" for slot in (0, 1))
Free = Collection[Place[str]]

# ---- any order of turns, housekeeping, drains and deaths, as `leases.py` and `keeper.py` have them


@dataclass(eq=False)
class Turn:
    """A request from its place in the queue to the end of its lease."""

    wish: Wish | None
    """None: housekeeping, or a request that does not care."""
    place: Place[str] | None = None
    is_seated: bool = False
    is_left: bool = False
    """Its client has gone; the slot is not idle yet."""


sessions = st.sampled_from(("s0", "s1", "s2", "s3"))


class SeatMachine(RuleBasedStateMachine):
    """The table with the real queue; beside them what is really in every slot, and who should sit where."""

    def __init__(self) -> None:
        super().__init__()
        self.table: SlotTable[str] = SlotTable()
        self.queue: SlotQueue[str, Turn] = SlotQueue(
            MAX_WAITING, self.choose, lambda: self.now, push_out=self.gives_way
        )
        self.lending: dict[str, int] = {}
        self.draining: dict[str, int] = {}
        self.kv: dict[Place[str], str | None] = {}
        """What is in the slot, by its last owner's name. The table does not see this."""
        self.home: dict[str, Place[str]] = {}
        """Where each session's KV is, as far as it can be told."""
        self.turns: list[Turn] = []
        self.births = 0
        self.now = 0.0

    # ---- workers

    @initialize(slots=st.integers(2, 3))
    def begins(self, slots: int) -> None:
        self.arrives(slots)

    @rule(slots=st.integers(1, 2))
    def arrives(self, slots: int) -> None:
        self.births += 1
        worker = f"w{self.births}"
        self.lending[worker] = slots
        self.kv.update((Place(worker, slot), None) for slot in range(slots))
        self.table.add_worker(worker, slots)
        self.granted(self.queue.add_worker(worker, slots))

    @precondition(lambda self: self.lending)
    @rule(data=st.data())
    def drains(self, data: st.DataObject) -> None:
        """It lends nothing any more, and lives."""
        worker = data.draw(st.sampled_from(sorted(self.lending)))
        self.draining[worker] = self.lending.pop(worker)
        self.table.retire(worker)
        self.granted(self.queue.remove_worker(worker))

    @precondition(lambda self: self.draining)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.draining)))
        self.lose(worker, self.draining.pop(worker))

    @precondition(lambda self: self.lending)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.lending)))
        self.table.retire(worker)
        self.lose(worker, self.lending.pop(worker))
        self.granted(self.queue.remove_worker(worker))

    # ---- a turn

    @rule(session=sessions, parent=st.none() | sessions)
    def asks(self, session: str, parent: str | None) -> None:
        """One turn of a session at a time; one that was left may still have its slot."""
        if not any(turn.wish and turn.wish.session == session and not turn.is_left for turn in self.turns):
            self.ask(Turn(Wish(session, parent if parent != session else None)))

    @rule(session=sessions, tokens=st.integers(0, 9), after=st.integers(0, 900))
    def asks_and_is_served(self, session: str, tokens: int, after: int) -> None:
        """A whole turn, if it gets a slot at once."""
        self.asks(session, None)
        for turn in self.unseated():
            if turn.wish == Wish(session):
                self.seat(turn)
                self.finish(turn, tokens, tokens, after)

    @rule()
    def asks_for_any(self) -> None:
        self.ask(Turn(None))

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting()))
        self.queue.withdraw(turn)
        self.turns.remove(turn)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def evicts(self, data: st.DataObject) -> None:
        """Before it is seated, or because its worker was not reached; it may be left right after that."""
        place = data.draw(st.sampled_from(self.running())).place
        assert place is not None
        self.table.vacate(place)
        self.leave(place)

    @precondition(lambda self: self.unseated())
    @rule(data=st.data())
    def is_seated(self, data: st.DataObject) -> None:
        """It finds its own in the slot, or nothing, or knows that it must clear it."""
        self.seat(data.draw(st.sampled_from(self.unseated())))

    @precondition(lambda self: self.leased())
    @rule(data=st.data(), tokens=st.integers(0, 9), turns=st.integers(0, 9), after=st.integers(0, 900))
    def is_over(self, data: st.DataObject, tokens: int, turns: int, after: int) -> None:
        self.finish(data.draw(st.sampled_from(self.leased())), tokens, turns, after)

    @precondition(lambda self: self.leased())
    @rule(data=st.data())
    def is_left(self, data: st.DataObject) -> None:
        """The session may ask again; the slot comes back later."""
        data.draw(st.sampled_from(self.leased())).is_left = True

    # ---- what is no turn

    @precondition(lambda self: self.kv)
    @rule(data=st.data())
    def takes_for_work(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.kv, key=repr)))
        is_free = place.worker in self.lending and place not in self.taken()

        assert is_free is self.queue.take(place)
        if is_free:
            self.turns.append(Turn(None, place))

    @rule(session=sessions)
    def is_forgotten(self, session: str) -> None:
        """Nobody asks for it; a slot that somebody else is about to take is left to them."""
        place = self.table.place_of(session)
        if place is not None and not any(turn.wish and turn.wish.session == session for turn in self.turns):
            self.table.vacate(place)
            self.leave(place)

    # ---- the laws

    @invariant()
    def each_is_where_it_should_be(self) -> None:
        """No session in two places, none lost, none where another sits."""
        seated = {place: self.table[place].holder for worker in self.workers() for place in self.table.places(worker)}

        assert seated.keys() == self.kv.keys()
        assert self.home == {holder: place for place, holder in seated.items() if holder is not None}
        assert len(self.home) == sum(holder is not None for holder in seated.values())

    @invariant()
    def what_is_known_of_a_slot_is_true(self) -> None:
        for place, held in self.kv.items():
            seat = self.table[place]

            assert seat.holder is None or seat.holder == held
            assert not seat.is_clean or seat.holder == held
            assert seat.holder is not None or not seat.is_dirty

    @invariant()
    def a_place_is_told_unless_it_is_being_taken(self) -> None:
        for session, place in self.home.items():
            tenant = self.tenant(place)
            is_told = tenant is None or tenant == session

            assert (place if is_told else None) == self.table.place_of(session)

    @invariant()
    def tenants_are_those_on_lease(self) -> None:
        for place in self.kv:
            assert self.tenant(place) == self.table[place].tenant

    @invariant()
    def nobody_waits_beside_a_slot_that_would_do(self) -> None:
        for turn in self.waiting():
            if turn.wish is None:
                assert not self.free()
            else:
                assert self.table.choose(turn.wish, self.free(), self.now) is None

    # ---- details

    def choose(self, turn: Turn, free: Free) -> Place[str] | None:
        """As the keeper does."""
        if turn.wish is None:
            return next(iter(free), None)
        place = self.table.choose(turn.wish, free, self.now)
        self.judge(turn.wish, free, place)
        if place is not None:
            self.table.lend(place, turn.wish.session)
        return place

    def judge(self, wish: Wish, free: Free, chosen: Place[str] | None) -> None:
        """Its own, or wait for it; else its parent's; else an empty one; else the cheapest."""
        own = self.home.get(wish.session)
        if own is not None and own.worker in self.lending and self.tenant(own) in (None, wish.session):
            assert (own if own in free else None) == chosen
        elif wish.parent in self.home and self.home[wish.parent] in free:
            assert self.home[wish.parent] == chosen
        else:
            assert (chosen is None) is (not free)
            if chosen is not None:
                assert self.cost(chosen) == min(map(self.cost, free))

    def cost(self, place: Place[str]) -> float:
        seat = self.table[place]
        if place not in self.home.values():
            return 0
        return max(seat.tokens, 1) * chance_of_return(seat.turns, self.now - seat.used_at)

    def ask(self, turn: Turn) -> None:
        try:
            place = self.queue.ask(turn, Asker(Flow(turn.wish.session if turn.wish else "")))
        except OverflowError:
            return
        self.turns.append(turn)
        if place is not None:
            self.granted([Grant(turn, place)])

    def gives_way(self, turn: Turn) -> None:
        """The queue was full, and more of its kind wait than of who came."""
        self.turns.remove(turn)

    def seat(self, turn: Turn) -> None:
        assert turn.place is not None
        assert turn.wish is not None
        session, place, seat = turn.wish.session, turn.place, self.table[turn.place]
        if place in self.kv:
            assert seat.holder != session or self.kv[place] == session
            assert not seat.is_clean or self.kv[place] == seat.holder
            self.leave(place)
            self.kv[place] = session
            self.home[session] = place
        self.table.hold(place, session, turns=1, now=self.now)
        turn.is_seated = True

    def finish(self, turn: Turn, tokens: int, turns: int, after: int) -> None:
        assert turn.place is not None
        self.now += after
        seat = self.table[turn.place]
        if turn.wish is not None and seat.holder == turn.wish.session:
            seat.tokens, seat.turns, seat.used_at, seat.is_dirty = tokens, turns, self.now, True
        self.turns.remove(turn)
        self.table.give_back(turn.place)
        self.granted(self.queue.release(turn.place))

    def granted(self, grants: list[Grant[str, Turn]]) -> None:
        """Never a slot that somebody has, nor one of a worker that lends none."""
        for grant in grants:
            assert grant.place not in self.taken()
            assert grant.place.slot in range(self.lending[grant.place.worker])
            grant.ticket.place = grant.place

    def lose(self, worker: str, slots: int) -> None:
        gone = [Place(worker, slot) for slot in range(slots)]
        lost = {session for session, place in self.home.items() if place in gone}

        assert sorted(lost) == sorted(self.table.remove_worker(worker))
        for place in gone:
            self.leave(place)
            del self.kv[place]

    def leave(self, place: Place[str]) -> None:
        self.home = {session: home for session, home in self.home.items() if home != place}

    def tenant(self, place: Place[str]) -> str | None:
        turn = next((turn for turn in self.turns if turn.place == place), None)
        return turn.wish.session if turn and turn.wish else None

    def workers(self) -> list[str]:
        return [*self.lending, *self.draining]

    def waiting(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.place is None]

    def leased(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.place is not None]

    def running(self) -> list[Turn]:
        return [turn for turn in self.leased() if turn.wish and not turn.is_left]

    def unseated(self) -> list[Turn]:
        return [turn for turn in self.running() if not turn.is_seated]

    def taken(self) -> list[Place[str]]:
        return [turn.place for turn in self.turns if turn.place is not None]

    def free(self) -> list[Place[str]]:
        taken = self.taken()
        return [place for place in self.kv if place.worker in self.lending and place not in taken]


TestSeats = SeatMachine.TestCase
TestSeats.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


# ---- one by one


@pytest.fixture
def table() -> SlotTable[str]:
    """Two workers with two slots each, all empty."""
    table: SlotTable[str] = SlotTable()
    table.add_worker("a", 2)
    table.add_worker("b", 2)
    return table


def seat(table: SlotTable[str], place: Place[str], session: str, *, tokens: int = 100, used_at: float = 0) -> None:
    table.hold(place, session, turns=1, now=used_at)
    table[place].tokens = tokens


def test_its_own_slot(table: SlotTable[str]) -> None:
    """A session that is in a free slot gets that one, however many are empty."""
    seat(table, B1, "ann")

    assert B1 == table.choose(Wish("ann"), [A0, A1, B0, B1], 1)


def test_its_own_slot_is_worth_waiting_for(table: SlotTable[str]) -> None:
    """A session whose slot is being saved, or not yet idle after a turn of its own, goes nowhere else."""
    seat(table, B1, "ann")

    assert table.choose(Wish("ann"), [A0, A1, B0], 1) is None
    table.lend(B1, "ann")
    assert table.choose(Wish("ann"), [A0, A1, B0], 1) is None


def test_a_slot_that_another_takes_is_lost(table: SlotTable[str]) -> None:
    """A session whose slot was lent to somebody else takes another one at once, and is there then."""
    seat(table, B1, "ann")
    table.lend(B1, "bob")

    assert table.place_of("ann") is None
    assert table.holds("ann")  # until whoever comes has saved it
    assert B0 == table.choose(Wish("ann"), [B0], 1)
    table.hold(B0, "ann", turns=2, now=1)
    assert (B0, None) == (table.place_of("ann"), table[B1].holder)
    assert not table[B1].is_clean


def test_a_slot_that_another_took_in_vain(table: SlotTable[str]) -> None:
    """Somebody who left before anything was evicted has changed nothing."""
    seat(table, B1, "ann")
    table.lend(B1, "bob")
    table.give_back(B1)

    assert B1 == table.place_of("ann")
    assert B1 == table.choose(Wish("ann"), [A0, B1], 1)


def test_a_slot_of_a_retired_worker_is_lost(table: SlotTable[str]) -> None:
    """Nobody waits for a worker that drains; what it holds is known to the end."""
    seat(table, B1, "ann")
    table.retire("b")

    assert A0 == table.choose(Wish("ann"), [A0, A1], 1)
    assert table.choose(Wish("ann"), [], 1) is None
    assert B1 == table.place_of("ann")
    assert ["ann"] == table.remove_worker("b")
    table.add_worker("b", 1)
    seat(table, B0, "ann")
    assert B0 == table.choose(Wish("ann"), [A0, B0], 1)


@pytest.mark.parametrize("is_gone", [False, True])
def test_waiting_for_a_worker_that_goes(table: SlotTable[str], is_gone: bool) -> None:
    """Who waited for a slot that will not come gets another one in that moment."""

    def choose(session: str, free: Free) -> Place[str] | None:
        return table.choose(Wish(session), free, 1)

    queue: SlotQueue[str, str] = SlotQueue(1, choose, lambda: 0.0)
    queue.add_worker("a", 2)
    queue.add_worker("b", 2)
    seat(table, B1, "ann")
    assert queue.take(B1)
    assert queue.ask("ann", Asker(Flow("ann"))) is None
    table.retire("b")
    if is_gone:
        table.remove_worker("b")

    assert [Grant("ann", A0)] == queue.remove_worker("b")


def test_a_branch_takes_its_parents_slot(table: SlotTable[str]) -> None:
    """What a branch has in common with its parent is there already; but it does not wait for it."""
    seat(table, B1, "ann")

    assert B1 == table.choose(Wish("branch", "ann"), [A0, B1], 1)
    assert A0 == table.choose(Wish("branch", "ann"), [A0, B0], 1)
    assert A0 == table.choose(Wish("branch", "nobody"), [A0, B0], 1)


def test_empty_slots_first(table: SlotTable[str]) -> None:
    """Nobody is evicted while there is an empty slot, on any worker; where there are more of them, it is idler."""
    seat(table, A0, "ann", tokens=0, used_at=-1e9)

    assert A1 == table.choose(Wish("bob"), [A0, A1], 1)
    assert B1 == table.choose(Wish("bob"), [A0, B1], 1)
    assert B0 == table.choose(Wish("bob"), [A1, B0, B1], 1)
    assert table.choose(Wish("bob"), [], 1) is None


@pytest.mark.parametrize(
    ("cheap", "dear"),
    [
        ({"tokens": 100}, {"tokens": 5000}),
        ({"used_at": 0.0}, {"used_at": 900.0}),
        ({"turns": 1}, {"turns": 9}),
        ({"tokens": 1000, "used_at": 0.0}, {"tokens": 900, "used_at": 990.0}),
    ],
)
def test_the_cheapest_is_evicted(table: SlotTable[str], cheap: dict[str, float], dear: dict[str, float]) -> None:
    """Fewer tokens, away for longer, back less often: that one goes."""
    for place, session, values in ((A0, "dear", dear), (A1, "cheap", cheap)):
        seat(table, place, session)
        for key, value in values.items():
            setattr(table[place], key, value)

    assert A1 == table.choose(Wish("bob"), [A0, A1], 1000)


def test_a_worker_that_goes(table: SlotTable[str]) -> None:
    """Whose KV is lost is told, and nobody else's is; what comes late for it changes nothing."""
    seat(table, A0, "ann")
    seat(table, B0, "bob")
    seat(table, B1, "carl")
    table.lend(B0, "dora")

    assert ["bob", "carl"] == table.remove_worker("b")
    assert [] == table.remove_worker("b")
    table.vacate(B0)
    table.hold(B0, "dora", turns=1, now=1)
    table.give_back(B0)
    assert (A0, None, None) == (table.place_of("ann"), table.place_of("bob"), table.place_of("dora"))
    assert (None, False) == (table[B0].holder, table[B0].is_clean)


def test_a_slot_that_was_left_is_not_clean(table: SlotTable[str]) -> None:
    """What somebody had in a slot is there until it is erased; then it is somebody else's."""
    assert table[A0].is_clean
    seat(table, A0, "ann")
    table[A0].is_dirty = True
    table.vacate(A0)

    assert (None, False, False, 0) == (table[A0].holder, table[A0].is_clean, table[A0].is_dirty, table[A0].tokens)
    table.hold(A0, "bob", turns=1, now=1)
    assert ("bob", True, None) == (table[A0].holder, table[A0].is_clean, table.place_of("ann"))


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0, 1e6), st.floats(0, 1e6))
def test_chance_of_return(turns: int, more_turns: int, idle_s: float, longer_s: float) -> None:
    """It is a chance; habit raises it, absence lowers it; a clock that went back counts as no time."""
    chance = chance_of_return(turns, idle_s)

    assert 0 < chance < 1
    assert chance <= chance_of_return(turns + more_turns, idle_s)
    assert chance >= chance_of_return(turns, idle_s + longer_s)
    assert chance_of_return(turns, 0) == chance_of_return(turns, -longer_s)
