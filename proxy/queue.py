"""Whose turn is next? A bounded first-in first-out queue over the slots of an engine's workers. Pure.

Knows places and tickets, no tasks and no time; `leases.py` does what is decided here. Which of the free places a ticket
gets is somebody else's decision: `choose`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Worker = TypeVar("Worker", bound=Hashable)
Ticket = TypeVar("Ticket", bound=Hashable)


class Place(NamedTuple, Generic[Worker]):
    """One slot of one worker. A tuple, because it is hashed a dozen times in every turn."""

    worker: Worker
    slot: int


@dataclass(frozen=True)
class Grant(Generic[Worker, Ticket]):
    """A place, and who gets it."""

    ticket: Ticket
    place: Place[Worker]


class SlotQueue(Generic[Worker, Ticket]):
    """Free places on one side, waiting tickets on the other; both only where those wait for other places.

    A place belongs to one ticket from its grant until `release`. A worker that leaves takes its places with it, the
    granted ones too: releasing those later does nothing.
    """

    def __init__(
        self, max_waiting: int, choose: Callable[[Ticket, Collection[Place[Worker]]], Place[Worker] | None]
    ) -> None:
        """`choose`: which of the free places a ticket gets, for certain; None where it had better wait for another."""
        self._max_waiting = max_waiting
        self._choose = choose
        self._workers: set[Worker] = set()
        self._free: dict[Place[Worker], None] = {}
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return len(self._free)

    def add_worker(self, worker: Worker, slots: int) -> list[Grant[Worker, Ticket]]:
        """A worker became ready: its slots go to who waits, the rest is free."""
        self._workers.add(worker)
        self._free.update((Place(worker, slot), None) for slot in range(slots))
        return self._grant_waiting()

    def remove_worker(self, worker: Worker) -> list[Grant[Worker, Ticket]]:
        """A worker is not ready any more. Unknown ones are ignored. Who waited for its places takes others."""
        self._workers.discard(worker)
        self._free = {place: None for place in self._free if place.worker != worker}
        return self._grant_waiting()

    def ask(self, ticket: Ticket) -> Place[Worker] | None:
        """A place at once, or None: the ticket waits, and a later call grants it.

        Raises:
            OverflowError: as many wait as may.
        """
        place = self._choose(ticket, self._free.keys()) if self._free else None
        if place is not None:
            del self._free[place]
            return place
        if len(self._waiting) >= self._max_waiting:
            raise OverflowError(f"{len(self._waiting)} requests wait already")
        self._waiting[ticket] = None
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """The ticket does not want to wait any more. Unknown ones are ignored."""
        self._waiting.pop(ticket, None)

    def take(self, place: Place[Worker]) -> bool:
        """Take a place out of turn, if it is free: for work that turns need not wait for. `release` it soon."""
        if place not in self._free:
            return False
        del self._free[place]
        return True

    def is_idle(self, worker: Worker, slots: int) -> bool:
        """Whether nobody has any of the worker's places."""
        return sum(place.worker == worker for place in self._free) == slots

    def release(self, place: Place[Worker]) -> list[Grant[Worker, Ticket]]:
        """The place is free again: who gets it, if anybody waits."""
        if place.worker not in self._workers:
            return []
        self._free[place] = None
        return self._grant_waiting()

    def _grant_waiting(self) -> list[Grant[Worker, Ticket]]:
        """Free places to who waits, in the order of arrival."""
        grants = []
        for ticket in list(self._waiting):
            if not self._free:
                break
            place = self._choose(ticket, self._free.keys())
            if place is not None:
                del self._free[place], self._waiting[ticket]
                grants.append(Grant(ticket, place))
        return grants
