"""Whose turn is next? A bounded first-in first-out queue over the slots of an engine's workers. Pure.

Knows places and tickets, no tasks and no time; `leases.py` does what is decided here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Worker = TypeVar("Worker", bound=Hashable)
Ticket = TypeVar("Ticket", bound=Hashable)


@dataclass(frozen=True)
class Place(Generic[Worker]):
    """One slot of one worker."""

    worker: Worker
    slot: int


@dataclass(frozen=True)
class Grant(Generic[Worker, Ticket]):
    """A place, and who gets it."""

    ticket: Ticket
    place: Place[Worker]


class SlotQueue(Generic[Worker, Ticket]):
    """Free slots on one side, waiting tickets on the other; never both.

    A place belongs to one ticket from its grant until `release`. A worker that leaves takes its places with it, the
    granted ones too: releasing those later does nothing.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._free: dict[Worker, deque[int]] = {}
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return sum(len(slots) for slots in self._free.values())

    def add_worker(self, worker: Worker, slots: int) -> list[Grant[Worker, Ticket]]:
        """A worker became ready: its slots go to who waits, the rest is free."""
        self._free[worker] = deque(range(slots))
        grants = []
        while self._waiting and self._free[worker]:
            grants.append(self._grant_first(Place(worker, self._free[worker].popleft())))
        return grants

    def remove_worker(self, worker: Worker) -> None:
        """A worker is not ready any more. Unknown ones are ignored."""
        self._free.pop(worker, None)

    def ask(self, ticket: Ticket) -> Place[Worker] | None:
        """A place at once, or None: the ticket waits, and a later call grants it.

        Raises:
            OverflowError: as many wait as may.
        """
        worker = max(self._free, key=lambda w: len(self._free[w]), default=None)  # the idlest worker
        if worker is not None and self._free[worker]:
            return Place(worker, self._free[worker].popleft())
        if len(self._waiting) >= self._max_waiting:
            raise OverflowError(f"{len(self._waiting)} requests wait already")
        self._waiting[ticket] = None
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """The ticket does not want to wait any more. Unknown ones are ignored."""
        self._waiting.pop(ticket, None)

    def release(self, place: Place[Worker]) -> Grant[Worker, Ticket] | None:
        """The place is free again: who gets it, if anybody waits."""
        if place.worker not in self._free:
            return None
        if self._waiting:
            return self._grant_first(place)
        self._free[place.worker].append(place.slot)
        return None

    def _grant_first(self, place: Place[Worker]) -> Grant[Worker, Ticket]:
        ticket, _ = self._waiting.popitem(last=False)
        return Grant(ticket, place)
