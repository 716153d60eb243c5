"""Whose turn is next? A bounded, fair queue over the slots of an engine's workers. Pure.

First who has the higher band, then who was served least (`service.py`), then who came first. Knows places and tickets,
no tasks; the clock is passed in. `leases.py` does what is decided here. Which of the free places a ticket gets is
somebody else's decision: `choose`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Generic, NamedTuple, TypeVar

from hugind.proxy.service import ServiceLedger

Worker = TypeVar("Worker", bound=Hashable)
Ticket = TypeVar("Ticket", bound=Hashable)


class Place(NamedTuple, Generic[Worker]):
    """One slot of one worker. A tuple, because it is hashed a dozen times in every turn."""

    worker: Worker
    slot: int


class Flow(NamedTuple):
    """Who shares with whom: everything of one flow counts together."""

    user: str
    end_user: str | None = None
    """On whose behalf, where a key serves many people."""


class Asker(NamedTuple):
    """Who wants a turn."""

    flow: Flow
    band: int = 0
    """Higher is served first, always."""
    places: int | None = None
    """So many of its flow may wait; None: as many as there is room for."""
    cost: int = 0
    """What the turn may cost, in tokens. It counts until `settle` says what it did cost."""
    request_id: str = ""


@dataclass(frozen=True)
class Grant(Generic[Worker, Ticket]):
    """A place, and who gets it."""

    ticket: Ticket
    place: Place[Worker]


class QueueFull(OverflowError):  # noqa: N818 - says what happened
    """As many wait as may."""


class PlacesFull(OverflowError):  # noqa: N818 - says what happened
    """As many of the flow wait as may."""


class _Wait(NamedTuple):
    arrival: int
    asker: Asker


@dataclass(eq=False)
class _Line(Generic[Ticket]):
    """One flow in one band, as long as it waits for anything or has a place."""

    band: int
    flow: Flow
    ledger: ServiceLedger[Flow]
    waiting: dict[Ticket, _Wait] = field(default_factory=dict)
    aside: int = 0
    running: int = 0
    """Turns not yet settled."""

    @property
    def length(self) -> int:
        """How many of it wait, for whatever."""
        return len(self.waiting) + self.aside


@dataclass
class _Turn(Generic[Ticket]):
    """What has a place by a grant."""

    line: _Line[Ticket]
    asker: Asker
    is_settled: bool = False


class SlotQueue(Generic[Worker, Ticket]):
    """Free places on one side, waiting tickets on the other; both only where those wait for other places.

    A place belongs to one ticket from its grant until `release`. A worker that leaves takes its places with it, the
    granted ones too: releasing those later grants nothing.
    """

    def __init__(
        self,
        max_waiting: int,
        choose: Callable[[Ticket, Collection[Place[Worker]]], Place[Worker] | None],
        clock: Callable[[], float],
        *,
        one_turn_each: bool = False,
        push_out: Callable[[Ticket], object] = lambda _: None,
    ) -> None:
        """`choose`: which of the free places a ticket gets, for certain; None where it had better wait for another.

        `one_turn_each`: a worker has one turn at a time, however many slots. `push_out`: hears of a ticket that waits
        no more, because the queue was full and somebody came of whom fewer wait.
        """
        self._max_waiting = max_waiting
        self._choose = choose
        self._clock = clock
        self._one_turn_each = one_turn_each
        self._push_out = push_out
        self._workers: set[Worker] = set()
        self._busy: set[Worker] = set()
        """Those with a turn, where each has one at a time."""
        self._free: dict[Place[Worker], None] = {}
        self._turns: dict[Place[Worker], _Turn[Ticket]] = {}
        self._ledgers: dict[int, ServiceLedger[Flow]] = {}
        self._lines: dict[tuple[int, Flow], _Line[Ticket]] = {}
        self._line_of: dict[Ticket, _Line[Ticket]] = {}
        """Of every ticket that waits."""
        self._aside = 0
        self._arrivals = itertools.count()

    @property
    def waiting(self) -> int:
        """How many tickets wait for a place."""
        return len(self._line_of)

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return len(self._free)

    def order(self) -> list[Ticket]:
        """Who waits, in the order of their turns, if these cost what is expected and any place does for each."""
        heap = []
        for line in self._lines.values():
            rest = iter(line.waiting.items())
            if first := next(rest, None):
                heap.append((*_rank(line), *first, rest))
        heapify(heap)
        order = []
        while heap:
            band, service, _, ticket, wait, rest = heap[0]
            order.append(ticket)
            if following := next(rest, None):
                heapreplace(heap, (band, service + wait.asker.cost, following[1].arrival, *following, rest))
            else:
                heappop(heap)
        return order

    def add_worker(self, worker: Worker, slots: int) -> list[Grant[Worker, Ticket]]:
        """A worker became ready: its slots go to who waits, the rest is free."""
        self._workers.add(worker)
        self._free.update((Place(worker, slot), None) for slot in range(slots))
        return self._grant_waiting()

    def remove_worker(self, worker: Worker) -> list[Grant[Worker, Ticket]]:
        """A worker is not ready any more. Unknown ones are ignored. Who waited for its places takes others."""
        self._workers.discard(worker)
        self._busy.discard(worker)
        self._free = {place: None for place in self._free if place.worker != worker}
        return self._grant_waiting()

    def ask(self, ticket: Ticket, asker: Asker) -> Place[Worker] | None:
        """A place at once, or None: the ticket waits, and a later call grants it.

        Raises:
            QueueFull, PlacesFull: as many wait as may.
        """
        line = self._line(asker)
        if not line.waiting:
            line.ledger.enter(line.flow, self._clock())
        if free := self._open():
            place = self._choose(ticket, free)
            if place is not None:
                self._grant(place, line, asker)
                return place
        try:
            self._make_room(line, asker)
        except OverflowError:
            self._close(line)
            raise
        line.waiting[ticket] = _Wait(next(self._arrivals), asker)
        self._line_of[ticket] = line
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """The ticket does not want to wait any more. Unknown ones are ignored."""
        line = self._line_of.pop(ticket, None)
        if line is not None:
            del line.waiting[ticket]
            self._close(line)

    def step_aside(self, asker: Asker) -> None:
        """Somebody waits for something else than a place, within the same bounds; until `step_back`.

        Raises:
            QueueFull, PlacesFull: as many wait as may.
        """
        line = self._line(asker)
        if not line.waiting:
            line.ledger.enter(line.flow, self._clock())
        try:
            self._make_room(line, asker)
        except OverflowError:
            self._close(line)
            raise
        line.aside += 1
        self._aside += 1

    def step_back(self, asker: Asker) -> None:
        """It does not wait any more."""
        line = self._line(asker)
        line.aside -= 1
        self._aside -= 1
        self._close(line)

    def take(self, place: Place[Worker]) -> bool:
        """Take a place out of turn, if it is free: for work that turns need not wait for. `release` it soon."""
        if place not in self._free:
            return False
        del self._free[place]
        return True

    def is_idle(self, worker: Worker, slots: int) -> bool:
        """Whether nobody has any of the worker's places."""
        return sum(place.worker == worker for place in self._free) == slots

    def settle(self, place: Place[Worker], tokens: float) -> None:
        """The turn that has the place got so many tokens. Counts once, and before `release`, which else counts none."""
        turn = self._turns.get(place)
        if turn is not None and not turn.is_settled:
            turn.is_settled = True
            line = turn.line
            line.running -= 1
            line.ledger.expect(line.flow, -turn.asker.cost)
            line.ledger.charge(line.flow, tokens)
            self._close(line)

    def release(self, place: Place[Worker]) -> list[Grant[Worker, Ticket]]:
        """The place is free again: who gets it, if anybody waits."""
        self.settle(place, 0)
        if self._turns.pop(place, None) is not None:
            self._busy.discard(place.worker)
        if place.worker not in self._workers:
            return []
        self._free[place] = None
        return self._grant_waiting()

    def _line(self, asker: Asker) -> _Line[Ticket]:
        key = (asker.band, asker.flow)
        line = self._lines.get(key)
        if line is None:
            ledger = self._ledgers.get(asker.band)
            if ledger is None:
                ledger = self._ledgers[asker.band] = ServiceLedger()
            line = self._lines[key] = _Line(asker.band, asker.flow, ledger)
        return line

    def _close(self, line: _Line[Ticket]) -> None:
        """Forget a line of which nothing is there; its ledger remembers what it got."""
        if not line.waiting and not line.aside and not line.running:
            line.ledger.leave(line.flow, self._clock())
            del self._lines[line.band, line.flow]

    def _make_room(self, line: _Line[Ticket], asker: Asker) -> None:
        """Where the queue is full, the last of who waits with most is pushed out by who waits with fewer."""
        if asker.places is not None and line.length >= asker.places:
            raise PlacesFull(f"{line.length} of your requests wait already")
        if self.waiting + self._aside < self._max_waiting:
            return
        longest = max(self._lines.values(), key=lambda other: len(other.waiting))
        if longest.band > line.band or len(longest.waiting) <= line.length + 1:
            raise QueueFull(f"{self.waiting + self._aside} requests wait already")
        ticket = next(reversed(longest.waiting))
        self.withdraw(ticket)
        self._push_out(ticket)

    def _open(self) -> Collection[Place[Worker]]:
        """The places that a turn may have now."""
        if not self._one_turn_each:
            return self._free.keys()
        if len(self._busy) == len(self._workers):
            return ()
        return {place: None for place in self._free if place.worker not in self._busy}.keys()

    def _grant(self, place: Place[Worker], line: _Line[Ticket], asker: Asker) -> None:
        del self._free[place]
        self._turns[place] = _Turn(line, asker)
        line.running += 1
        line.ledger.expect(line.flow, asker.cost)
        if self._one_turn_each:
            self._busy.add(place.worker)

    def _grant_waiting(self) -> list[Grant[Worker, Ticket]]:
        """Free places to who waits, in the order of their turns."""
        grants = []
        while self._line_of and (free := self._open()):
            grant = self._grant_next(free)
            if grant is None:
                break
            grants.append(grant)
        return grants

    def _grant_next(self, free: Collection[Place[Worker]]) -> Grant[Worker, Ticket] | None:
        """Who is next of those whom a free place does. Few wait for another one: those whose session is in it."""
        lines = [(*_rank(line), line) for line in self._lines.values() if line.waiting]
        heapify(lines)
        while lines:
            *_, line = heappop(lines)
            for ticket, wait in line.waiting.items():
                place = self._choose(ticket, free)
                if place is not None:
                    self._grant(place, line, wait.asker)
                    del line.waiting[ticket], self._line_of[ticket]
                    return Grant(ticket, place)
        return None


def _rank(line: _Line[Ticket]) -> tuple[int, float, int]:
    """Less is sooner. No two lines that wait are equal."""
    first = next(iter(line.waiting.values()))
    return (-line.band, line.ledger.rank(line.flow), first.arrival)
