"""What has to leave memory or disk, or be forgotten, by age and budget: the least worth its bytes goes first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hugind.proxy.sessions.slots import chance_of_return


@dataclass(frozen=True)
class Kept:
    """What a session takes up, and what decides whether it may go on doing so."""

    session: str
    owner: str
    memory_bytes: int
    """0: it has no snapshot there."""
    disk_bytes: int
    is_on_disk: bool
    """The disk has what memory has."""
    tokens: int
    turns: int
    idle_s: float
    is_pinned: bool
    is_busy: bool
    """Its files are in use, or about to be replaced."""


@dataclass(frozen=True)
class Budget:
    """What an engine's snapshots may take up, and for how long."""

    memory_bytes: int
    disk_bytes: int
    user_disk_bytes: int | None
    """Of these, at most so much for one owner. None: all."""
    memory_ttl_s: float
    disk_ttl_s: float


@dataclass(frozen=True)
class Plan:
    """What has to happen. No list names a session twice, and what is forgotten is in no other list."""

    leave_memory: tuple[str, ...] = ()
    """In this order. What the disk does not have is copied there first, and is lost if that fails. In `leave_disk` as
    well: there is no room for it, so it is not copied."""
    leave_disk: tuple[str, ...] = ()
    """In this order. What memory has of them stays."""
    forget: tuple[str, ...] = ()
    """Whole sessions, snapshots and all."""


def plan(
    kept: Iterable[Kept],
    budget: Budget,
    *,
    wanted_memory: int = 0,
    wanted_disk: int = 0,
    wanted_owner: str | None = None,
) -> Plan:
    """The least that has to go so that budgets hold, `wanted_*` bytes that are about to be written included.

    The order of `kept` makes no difference.

    - Busy sessions count, and are never named.
    - Pinned sessions do not age. They leave memory after all others, and never leave disk: a pinned session that leaves
      memory is copied to disk even where that is over budget.
    - Age counts first, then each owner's part of the disk, then the whole.
    - Nothing leaves for a `wanted_*` that would not fit into the empty budget: it cannot be written.
    """
    there = list(kept)
    old = _longest_idle_first(one for one in there if _is_older(one, budget.disk_ttl_s))
    forgotten = {one.session for one in old}
    rest = [one for one in there if one.session not in forgotten]

    from_memory = _leave_memory(rest, budget, wanted_memory)
    moving = {one.session for one in from_memory}
    after = {one.session: _disk_bytes_after(one, moves=one.session in moving) for one in rest}
    from_disk = _leave_disk(rest, after, budget, wanted_disk, wanted_owner)
    return Plan(_names(from_memory), _names(from_disk), _names(old))


def _leave_memory(there: list[Kept], budget: Budget, wanted: int) -> list[Kept]:
    sizes = {one.session: one.memory_bytes for one in there if one.memory_bytes > 0}
    held = [one for one in there if one.session in sizes]
    old = _longest_idle_first(one for one in held if _is_older(one, budget.memory_ttl_s))
    aged = {one.session for one in old}
    young = [one for one in held if one.session not in aged]
    room = _Room(young, sizes, budget.memory_bytes, None)
    room.want(wanted, None)
    return old + room.clear([one for one in young if not one.is_busy])


def _leave_disk(
    there: list[Kept], sizes: dict[str, int], budget: Budget, wanted: int, wanted_owner: str | None
) -> list[Kept]:
    room = _Room(there, sizes, budget.disk_bytes, budget.user_disk_bytes)
    room.want(wanted, wanted_owner)
    return room.clear([one for one in there if sizes[one.session] > 0 and not (one.is_busy or one.is_pinned)])


class _Room:
    """What is taken of one tier, and what is left of it. Lives as long as a plan is made."""

    def __init__(self, there: list[Kept], sizes: dict[str, int], limit: int, owner_limit: int | None) -> None:
        self._sizes = sizes
        self._limit = limit
        self._owner_limit = owner_limit
        self._used: Counter[str] = Counter()
        for one in there:
            self._used[one.owner] += sizes[one.session]
        self._left = limit - self._used.total()

    def want(self, size: int, owner: str | None) -> None:
        """Set bytes aside, if they would fit into the empty tier."""
        if size > self._limit or (owner is not None and self._owner_limit is not None and size > self._owner_limit):
            return
        self._left -= size
        if owner is not None:
            self._used[owner] += size

    def clear(self, movable: list[Kept]) -> list[Kept]:
        """The least of `movable` that has to leave."""
        if self._left >= 0 and not any(map(self._is_over, self._used)):
            return []
        in_order = self._least_valuable_first(movable)
        leaving: set[str] = set()
        reasons: tuple[Callable[[Kept], bool], ...] = (lambda one: self._is_over(one.owner), lambda _: self._left < 0)
        for must_leave in reasons:
            for one in in_order:
                if one.session not in leaving and must_leave(one):
                    leaving.add(one.session)
                    self._take(one, -1)
        # A big one that left last may have made room enough for small ones that left before it.
        for one in reversed(in_order):
            if one.session in leaving and self._has_room_for(one):
                leaving.remove(one.session)
                self._take(one, 1)
        return [one for one in in_order if one.session in leaving]

    def _take(self, one: Kept, sign: int) -> None:
        size = sign * self._sizes[one.session]
        self._used[one.owner] += size
        self._left -= size

    def _has_room_for(self, one: Kept) -> bool:
        size = self._sizes[one.session]
        return size <= self._left and not self._is_over(one.owner, size)

    def _is_over(self, owner: str, more: int = 0) -> bool:
        return self._owner_limit is not None and self._used[owner] + more > self._owner_limit

    def _least_valuable_first(self, some: list[Kept]) -> list[Kept]:
        """By the tokens of a byte that are likely wanted again; of equals, first what the disk has anyway."""

        def value(one: Kept) -> tuple[bool, float, bool, str]:
            worth = max(one.tokens, 1) * chance_of_return(one.turns, one.idle_s) / self._sizes[one.session]
            return (one.is_pinned, worth, not one.is_on_disk, one.session)

        return sorted(some, key=value)


def _disk_bytes_after(one: Kept, *, moves: bool) -> int:
    """On disk once it has left memory. Compression is not counted on."""
    return one.memory_bytes if moves and not one.is_on_disk else one.disk_bytes


def _is_older(one: Kept, ttl_s: float) -> bool:
    return one.idle_s > ttl_s and not one.is_pinned and not one.is_busy


def _longest_idle_first(some: Iterable[Kept]) -> list[Kept]:
    return sorted(some, key=lambda one: (-one.idle_s, one.session))


def _names(some: Iterable[Kept]) -> tuple[str, ...]:
    return tuple(one.session for one in some)
