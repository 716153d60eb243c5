"""Which engines are loaded, which must go, which may come? Pure.

Called by `fleet.py` with what it sees; it does what is decided. First come first served: the engine that was asked for
first gets room first, idle ones of least value leave for it, and where only busy ones are in the way, one of them
yields once it has had its time. So nobody starves, and nothing is loaded only to be thrown out again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hugind.supervisor.models.sizing import Footprint

Stage = Literal["away", "loading", "ready", "ending"]

NOTHING = Footprint(0, 0)
DEFAULT_LOAD_S = 1.0
"""Of an engine that was never loaded."""
TERM_S = 60.0
"""After so long a busy engine yields even if somebody still waits who waited for it: they may do so for ever, where
others always come first."""
SETTLING_LOOK_S = 0.1
"""Memory of a process that has just ended is looked for so often."""


@dataclass(frozen=True)
class Group:
    """Engines that may not all be loaded at the same time."""

    name: str
    members: frozenset[str]
    at_most: int = 1
    is_alone: bool = False
    """Beside a member nothing may be loaded that is none."""


@dataclass(frozen=True)
class FleetRules:
    """What may be loaded at the same time, and for how long."""

    max_resident: int = 0
    """So many engines; 0: what fits."""
    keep_alive_s: float = math.inf
    """How long an idle engine stays where nobody said anything else."""
    is_on_demand: bool = False
    """Engines come when they are asked for. Not: all come at the start, as far as they fit."""
    preload: tuple[str, ...] = ()
    """Come at the start in any case, as far as they fit, and before the others."""
    pinned: frozenset[str] = frozenset()
    """Stay once they are loaded."""
    groups: tuple[Group, ...] = ()
    ram_bytes: int | None = None
    """What all together may take, by estimate; None: no matter."""
    vram_bytes: int | None = None

    def expected(self, names: Iterable[str]) -> list[str]:
        """Which of the engines come at the start, in this order."""
        known = list(names)
        first = [name for name in self.preload if name in known]
        return first if self.is_on_demand else list(dict.fromkeys([*first, *known]))


@dataclass(frozen=True)
class Standing:
    """One engine, as things are now. Times in monotonic seconds."""

    name: str
    stage: Stage
    footprint: Footprint = NOTHING
    refs: int = 0
    """Requests that need it."""
    is_pinned: bool = False
    asked_since: float | None = None
    """It shall be loaded, and is not: away, or not gone yet."""
    is_needed: bool = True
    """Somebody waits for it: others may have to leave. Not: it comes only where there is room anyway."""
    ready_since: float | None = None
    has_served: bool = True
    """Who waited for it when it was loaded waits no more."""
    load_s: float | None = None
    """How long its last load took."""
    uses: float = 0.0
    """How often it was used lately."""
    idle_since: float | None = None
    expires_at: float = math.inf
    """When it has been idle for long enough; of no meaning while it is in use."""

    @property
    def is_busy(self) -> bool:
        """Somebody needs it."""
        return self.refs > 0


@dataclass
class Decision:
    """What is to be done now."""

    load: list[str] = field(default_factory=list)
    unload: list[str] = field(default_factory=list)
    """Idle ones; and busy ones that yield: their running turns are waited for."""
    hopeless: dict[str, str] = field(default_factory=dict)
    """Asked for, and there will be no room: why."""
    look_again_at: float = math.inf
    """Nothing else happening meanwhile, there may be more to decide then."""


def decide(
    there: Sequence[Standing], rules: FleetRules, free: Footprint | None, now: float, *, is_settling: bool = False
) -> Decision:
    """What has to be loaded and unloaded.

    `free`: memory that the machine has now, as it says itself; None: it does not. `is_settling`: some process has just
    ended, and its memory may be missing there still.
    """
    decision = Decision()
    staying = {one.name: one for one in there if one.stage in ("loading", "ready")}
    present = {one.name: one for one in there if one.stage != "away"}
    for one in list(staying.values()):
        if one.stage == "ready" and not one.is_busy and not one.is_pinned:
            if one.expires_at <= now:
                decision.unload.append(one.name)
                del staying[one.name]
            else:
                decision.look_again_at = min(decision.look_again_at, one.expires_at)
    room = _Room(rules, free, present, staying, is_settling)
    asking = [one for one in there if one.asked_since is not None and one.stage in ("away", "ending")]
    for one in sorted(asking, key=lambda one: (one.asked_since, one.name)):
        _make_room(one, room, decision, now)
    return decision


def value(one: Standing, now: float) -> float:
    """What is lost by unloading an idle engine: the time to load it again, by how likely that is soon."""
    idle_s = max(now - one.idle_since, 0.0) if one.idle_since is not None else 0.0
    return _load_s(one) * (1 + one.uses) / (1 + idle_s)


@dataclass
class _Room:
    """What is loaded, and what will be once all that was decided has happened. Lives as long as one decision."""

    rules: FleetRules
    free: Footprint | None
    present: dict[str, Standing]
    """What takes room now, what leaves included."""
    staying: dict[str, Standing]
    """What will: less what leaves, and with what room is kept for."""
    is_settling: bool

    def holds(self, some: dict[str, Standing]) -> bool:
        """Whether engines may be loaded together, by the rules and by the machine's word."""
        return self.obeys(some) and self.has_memory(some)

    def obeys(self, some: dict[str, Standing]) -> bool:
        """By the rules. One alone may always be tried: the engine itself knows best what fits."""
        rules = self.rules
        if rules.max_resident and len(some) > rules.max_resident:
            return False
        if not all(_allows(group, some) for group in rules.groups):
            return False
        needed = _sum(some.values())
        return len(some) == 1 or (
            (rules.ram_bytes is None or needed.ram_bytes <= rules.ram_bytes)
            and (rules.vram_bytes is None or needed.vram_bytes <= rules.vram_bytes)
        )

    def has_memory(self, some: dict[str, Standing]) -> bool:
        """By the machine's word: what is yet to be loaded fits into what is free and what the others give back."""
        if self.free is None or len(some) == 1:
            return True
        coming = _sum(one for one in some.values() if one.stage in ("away", "loading"))
        back = _sum(one for one in self.present.values() if one.stage != "loading" and one.name not in some)
        return (
            coming.ram_bytes <= self.free.ram_bytes + back.ram_bytes
            and coming.vram_bytes <= self.free.vram_bytes + back.vram_bytes
        )

    def keep_for(self, one: Standing) -> None:
        """From now on it counts."""
        self.staying[one.name] = one


def _make_room(one: Standing, room: _Room, decision: Decision, now: float) -> None:
    wanted = {**room.staying, one.name: one}
    if room.holds(wanted):
        _load_or_wait(one, room, decision)
        return
    may_come_back = room.is_settling or any(other.stage == "loading" for other in room.staying.values())
    if room.obeys(wanted) and may_come_back:  # only the machine's word is missing, and it is about to change
        _wait_for_memory(one, room, decision, now)
        return
    leaving = _choose(one, room, now) if one.is_needed else None
    if leaving is None:
        pinned = {name: other for name, other in room.staying.items() if other.is_pinned}
        beside = {**pinned, one.name: one}
        if not one.is_needed:
            decision.hopeless[one.name] = "there is no room for it"
        elif not room.holds(beside) and may_come_back and room.obeys(beside):
            _wait_for_memory(one, room, decision, now)
        elif not room.holds(beside):
            decision.hopeless[one.name] = f"there is no room beside what is pinned: {', '.join(sorted(pinned))}"
        return  # else who came earlier takes the room first
    busy = [other for other in leaving if other.is_busy]
    for other in leaving:
        del room.staying[other.name]
    yields_at = max((_yields_at(other, one) for other in busy), default=now)
    if yields_at <= now:
        decision.unload += [other.name for other in leaving]
    else:
        decision.look_again_at = min(decision.look_again_at, yields_at)
    room.keep_for(one)


def _wait_for_memory(one: Standing, room: _Room, decision: Decision, now: float) -> None:
    room.keep_for(one)
    decision.look_again_at = min(decision.look_again_at, now + SETTLING_LOOK_S)


def _load_or_wait(one: Standing, room: _Room, decision: Decision) -> None:
    """There is room for it; but perhaps not before others have left."""
    room.keep_for(one)
    if one.stage == "away" and room.holds({**room.present, one.name: one}):
        room.present[one.name] = one
        decision.load.append(one.name)


def _choose(one: Standing, room: _Room, now: float) -> list[Standing] | None:
    """Who leaves so that it has room: idle ones first, the least valuable first, no more than needed. None: nobody can.

    Of busy ones, first who was ready longest.
    """

    def price(other: Standing) -> tuple[bool, float, str]:
        if other.is_busy:
            return (True, math.inf if other.ready_since is None else other.ready_since, other.name)
        return (False, value(other, now), other.name)

    reserved = {name for name, other in room.staying.items() if other.stage in ("away", "ending")}
    movable = [other for other in room.staying.values() if not other.is_pinned and other.name not in reserved]
    in_order = sorted(movable, key=price)
    return _fewest(in_order, lambda kept: room.holds({**kept, one.name: one}), room.staying)


def _fewest(
    in_order: list[Standing], holds: Callable[[dict[str, Standing]], bool], staying: dict[str, Standing]
) -> list[Standing] | None:
    kept, leaving = dict(staying), []
    for other in in_order:
        if holds(kept):
            break
        del kept[other.name]
        leaving.append(other)
    if not holds(kept):
        return None
    for other in reversed(list(leaving)):  # one that left last may have made the room of earlier ones needless
        if holds({**kept, other.name: other}):
            kept[other.name] = other
            leaving.remove(other)
    return leaving


def _yields_at(busy: Standing, one: Standing) -> float:
    """When a busy engine has had its time: as long as the other takes to load, and its own waiters served."""
    if busy.ready_since is None:
        return math.inf
    return busy.ready_since + (_load_s(one) if busy.has_served else max(_load_s(one), TERM_S))


def _load_s(one: Standing) -> float:
    return DEFAULT_LOAD_S if one.load_s is None else one.load_s


def _allows(group: Group, some: dict[str, Standing]) -> bool:
    members = group.members & some.keys()
    if len(members) > group.at_most:
        return False
    return not (group.is_alone and members and len(members) < len(some))


def _sum(some: Iterable[Standing]) -> Footprint:
    footprints = [one.footprint for one in some]
    return Footprint(sum(one.ram_bytes for one in footprints), sum(one.vram_bytes for one in footprints))
