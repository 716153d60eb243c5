"""What coming back costs: users share fewer slots; side by side the slot that was never left, and the engine alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugind.cli.bench.conversation import REPLY_TOKENS, Chat, Conversation, Turn
from hugind.cli.bench.gateway import describe_machine
from hugind.cli.bench.run import Report, find_engine_and_model, run_bench
from hugind.cli.bench.session_figures import Run
from hugind.cli.bench.session_stage import BenchGateway, Play, SaveWatch, engine_alone
from hugind.cli.bench.stall import HOT_TURNS, measure_stall
from hugind.supervisor.llama.binary import EngineBinary

PROBE_CHARACTERS = 1200
STREAM_TOKENS = 1024
"""Room for the stream that watches its neighbours."""
TEMPLATE_TOKENS = 64
"""More than any template puts around a message."""


@dataclass(frozen=True)
class SessionBenchOptions:
    """How much to measure."""

    tokens: tuple[int, ...] = (4000,)
    """Lengths of the histories."""
    new: tuple[int, ...] = (90, 8)
    """Tokens that a turn adds to the prompt."""
    users: int = 6
    slots: int = 2
    rounds: int = 3
    model: Path | None = None
    """None: random weights, made for the run."""
    binary: EngineBinary | None = None
    """None: the one that a gateway would find."""


@dataclass(frozen=True)
class SessionBenchResult:
    """Everything measured: for each length, each size of turns."""

    runs: list[Run]
    about: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The first run's figures on top."""
        runs = [run.as_json() for run in self.runs]
        return {**runs[0], **self.about, "runs": runs}


def run_session_bench(options: SessionBenchOptions, report: Report) -> SessionBenchResult:
    """Measure. Blocks; `report` hears what is being done. Call it from the main thread.

    Whatever way it ends, Ctrl-C and SIGTERM included, the processes, folders and files that it made are gone.

    Raises:
        HugindError: something did not start, or did not answer.
        KeyboardInterrupt: it was interrupted.
    """
    return run_bench(lambda folder, memory_folder: _bench(options, folder, memory_folder, report))


async def _bench(
    options: SessionBenchOptions, folder: Path, memory_folder: Path | None, report: Report
) -> SessionBenchResult:
    binary, model = await find_engine_and_model(options.binary, options.model, folder, report)
    machine = describe_machine()
    runs: list[Run] = []
    for tokens in options.tokens:
        play = Play(model, binary, options.slots, ctx_size=_context(options, tokens))
        runs += await _History(options, play, folder, memory_folder, tokens, report).measure()
    about = {
        "users": options.users,
        "slots": options.slots,
        "rounds": options.rounds,
        "model": str(options.model or "random weights"),
        "engine": binary.build,
        "machine": machine,
    }
    return SessionBenchResult(runs, about)


def _context(options: SessionBenchOptions, tokens: int) -> int:
    """Enough for the longest conversation of a run, and for the stream beside it."""
    turns = 2 * options.rounds + 2 * 3 + 1 + HOT_TURNS
    grown = sum((new + REPLY_TOKENS + TEMPLATE_TOKENS) * turns for new in options.new)
    return -(-(int(tokens * 1.1) + grown + STREAM_TOKENS) // 256) * 256


@dataclass
class _Lane:
    """One way to be served, with its own copy of every conversation."""

    chat: Callable[[], Chat]
    conversations: list[Conversation]
    names: dict[str, str]
    """What a return and a hot turn count as, here."""
    saves: SaveWatch | None = None


@dataclass(frozen=True)
class _Sizes:
    """How the model counts."""

    tokens_per_character: float
    template_tokens: float
    """What a turn adds besides its words."""

    def characters(self, tokens: int) -> int:
        return max(1, round((tokens - self.template_tokens) / self.tokens_per_character))


class _History:
    """Measures one length of history. Lives as long as that takes."""

    def __init__(
        self,
        options: SessionBenchOptions,
        play: Play,
        folder: Path,
        memory_folder: Path | None,
        tokens: int,
        report: Report,
    ) -> None:
        self._options = options
        self._play = play
        self._folder = folder
        self._memory_folder = memory_folder
        self._tokens = tokens
        self._report = report
        self._runs = {new: Run(tokens, new) for new in options.new}

    async def measure(self) -> list[Run]:
        """One run for each size of turns."""
        home = self._folder / str(self._tokens)
        async with AsyncExitStack() as stack:
            gateway = BenchGateway(home, self._play, memory_folder=self._memory_folder)
            await stack.enter_async_context(gateway)
            sizes = await self._learn_sizes(gateway.chat)
            saves = gateway.watch_saves()
            ours = _Lane(lambda: gateway.chat, self._conversations(), {"return": "returning", "hot": "best"}, saves)
            async with engine_alone(home, self._play) as engine:
                theirs = _Lane(lambda: engine, self._conversations(), {"return": "engine_cache", "hot": "engine_hot"})
                await self._fill([ours, theirs], sizes)
                as_filled = [conversation.copy() for conversation in ours.conversations]
                for number in range(self._options.rounds):
                    await self._return([ours, theirs], sizes, number)
                await self._return_pinned(theirs, sizes)
            await self._after(gateway.kill_worker, ours, sizes, "after_kill", "kill -9 of the engine")
            await self._after(gateway.restart, ours, sizes, "after_restart", "a restart of the gateway")
            await self._after(gateway.reboot, ours, sizes, "after_reboot", "a reboot")
            if self._play.slots > 1:
                await self._stall(gateway, ours, sizes)
        async with BenchGateway(home, self._play, memory_folder=self._memory_folder, has_sessions=False) as plain:
            await self._compute_anew(plain.chat, as_filled, sizes)
        return list(self._runs.values())

    def _conversations(self) -> list[Conversation]:
        return [Conversation(f"user {number}", seed=number) for number in range(self._options.users)]

    async def _learn_sizes(self, chat: Chat) -> _Sizes:
        self._say("learning how the model counts")
        probe = Conversation("probe", seed=-1)
        one = await Conversation("probe of one", seed=-2).take_turn(chat, 1)
        long = await probe.take_turn(chat, PROBE_CHARACTERS)
        per_character = (long.prompt_tokens - one.prompt_tokens) / (PROBE_CHARACTERS - 1)
        follow_up = await probe.take_turn(chat, 1)
        return _Sizes(per_character, max(0.0, follow_up.computed_tokens - per_character))

    async def _fill(self, lanes: list[_Lane], sizes: _Sizes) -> None:
        for user in range(self._options.users):
            self._say(f"filling the history of user {user + 1} of {self._options.users}")
            for lane in lanes:
                await self._turn(lane, user, sizes.characters(self._tokens))

    async def _return(self, lanes: list[_Lane], sizes: _Sizes, number: int) -> None:
        """Each user comes back, and stays for a second turn: the best case, at the same time and of the same length."""
        for new, run in self._runs.items():
            self._say(f"turns of {new} tokens, round {number + 1} of {self._options.rounds}")
            for user in range(self._options.users):
                for kind in ("return", "hot"):
                    for lane in lanes if (number + user) % 2 == 0 else lanes[::-1]:
                        run.add(lane.names[kind], await self._turn(lane, user, sizes.characters(new), run))

    async def _return_pinned(self, lane: _Lane, sizes: _Sizes) -> None:
        turns = 0
        for new, run in self._runs.items():
            self._say(f"turns of {new} tokens, pinned to slots of the engine alone")
            for _ in range(self._options.rounds):
                for user in range(self._options.users):
                    turn = await self._turn(lane, user, sizes.characters(new), id_slot=turns % self._play.slots)
                    run.add("engine_cache_pinned", turn)
                    turns += 1

    async def _after(
        self, mishap: Callable[[], Awaitable[None]], lane: _Lane, sizes: _Sizes, figure: str, words: str
    ) -> None:
        for new, run in self._runs.items():
            self._say(f"turns of {new} tokens after {words}")
            await mishap()
            for user in range(self._options.users):
                run.add(figure, await self._turn(lane, user, sizes.characters(new), run))
                run.add("best", await self._turn(lane, user, sizes.characters(new), run))

    async def _stall(self, gateway: BenchGateway, lane: _Lane, sizes: _Sizes) -> None:
        for new, run in self._runs.items():
            self._say(f"a stream beside turns of {new} tokens")
            await gateway.until_idle()
            run.stall = await measure_stall(
                gateway.chat,
                lane.conversations[:-1],
                characters=sizes.characters(new),
                stream_tokens=self._play.ctx_size - TEMPLATE_TOKENS,
            )

    async def _compute_anew(self, chat: Chat, conversations: list[Conversation], sizes: _Sizes) -> None:
        for new, run in self._runs.items():
            self._say(f"turns of {new} tokens without sessions")
            for conversation in conversations:
                run.add("reprefill", await conversation.take_turn(chat, sizes.characters(new)))

    async def _turn(self, lane: _Lane, user: int, characters: int, run: Run | None = None, **fields: Any) -> Turn:
        """One turn; then time to read, in which the gateway saves."""
        if lane.saves is None:
            return await lane.conversations[user].take_turn(lane.chat(), characters, **fields)
        lane.saves.mark()
        turn = await lane.conversations[user].take_turn(lane.chat(), characters, **fields)
        size_bytes = await lane.saves.until_saved()
        if run is not None and size_bytes is None:
            run.unsaved += 1
        elif run is not None and size_bytes is not None:
            run.saved_bytes.append(size_bytes)
        return turn

    def _say(self, text: str) -> None:
        self._report(f"{self._tokens} tokens: {text}")
