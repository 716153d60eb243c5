"""A running gateway is brought in line with its configs, and what did not change never notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.books import Rules
from hugind.proxy.engines import open_slot_folder
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Difference, Loaded, Reloader
from hugind.proxy.sessions.stores import Stores
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import RunFolder, own_run_folder
from hugind.supervisor.watch import Stock
from tests.eventually import eventually
from tests.proxy.serving import make_gateway, standin_config


class Desk:
    """A gateway of stand-ins and its reloader. What `configs` holds is what a reload reads."""

    def __init__(self, folder: Path, run_folder: RunFolder, configs: Mapping[str, Config], *, watch: bool) -> None:
        self.configs = dict(configs)
        self.is_broken = self.is_moving = False
        self.reads = self.looks = 0
        self.stock: list[tuple[str, int, int]] = []
        """What is seen of the files, where they are watched."""
        self.published: list[list[str]] = []
        self._home = Home(folder)
        self._run_folder = run_folder
        self._stores = Stores(self._home)
        loaded = self._load({})
        self.gateway = make_gateway(loaded.engines, loaded.keyring, self._stores, self._home)
        take_stock = self._take_stock if watch else None
        self.reloader = Reloader(self.gateway, self._load, self._publish, take_stock, watch_s=0.02)

    def pid(self, name: str) -> int:
        """The process of an engine's only worker."""
        spawn = self.gateway.fleet.engines[name].workers[0].spawn
        assert spawn is not None
        return spawn.process.pid

    def _take_stock(self) -> Stock:
        self.looks += 1
        return frozenset([*self.stock, ("moving.yml", self.looks, 1)] if self.is_moving else self.stock)

    def _load(self, current: Mapping[str, Engine]) -> Loaded:
        self.reads += 1
        if self.is_broken:
            raise ConfigError("unknown key", path=Path("a.yml"), line=3, key="modell")
        engines = {}
        for name, config in self.configs.items():
            known = current.get(name)
            binary, slot_folder = resolve_binary(config.engine.binary), open_slot_folder(name, config, self._stores)
            fresh = Engine(name, config, binary, self._home, self._run_folder, slot_folder)
            engines[name] = known if known is not None and known.config == config else fresh
        keyring = Keyring()
        keyring.add("key", Principal("tester", frozenset(engines)))
        return Loaded(engines, keyring, Rules())

    def _publish(self, names: Sequence[str]) -> None:
        self.published.append(list(names))


@asynccontextmanager
async def open_desk(folder: Path, *, watch: bool = False) -> AsyncIterator[Desk]:
    """Two engines, `a` and `b`, of one slot each."""
    Home(folder).create()
    with own_run_folder(Home(folder)) as run_folder:
        configs = {name: standin_config(folder, server={"max_slots": 1}) for name in "ab"}
        desk = Desk(folder, run_folder, configs, watch=watch)
        async with desk.gateway, desk.reloader:
            await eventually(lambda: desk.gateway.fleet.is_ready)
            yield desk


async def test_only_what_differs_is_exchanged(tmp_path: Path) -> None:
    """A changed engine is replaced, a new one added, one that is gone ended; the rest keeps process and leases."""
    async with open_desk(tmp_path) as desk:
        kept = desk.gateway.fleet.engines["a"]
        lease = await desk.gateway.leases(kept).acquire()
        pid, old = desk.pid("a"), desk.pid("b")
        desk.configs["b"] = standin_config(tmp_path, server={"max_slots": 2})
        desk.configs["c"] = standin_config(tmp_path)
        first = await desk.reloader.reload()
        old_is_there = psutil.pid_exists(old)
        await eventually(lambda: desk.gateway.fleet.is_ready)
        del desk.configs["b"]
        second = await desk.reloader.reload()
        same = desk.pid("a") == pid
        desk.gateway.leases(kept).release(lease)

    assert first == Difference(added=["c"], removed=[], replaced=["b"], kept=["a"])
    assert second == Difference(added=[], removed=["b"], replaced=[], kept=["a", "c"])
    assert not old_is_there
    assert same
    assert desk.published == [["a", "b", "c"], ["a", "c"]]


async def test_a_mistake_changes_nothing(tmp_path: Path) -> None:
    """A config that cannot be used is told, and every engine goes on."""
    async with open_desk(tmp_path) as desk:
        pids = desk.pid("a"), desk.pid("b")
        desk.is_broken = True
        with pytest.raises(ConfigError, match=r"a\.yml:3: modell"):
            await desk.reloader.reload()
        after = desk.pid("a"), desk.pid("b")

    assert after == pids
    assert desk.published == []


async def test_who_waits_at_a_replaced_engine_may_ask_again(tmp_path: Path) -> None:
    """A turn that waited there gets 503 with retry-after; one that comes later is served by the new engine."""
    async with open_desk(tmp_path) as desk:
        engine = desk.gateway.fleet.engines["b"]
        old = desk.gateway.leases(engine)
        held = await old.acquire()
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(_refusal(desk.gateway, engine))
            await eventually(lambda: old.waiting == 1)
            desk.configs["b"] = standin_config(tmp_path, server={"max_slots": 2})
            reload = group.create_task(desk.reloader.reload())
            await eventually(lambda: desk.gateway.fleet.engines["b"] is not engine)
            late = group.create_task(desk.gateway.leases(desk.gateway.fleet.engines["b"]).acquire())
            old.release(held)
        refusal = waiter.result()
        desk.gateway.leases(desk.gateway.fleet.engines["b"]).release(late.result())

    assert reload.result().replaced == ["b"]
    assert (refusal.status, refusal.retry_after_s) == (503, 1)


async def test_a_reload_whose_caller_left_is_finished(tmp_path: Path) -> None:
    """Half an exchange would leave an engine that never starts."""
    async with open_desk(tmp_path) as desk:
        engine = desk.gateway.fleet.engines["b"]
        held = await desk.gateway.leases(engine).acquire()
        desk.configs["b"] = standin_config(tmp_path, server={"max_slots": 2})
        async with asyncio.TaskGroup() as group:
            reload = group.create_task(desk.reloader.reload())
            await eventually(lambda: engine.state == "draining")
            reload.cancel()
            desk.gateway.leases(engine).release(held)
        await eventually(lambda: desk.gateway.fleet.is_ready)

    assert reload.cancelled()


async def test_sighup_reloads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The signal does what the command does; a mistake is logged and harms nothing."""
    async with open_desk(tmp_path) as desk:
        desk.is_broken = True
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: "reload refused, nothing was changed: a.yml:3" in caplog.text)
        desk.is_broken = False
        del desk.configs["b"]
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: desk.published == [["a"]])


async def test_files_that_change_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once they stay as they are; what cannot be used is told once, and nothing is read while nothing changes."""
    async with open_desk(tmp_path, watch=True) as desk:
        desk.stock.append(("b.yml", 1, 1))
        del desk.configs["b"]
        await eventually(lambda: desk.published == [["a"]])
        looks = desk.looks
        await eventually(lambda: desk.looks > looks + 3)
        first = desk.reads
        desk.is_broken = True
        desk.stock.append(("c.yml", 1, 1))
        await eventually(lambda: "reload refused" in caplog.text)
        looks = desk.looks
        await eventually(lambda: desk.looks > looks + 3)
        desk.is_broken = False
        desk.stock.append(("d.yml", 1, 1))
        await desk.reloader.reload()  # somebody was quicker
        looks = desk.looks
        await eventually(lambda: desk.looks > looks + 3)

    assert (2, 4) == (first, desk.reads)
    assert 1 == caplog.text.count("reload refused")


async def test_files_that_move_are_not_read(tmp_path: Path) -> None:
    """Whoever writes a file is let finish."""
    async with open_desk(tmp_path, watch=True) as desk:
        desk.is_moving = True
        looks = desk.looks
        await eventually(lambda: desk.looks > looks + 5)
        during = desk.reads
        desk.is_moving = False
        desk.stock.append(("moving.yml", 0, 0))
        await eventually(lambda: desk.reads == 2)

    assert 1 == during


async def test_new_keys_hold_after_a_reload(tmp_path: Path) -> None:
    """The keys are read with the configs."""
    async with open_desk(tmp_path) as desk:
        before = desk.gateway.doorman.keyring
        await desk.reloader.reload()

    assert desk.gateway.doorman.keyring is not before


async def _refusal(gateway: Gateway, engine: Engine) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await gateway.leases(engine).acquire()
    return refused.value
