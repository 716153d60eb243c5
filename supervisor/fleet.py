"""All engines of one gateway: loaded when somebody needs them, unloaded when nobody does or others need the room.

`residency.py` decides; the arbiter here sees, does it, and is woken by whatever changes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from hugind.supervisor.engine import Engine
from hugind.supervisor.models.sizing import Footprint
from hugind.supervisor.residency import NOTHING, Decision, FleetRules, Stage, Standing, decide
from hugind.supervisor.worker import Worker, WorkerState

logger = logging.getLogger(__name__)

RETRY_FAILED_S = 10
"""A request that comes so long after a failed load tries again; before that it gets the same reason."""
SETTLING_S = 5
"""How long the memory of a process that has ended may be missing from what the machine says is free."""
RECENT_S = 600.0
"""Uses that are so old count half."""
AFTER_TROUBLE_S = 1

Measure = Callable[[Engine], Footprint]
"""What an engine will take. May block."""
FreeMemory = Callable[[], Footprint]
"""What the machine has free. May block."""


@dataclass(frozen=True)
class Residency:
    """What the fleet knows of an engine's place in memory, as programs see it."""

    is_loaded: bool
    """It has processes: ready, loading or ending."""
    refs: int
    """Requests that need it just now, waiting ones included."""
    expires_at: float | None
    """Unix seconds, now while it ends; None: it stays, or is in use."""
    ram_bytes: int
    """By estimate, as it was or would be loaded. 0: not known."""
    vram_bytes: int
    is_pinned: bool
    load_s: float | None
    """How long its last load took, from its processes' start until it was ready."""
    is_expected: bool
    """It comes without being asked for, and has not come yet."""


class Use:
    """Somebody needs an engine: until `end` it is loaded, or on its way. Made by `Fleet.use`."""

    def __init__(self, fleet: Fleet, engine: Engine) -> None:
        self.engine = engine
        self._fleet = fleet

    def end(self) -> None:
        """It is needed no more. Safe to call twice."""
        self._fleet.ended(self)

    def __enter__(self) -> Use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


@dataclass(eq=False)
class _Seat:
    """One engine, as the fleet sees it. Times in monotonic seconds."""

    engine: Engine
    stage: Stage = "away"
    footprint: Footprint | None = None
    uses: set[Use] = field(default_factory=set)
    unserved: set[Use] = field(default_factory=set)
    """Of these, who waited already when it was loaded."""
    keep_alive_s: float | None = None
    """As the last one said who said anything since it was loaded."""
    recent_uses: float = 0.0
    used_at: float = 0.0
    idle_since: float | None = None
    started_at: float = 0.0
    ready_since: float | None = None
    load_s: float | None = None
    asked_since: float | None = None
    """It shall be loaded, and is not yet."""
    is_expected: bool = False
    """It comes at the start, and has not come yet."""
    is_fetched: bool = False
    """It is being loaded because somebody asked for it."""
    is_held: bool = False
    """What it takes the place of is not gone yet."""
    is_leaving: bool = False
    """It is an engine of the fleet no more."""
    failed_at: float = -math.inf

    def see(self) -> Stage:
        """Where it is now."""
        state = self.engine.state
        if self.is_leaving:
            return "away" if self.engine.has_ended else "ending"
        if not self.engine.is_wanted:
            return "away" if state in ("unloaded", "failed", "stopped") else "ending"
        if state == "failed":
            return "away"
        return "ready" if state == "ready" else "loading"


Event = Literal["load", "expired", "evicted", "asked"]
"""What happens to an engine: it was loaded, or unloaded: it was idle for too long, another took its place, or somebody
said so."""


class Fleet:
    """Runs engines. An async context manager: the engines live inside it, and are gone when it is left."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        rules: FleetRules | None = None,
        *,
        measure: Measure | None = None,
        free_memory: FreeMemory | None = None,
        retry_failed_s: float = RETRY_FAILED_S,
    ) -> None:
        """`rules`: none, and all engines are loaded at the start and stay."""
        self.engines = dict(engines)
        self.rules = rules or FleetRules()
        self.events: Counter[tuple[str, Event]] = Counter()
        """How often, by the engine's name."""
        self._measure = measure
        self._free_memory = free_memory
        self._retry_failed_s = retry_failed_s
        self._pins: dict[str, bool] = {}
        """Said since the start, by name: beats the rules."""
        self._seats: dict[Engine, _Seat] = {}
        self._group = asyncio.TaskGroup()
        self._exchange = asyncio.Lock()
        self._changed, self._nudged = asyncio.Event(), asyncio.Event()
        """The same, for who waits for something here, and for the arbiter: each clears its own."""
        self._is_asked = False
        """Some engine shall be loaded."""
        self._looks_at = math.inf
        self._ended_at = -math.inf
        """When the last process of an engine ended that was unloaded."""
        self._is_ending = False
        for engine in self.engines.values():
            self._seat(engine)

    async def __aenter__(self) -> Fleet:
        await self._group.__aenter__()
        for engine in self.engines.values():
            self._start(engine)
        self._expect(self.engines)
        self._group.create_task(self._arbitrate(), name="fleet")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        for engine in [*self._seats]:  # also those that a reload replaces just now
            engine.stop()
        self._nudge()
        await self._group.__aexit__(kind, error, trace)

    async def exchange(self, wanted: Mapping[str, Engine], rules: FleetRules | None = None) -> None:
        """Make `wanted` the engines; those that are there already go on undisturbed. `rules`: None, as they were.

        Their names hold at once, so that requests wait for what is coming. What leaves finishes its running turns,
        however long, and is ended before anything that arrives is loaded: the machine may have room for only one of
        two. Returns when what leaves is gone.
        """
        async with self._exchange:
            leaving = [engine for name, engine in self.engines.items() if wanted.get(name) is not engine]
            arriving = {name: engine for name, engine in wanted.items() if self.engines.get(name) is not engine}
            self.engines = dict(wanted)
            self.rules = rules or self.rules
            for engine in arriving.values():
                self._seat(engine).is_held = True
            for engine in leaving:
                self._seats[engine].is_leaving = True
                engine.retire()
            self._nudge()
            for engine in leaving:
                await engine.ended()
                self._ended_at = time.monotonic()
                del self._seats[engine]
            for engine in arriving.values():
                self._seats[engine].is_held = False
                if self._is_ending:
                    engine.stop()
                else:
                    self._start(engine)
            self._expect(arriving)

    def _seat(self, engine: Engine) -> _Seat:
        """Take an engine in: unloaded until there is room for it."""
        seat = self._seats[engine] = _Seat(engine)
        engine.unload()
        engine.listen(lambda worker: self._moved(seat, worker))
        return seat

    def _start(self, engine: Engine) -> None:
        self._group.create_task(engine.run(), name=f"engine {engine.name}")

    def _expect(self, arriving: Iterable[str]) -> None:
        """Those of the arriving engines that come at once shall be loaded, in the rules' order."""
        names = set(arriving)
        now = time.monotonic()
        for place, name in enumerate(self.rules.expected(self.engines)):
            seat = self._seats[self.engines[name]]
            if name in names:
                seat.is_expected = self._is_asked = True
                seat.asked_since = seat.asked_since or now + place * 1e-6
        self._nudge()

    # ---- who needs what

    def use(self, engine: Engine, keep_alive_s: float | None = None) -> Use:
        """Need an engine from now on, until the use is ended; it is loaded if it is not. Does not wait for that.

        `keep_alive_s`: how long it stays after that unless somebody else says so; None: as the fleet has it.
        """
        use, now = Use(self, engine), time.monotonic()
        seat = self._seats.get(engine)
        if seat is None or seat.is_leaving:
            return use
        seat.uses.add(use)
        seat.recent_uses = _decayed(seat, now) + 1
        seat.used_at, seat.idle_since = now, None
        if keep_alive_s is not None:
            seat.keep_alive_s = keep_alive_s
        if seat.stage in ("away", "ending") or not engine.is_wanted:
            self._ask(seat, now)
        return use

    def ended(self, use: Use) -> None:
        """A use is over: called by `Use.end`."""
        seat = self._seats.get(use.engine)
        if seat is None or use not in seat.uses:
            return
        seat.uses.discard(use)
        is_last_served = use in seat.unserved and len(seat.unserved) == 1
        seat.unserved.discard(use)
        if not seat.uses:
            seat.idle_since = time.monotonic()
            if not seat.is_expected:  # if it has not come yet, nobody wants it any more
                seat.asked_since = None
        # The arbiter need not look at every end: only for who waits for room, or before it looks anyway.
        if (is_last_served or not seat.uses) and (self._is_asked or self._expires_at(seat) < self._looks_at):
            self._nudge()

    def _ask(self, seat: _Seat, now: float) -> None:
        engine = seat.engine
        if engine.state == "failed":
            if now - seat.failed_at < self._retry_failed_s:
                return
            engine.unload()
        elif engine.state == "ready" and seat.asked_since is None:  # it was to be unloaded, and has not begun to be
            engine.load()
            seat.stage = seat.see()
            seat.ready_since = seat.ready_since or now  # some worker of it may have begun
            self._nudge()  # somebody may wait for the room that it was to leave
            return
        if seat.asked_since is None:
            seat.asked_since, self._is_asked = now, True
        self._nudge()

    async def load(self, name: str) -> None:
        """Have an engine loaded, even if it has just failed. Returns when it is ready, or failed, or is gone.

        Raises:
            KeyError: there is none of that name.
        """
        await self._load(self.engines[name])

    def begin_load(self, name: str) -> None:
        """As `load`, without waiting.

        Raises:
            KeyError: as there.
        """
        self._group.create_task(self._load(self.engines[name]), name=f"load {name}")

    async def _load(self, engine: Engine) -> None:
        seat = self._seats.get(engine)
        if seat is None:  # a reload was quicker
            return
        seat.failed_at = -math.inf
        with self.use(engine):
            await self._until(lambda: engine.state == "ready" or self._is_hopeless(seat))

    async def unload(self, name: str) -> bool:
        """Unload an engine: its running turns are waited for. Returns when it is gone; False: it is wanted again.

        Raises:
            KeyError: there is none of that name.
        """
        engine = self.engines[name]
        seat = self._seats[engine]
        self._send_away(seat, "asked")
        await self._until(lambda: seat.stage == "away" or engine.is_wanted or seat.is_leaving)
        return seat.stage == "away"

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """Say whether an engine stays once it is loaded, whatever the rules say of it.

        Raises:
            KeyError: there is none of that name.
        """
        self._pins[self.engines[name].name] = is_pinned
        self._nudge()

    # ---- what others see

    def residency(self, engine: Engine) -> Residency:
        """How an engine stands."""
        seat = self._seats.get(engine) or _Seat(engine)
        expires_at = None
        if seat.stage == "ready" and not seat.uses and math.isfinite(at := self._expires_at(seat)):
            expires_at = time.time() + at - time.monotonic()
        elif seat.stage == "ending" and not seat.uses:
            expires_at = time.time()
        footprint = seat.footprint or NOTHING
        return Residency(
            is_loaded=seat.stage != "away",
            refs=len(seat.uses),
            expires_at=expires_at,
            ram_bytes=footprint.ram_bytes,
            vram_bytes=footprint.vram_bytes,
            is_pinned=self._is_pinned(engine.name),
            load_s=seat.load_s,
            is_expected=seat.is_expected,
        )

    @property
    def is_ready(self) -> bool:
        """Whether every engine can serve, or will be loaded when somebody asks for it."""
        return all(self.is_fine(engine) for engine in self.engines.values())

    def is_fine(self, engine: Engine) -> bool:
        """Whether an engine can serve, or will be loaded when somebody asks for it."""
        seat, state = self._seats[engine], engine.state
        if seat.is_expected or state in ("failed", "stopped"):
            return state == "ready"
        return state == "ready" or not seat.engine.is_wanted or seat.is_fetched

    def _is_pinned(self, name: str) -> bool:
        return self._pins.get(name, name in self.rules.pinned)

    def _is_hopeless(self, seat: _Seat) -> bool:
        return seat.engine.state == "failed" or seat.is_leaving or self._is_ending

    def _expires_at(self, seat: _Seat) -> float:
        if seat.uses or self._is_pinned(seat.engine.name):
            return math.inf
        keep_alive_s = self.rules.keep_alive_s if seat.keep_alive_s is None else seat.keep_alive_s
        return (seat.idle_since or 0.0) + keep_alive_s

    # ---- what happens to engines

    def _moved(self, seat: _Seat, worker: Worker) -> None:
        now = time.monotonic()
        if worker.state is WorkerState.STARTING:
            seat.started_at = now
        before, seat.stage = seat.stage, seat.see()
        if seat.stage == "ready" and before != "ready":
            seat.ready_since, seat.load_s = now, now - seat.started_at
            seat.unserved = set(seat.uses)
            self.events[seat.engine.name, "load"] += 1
            seat.is_expected = seat.is_fetched = False
            seat.idle_since = None if seat.uses else now
        elif seat.stage != "ready":
            seat.ready_since = None
        if seat.stage == "away" and before != "away":
            self._went(seat, now)
        self._nudge()

    def _went(self, seat: _Seat, now: float) -> None:
        self._ended_at = now
        seat.keep_alive_s, seat.unserved = None, set()
        if seat.engine.state == "failed":
            seat.failed_at, seat.asked_since = now, None
            seat.is_expected = seat.is_fetched = False

    def _send_away(self, seat: _Seat, why: Event) -> None:
        """Unload it. Who still needs it when it is gone waits behind others who wait already."""
        now = time.monotonic()
        if seat.see() in ("ready", "loading"):
            self.events[seat.engine.name, why] += 1
        seat.asked_since, seat.is_expected = now if seat.uses else None, False
        self._is_asked = self._is_asked or bool(seat.uses)
        seat.engine.unload()
        before, seat.stage = seat.stage, seat.see()
        if seat.stage == "away" and before != "away":
            self._went(seat, now)
        self._nudge()

    def _nudge(self) -> None:
        self._changed.set()
        self._nudged.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    # ---- the arbiter

    async def _arbitrate(self) -> None:
        while not self._is_ending:
            self._nudged.clear()
            try:
                self._apply(await self._decide())
            except Exception:
                # Engines that are loaded go on serving, whatever is wrong with who decides about them.
                logger.exception("deciding what to load broke")
                self._looks_at = time.monotonic() + AFTER_TROUBLE_S
            pause_s = self._looks_at - time.monotonic()
            try:
                async with asyncio.timeout(None if math.isinf(pause_s) else max(pause_s, 0)):
                    await self._nudged.wait()
            except TimeoutError:
                pass

    async def _decide(self) -> Decision:
        free = None
        if waiting := [seat for seat in self._seats.values() if seat.asked_since is not None and not seat.is_held]:
            for seat in waiting:
                if seat.footprint is None:
                    seat.footprint = await self._size_up(seat.engine)
            if self._free_memory is not None:
                free = await asyncio.to_thread(self._free_memory)
        now = time.monotonic()
        there = [self._standing(seat, now) for seat in self._seats.values()]
        return decide(there, self.rules, free, now, is_settling=now - self._ended_at < SETTLING_S)

    async def _size_up(self, engine: Engine) -> Footprint:
        if self._measure is None:
            return NOTHING
        try:
            return await asyncio.to_thread(self._measure, engine)
        except Exception as error:  # noqa: BLE001 - a file that cannot be read is the engine's to complain of
            logger.warning("%s: how much memory it takes is not known: %s", engine.name, error)
            return NOTHING

    def _standing(self, seat: _Seat, now: float) -> Standing:
        name = seat.engine.name
        return Standing(
            name=f"{name} (leaving)" if seat.is_leaving else name,
            stage=seat.stage if not seat.is_leaving else seat.see(),
            footprint=seat.footprint or NOTHING,
            refs=len(seat.uses),
            is_pinned=self._is_pinned(name),
            asked_since=None if seat.is_held or seat.is_leaving else seat.asked_since,
            is_needed=bool(seat.uses),
            ready_since=seat.ready_since,
            has_served=not seat.unserved,
            load_s=seat.load_s,
            uses=_decayed(seat, now),
            idle_since=seat.idle_since,
            expires_at=self._expires_at(seat),
        )

    def _apply(self, decision: Decision) -> None:
        """To be called at once after the decision: nothing may have changed meanwhile."""
        for name in decision.unload:
            seat = self._seats[self.engines[name]]
            logger.info("%s is unloaded%s", name, ", to make room" if seat.uses else "")
            self._send_away(seat, "expired" if self._expires_at(seat) <= time.monotonic() else "evicted")
        for name in decision.load:
            seat = self._seats[self.engines[name]]
            seat.asked_since, seat.is_fetched = None, not seat.is_expected
            seat.engine.load()
            seat.stage = seat.see()
        for name, reason in decision.hopeless.items():
            seat = self._seats[self.engines[name]]
            seat.asked_since, seat.is_expected = None, False
            logger.warning("%s is not loaded: %s", name, reason)
            if seat.uses:
                seat.failed_at = time.monotonic()
                seat.engine.refuse(reason)
        self._is_asked = any(seat.asked_since is not None for seat in self._seats.values())
        self._looks_at = decision.look_again_at


def _decayed(seat: _Seat, now: float) -> float:
    """Uses, of which old ones count less."""
    if not seat.recent_uses:
        return 0.0
    return float(seat.recent_uses * 0.5 ** ((now - seat.used_at) / RECENT_S))
