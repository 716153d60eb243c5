"""Which slot does a turn get? The one that holds its session, else an empty one, else the cheapest to evict. Pure.

Keeps the books of what is in each slot, from the moment that it is lent. `keeper.py` makes them true.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hugind.proxy.queue import Place

Worker = TypeVar("Worker", bound=Hashable)

RETURN_HALF_S = 300.0
"""Idle time after which somebody is half as likely to come back soon."""


@dataclass(frozen=True)
class Wish:
    """Whose turn wants a slot."""

    session: str
    parent: str | None = None
    """A session that it has a beginning in common with: its slot is as good, if nobody uses it."""


@dataclass
class Seat:
    """One slot, as far as we know."""

    holder: str | None = None
    """The session whose KV is in it."""
    is_clean: bool = True
    """Nothing of anybody else is in it. False: it must be erased or restored into before a turn."""
    is_dirty: bool = False
    """It holds more than the holder's last snapshot."""
    has_failed: bool = False
    """It could not be saved; another turn, or its end, is another occasion."""
    tenant: str | None = None
    """Who has it on lease."""
    tokens: int = 0
    turns: int = 0
    """The holder's, ever: one who came back often comes back again."""
    used_at: float = 0.0
    """Monotonic seconds."""


class SlotTable(Generic[Worker]):
    """The seats of an engine's workers. Lives as long as its keeper."""

    def __init__(self) -> None:
        self._seats: dict[Place[Worker], Seat] = {}
        self._place_of: dict[str, Place[Worker]] = {}
        self._retired: set[Worker] = set()

    def __getitem__(self, place: Place[Worker]) -> Seat:
        """The seat of a place; a place of a worker that is gone has an unknown one that nobody keeps."""
        return self._seats.get(place) or Seat(is_clean=False)

    def add_worker(self, worker: Worker, slots: int) -> None:
        """A fresh worker: its slots are empty."""
        for slot in range(slots):
            self._seats[Place(worker, slot)] = Seat()

    def retire(self, worker: Worker) -> None:
        """A worker lends no more slots: nobody waits for one. What they hold is known until `remove_worker`."""
        self._retired.add(worker)

    def remove_worker(self, worker: Worker) -> list[str]:
        """A worker is gone, and what its slots held; returns whose that was."""
        self._retired.discard(worker)
        lost = []
        for place in self.places(worker):
            seat = self._seats.pop(place)
            if seat.holder is not None:
                del self._place_of[seat.holder]
                lost.append(seat.holder)
        return lost

    @property
    def workers(self) -> set[Worker]:
        """Those whose slots are known."""
        return {place.worker for place in self._seats}

    def places(self, worker: Worker) -> list[Place[Worker]]:
        """The places of one worker."""
        return [place for place in self._seats if place.worker == worker]

    def place_of(self, session: str) -> Place[Worker] | None:
        """Where a session is, unless somebody else is about to take that place."""
        place = self._place_of.get(session)
        if place is None or self._seats[place].tenant not in (None, session):
            return None
        return place

    def holds(self, session: str) -> bool:
        """Whether a slot has a session's KV, even if somebody else is about to take that place: who does saves it."""
        return session in self._place_of

    def choose(self, wish: Wish, free: Collection[Place[Worker]], now: float) -> Place[Worker] | None:
        """The best of the free places; None: the wished one is not free just now, and worth waiting for."""
        own = self.place_of(wish.session)
        if own is not None and own.worker not in self._retired:
            return own if own in free else None
        if wish.parent is not None and (near := self._place_of.get(wish.parent)) in free:
            return near
        if not free:
            return None
        crowd: dict[Worker, int] = {}
        for place in free:
            crowd[place.worker] = crowd.get(place.worker, 0) + 1
        return min(free, key=lambda place: (*self._cost(place, now), -crowd[place.worker], place.slot))

    def lend(self, place: Place[Worker], session: str) -> None:
        """A turn of `session` gets the place. Who holds it stays known until `vacate`."""
        self[place].tenant = session

    def give_back(self, place: Place[Worker]) -> None:
        """The turn is over."""
        self[place].tenant = None

    def vacate(self, place: Place[Worker]) -> None:
        """What is in the slot belongs to nobody any more, and is still there."""
        seat = self[place]
        if seat.holder is not None:
            self._place_of.pop(seat.holder, None)
        seat.holder, seat.is_clean, seat.is_dirty, seat.tokens = None, False, False, 0

    def hold(self, place: Place[Worker], session: str, *, turns: int, now: float) -> None:
        """From now on the slot holds this session's KV and nothing else.

        A session is in one place: where it was before holds nobody's now.
        """
        if place not in self._seats:
            return
        before = self._place_of.get(session)
        if before is not None and before != place:
            self.vacate(before)
        if self._seats[place].holder not in (None, session):
            self.vacate(place)
        seat = self._seats[place]
        seat.holder, seat.is_clean, seat.turns, seat.used_at = session, True, turns, now
        self._place_of[session] = place

    def _cost(self, place: Place[Worker], now: float) -> tuple[int, float]:
        """What is lost by evicting: nothing, else tokens that must be brought back, by the chance that they are wanted.

        Slots are equal in size, so bytes do not count here; they do where memory is short (`sweeper.py`).
        """
        seat = self._seats[place]
        if seat.holder is None:
            return (0, 0.0)
        return (1, max(seat.tokens, 1) * chance_of_return(seat.turns, now - seat.used_at))


def chance_of_return(turns: int, idle_s: float) -> float:
    """How likely somebody comes back soon, from 0 to 1: who came back often does, who was away for long does not."""
    habit = (1 + turns) / (3 + turns)
    return habit * RETURN_HALF_S / (RETURN_HALF_S + max(idle_s, 0.0))
