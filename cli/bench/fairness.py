"""Who waits how long, and who gets how much, when one user asks for everything: in order of arrival, and in turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hugind.cli.bench.fairness_figures import Figures, Measured, Served
from hugind.cli.bench.fairness_load import Ask, Crowd, Person, measure_crowd, measure_shares
from hugind.cli.bench.fairness_stage import POLICIES, Policy, Scene, set_scene
from hugind.cli.bench.gateway import describe_machine
from hugind.cli.bench.random_model import Shape
from hugind.cli.bench.run import Report, find_engine_and_model, run_bench
from hugind.cli.bench.session_stage import Play
from hugind.supervisor.llama.binary import EngineBinary

MODEL = Shape(layers=6)
"""40 million parameters: as many turns as a figure needs, in minutes."""
PROMPT_CHARACTERS = 8
ANSWER_TOKENS = 8
SHARE_SIZES = (8, 16, 32, 64)
"""Tokens of an answer for each of the equally busy users."""
SHARE_IN_FLIGHT = 4
WARM_UP_SHARE = 1 / 6
"""Of the window in which tokens are counted, so much before it."""
CTX_SIZE = 512
ALONE_TURNS = 8
"""In each block, on the idle engine, before the crowd comes."""
USUAL_WAIT_TURNS = 0.5
"""What a light user waits for the turn that runs, where it comes next: not part of its pause."""
LIMIT_TIMES = 10
"""A crowd may take so many times what it takes if everybody is served one by one, in the order of arrival."""

HEAVY = "heavy"


@dataclass(frozen=True)
class FairnessBenchOptions:
    """How much to measure."""

    light: int = 4
    """Users with one turn at a time."""
    heavy: int = 32
    """Turns that one more user always has in flight."""
    slots: int = 2
    share: float = 0.1
    """Of the machine, what the light users ask for together; the rest of the time they read."""
    rounds: int = 3
    """Blocks of each policy."""
    turns: int = 12
    """Of each light user, in each block."""
    back_to_back: int = 2
    """Turns of each light user who does not pause, in each block."""
    window_turns: float = 90
    """How long tokens are counted in each block, as a multiple of a turn's own time."""
    model: Path | None = None
    """None: random weights, made for the run."""
    binary: EngineBinary | None = None
    """None: the one that a gateway would find."""

    def quick(self) -> FairnessBenchOptions:
        """Just enough to have every figure."""
        return replace(self, rounds=1, turns=1, back_to_back=1, window_turns=30)


@dataclass(frozen=True)
class FairnessBenchResult:
    """Everything measured, and of what."""

    figures: Figures
    about: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The policies on top."""
        return {**self.figures.as_json(), **self.about}


def run_fairness_bench(options: FairnessBenchOptions, report: Report) -> FairnessBenchResult:
    """Measure. Blocks; `report` hears what is being done. Call it from the main thread.

    Whatever way it ends, Ctrl-C and SIGTERM included, the processes, folders and files that it made are gone.

    Raises:
        HugindError: something did not start, or did not answer, or a block took far too long.
        KeyboardInterrupt: it was interrupted.
    """
    return run_bench(lambda folder, memory_folder: _bench(options, folder, memory_folder, report))


async def _bench(
    options: FairnessBenchOptions, folder: Path, memory_folder: Path | None, report: Report
) -> FairnessBenchResult:
    binary, model = await find_engine_and_model(options.binary, options.model, folder, report, MODEL)
    machine = describe_machine()
    cast = _Cast(options.light)
    play = Play(model, binary, options.slots, CTX_SIZE)
    report("starting a gateway with an engine for each policy")
    async with set_scene(folder / "home", play, POLICIES, cast.users, memory_folder=memory_folder) as scene:
        figures = await _Measurement(options, scene, cast, report).measure()
        report("stopping")
    about = {
        "policies": {policy.name: policy.words for policy in POLICIES},
        "workload": _describe_workload(options),
        "model": str(options.model or "random weights"),
        "engine": binary.build,
        "machine": machine,
    }
    return FairnessBenchResult(figures, about)


def _describe_workload(options: FairnessBenchOptions) -> dict[str, Any]:
    return {
        "slots": options.slots,
        "heavy_in_flight": options.heavy,
        "light_users": options.light,
        "light_share": options.share,
        "prompt_characters": PROMPT_CHARACTERS,
        "answer_tokens": ANSWER_TOKENS,
        "share_answer_tokens": list(SHARE_SIZES),
        "share_in_flight": SHARE_IN_FLIGHT,
        "blocks": options.rounds,
    }


@dataclass(frozen=True)
class _Cast:
    """Who asks, by name."""

    number: int

    @property
    def light(self) -> list[str]:
        return [f"light-{number + 1}" for number in range(self.number)]

    @property
    def busy(self) -> dict[str, int]:
        """With the tokens of each one's answers."""
        return {f"busy-{tokens}": tokens for tokens in SHARE_SIZES}

    @property
    def users(self) -> list[str]:
        return [HEAVY, *self.light, *self.busy]


class _Measurement:
    """Lives as long as measuring takes."""

    def __init__(self, options: FairnessBenchOptions, scene: Scene, cast: _Cast, report: Report) -> None:
        self._options = options
        self._scene = scene
        self._cast = cast
        self._report = report
        self._figures = Figures({policy.name: Measured() for policy in POLICIES})
        self._people: dict[tuple[str, str], Person] = {}
        self._dice = random.Random(0)  # noqa: S311 - how long somebody reads

    async def measure(self) -> Figures:
        """Every policy in each round, each second round backwards: what slowly changes hits all alike."""
        for policy in POLICIES:
            for user in self._cast.users:
                self._people[policy.name, user] = await self._scene.person(policy, user)
            await self._alone(policy)  # warms up caches and connections, and counts for nothing
        for number in range(self._options.rounds):
            for policy in POLICIES[::-1] if number % 2 else POLICIES:
                await self._block(policy, f"{policy.name}, block {number + 1} of {self._options.rounds}")
        return self._figures

    async def _block(self, policy: Policy, where: str) -> None:
        measured = self._figures.by_policy[policy.name]
        self._report(f"{where}: turns alone")
        measured.alone += await self._alone(policy)
        self._report(f"{where}: light users beside a heavy one")
        crowd = await self._crowd(policy, self._options.turns, self._pause_s)
        measured.light += crowd.light
        measured.heavy += crowd.heavy
        self._report(f"{where}: the same without pauses")
        measured.back_to_back += (await self._crowd(policy, self._options.back_to_back, lambda: 0)).light
        self._report(f"{where}: equally busy users")
        await self._shares(policy, measured)

    async def _alone(self, policy: Policy) -> list[Served]:
        asks = [self._ask(policy, user) for user in self._cast.light]
        return [await asks[number % len(asks)]() for number in range(ALONE_TURNS)]

    async def _crowd(self, policy: Policy, turns: int, pause_s: Callable[[], float]) -> Crowd:
        options = self._options
        light = [self._ask(policy, user) for user in self._cast.light]
        in_a_round = options.heavy + options.light / options.share
        crowd = await measure_crowd(
            self._ask(policy, HEAVY),
            light,
            in_flight=options.heavy,
            turns=turns,
            pause_s=pause_s,
            limit_s=LIMIT_TIMES * (turns + 1) * in_a_round * self._turn_s,
        )
        await self._scene.until_idle(policy, options.slots)
        return crowd

    async def _shares(self, policy: Policy, measured: Measured) -> None:
        window_s = self._options.window_turns * self._turn_s
        busy = {user: self._ask(policy, user, tokens) for user, tokens in self._cast.busy.items()}
        shares = await measure_shares(
            busy,
            in_flight=SHARE_IN_FLIGHT,
            warm_up_s=window_s * WARM_UP_SHARE,
            window_s=window_s,
        )
        await self._scene.until_idle(policy, self._options.slots)
        for user, tokens in shares.tokens.items():
            measured.tokens[user] = measured.tokens.get(user, 0) + tokens
        measured.seconds += shares.seconds

    def _pause_s(self) -> float:
        """How long somebody reads: half to one and a half of what makes the light users ask for their share."""
        round_turns = self._options.light / self._options.share
        return self._turn_s * max(0.0, round_turns - 1 - USUAL_WAIT_TURNS) * self._dice.uniform(0.5, 1.5)

    @property
    def _turn_s(self) -> float:
        """A turn's own time, as far as is known by now."""
        turn_ms = self._figures.turn_ms
        assert turn_ms is not None
        return turn_ms / 1e3

    def _ask(self, policy: Policy, user: str, answer_tokens: int = ANSWER_TOKENS) -> Ask:
        return partial(self._people[policy.name, user].ask, PROMPT_CHARACTERS, answer_tokens)
