"""Bring a running gateway in line with its configs: what did not change goes on undisturbed."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

from hugind.proxy.access.auth import Keyring
from hugind.proxy.books import Rules
from hugind.proxy.gateway import Gateway
from hugind.supervisor import tasks
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import HugindError
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.watch import Stock

WATCH_S = 2.0
"""Seconds between two looks at the files."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What configs, settings and environment say together."""

    engines: dict[str, Engine]
    keyring: Keyring
    rules: Rules
    fleet: FleetRules | None = None
    """None: as they were."""


Load = Callable[[Mapping[str, Engine]], Loaded]
"""Reads them anew: the engines that there should be are the given ones where nothing changed."""


@dataclass(frozen=True)
class Difference:
    """What a reload changed, by engine."""

    added: list[str]
    removed: list[str]
    replaced: list[str]
    kept: list[str]

    @classmethod
    def between(cls, before: Mapping[str, Engine], after: Mapping[str, Engine]) -> Difference:
        """From one set of engines to another."""
        both = [name for name in after if name in before]
        return cls(
            added=[name for name in after if name not in before],
            removed=[name for name in before if name not in after],
            replaced=[name for name in both if after[name] is not before[name]],
            kept=[name for name in both if after[name] is before[name]],
        )


class Reloader:
    """Reloads when asked, and while entered on SIGHUP, and when files change. Lives as long as the gateway."""

    def __init__(
        self,
        gateway: Gateway,
        load: Load,
        on_change: Callable[[Sequence[str]], None],
        take_stock: Callable[[], Stock] | None = None,
        *,
        stock: Stock = frozenset(),
        watch_s: float = WATCH_S,
    ) -> None:
        """`on_change` hears the names of the engines after each reload.

        `take_stock`: the files to watch, looked at every `watch_s` seconds, and `stock`, what they were when the
        engines were made. None: none are watched.
        """
        self._gateway = gateway
        self._load = load
        self._on_change = on_change
        self._take_stock = take_stock
        self._watch_s = watch_s
        self._stock = stock
        """The files as the last reload found them."""
        self._watching: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._hangups: set[asyncio.Task[None]] = set()

    async def reload(self) -> Difference:
        """Read the configs and exchange what differs. Blocks until what leaves is drained and ended.

        Raises:
            HugindError: a config, the settings or a binary cannot be used; nothing was changed then.
        """
        async with self._one_at_a_time:
            if self._take_stock is not None:
                self._stock = await asyncio.to_thread(self._take_stock)
            before = dict(self._gateway.fleet.engines)
            loaded = await asyncio.to_thread(self._load, before)
            after = loaded.engines
            difference = Difference.between(before, after)
            logger.info(
                "reload: %s", ", ".join(f"{what} {names}" for what, names in asdict(difference).items() if names)
            )
            # To its end even if the one who asked leaves: half an exchange would leave engines that never start.
            exchange = self._gateway.exchange(after, loaded.keyring, loaded.rules, loaded.fleet)
            await tasks.finish(exchange, "exchange engines")
            self._on_change(list(after))
        return difference

    async def __aenter__(self) -> Reloader:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        if self._take_stock is not None:
            self._watching = tasks.start(self._watch(self._take_stock), "watch files")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        if self._watching is not None:
            await tasks.cancel(self._watching)
        for task in list(self._hangups):
            await tasks.cancel(task)

    async def _watch(self, take_stock: Callable[[], Stock]) -> None:
        """Reload once the files are others than at the last reload, and stay as they are for a look.

        What cannot be used is told once for every change.
        """
        seen = await asyncio.to_thread(take_stock)
        while True:
            await asyncio.sleep(self._watch_s)
            before, seen = seen, await asyncio.to_thread(take_stock)
            if seen == before and seen != self._stock:
                self._stock = seen
                await self._reload_and_log()

    def _hang_up(self) -> None:
        task = tasks.start(self._reload_and_log(), "reload on SIGHUP")
        self._hangups.add(task)
        task.add_done_callback(self._hangups.discard)

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except HugindError as error:
            logger.error("reload refused, nothing was changed: %s", error.message)  # noqa: TRY400 - a sentence says it
        except Exception:
            logger.exception("reload broke")
