"""Each engine has one store, and whatever ends a gateway in order, all of it is written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.stores import Shelf, Stores
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home
from tests.eventually import eventually
from tests.proxy.sessions.storing import (
    ENGINE,
    files_in,
    memory_folder,
    needs_memory,
    record_of,
    save,
    sessions_folder,
    talk_of,
)

pytestmark = needs_memory


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.create()
    return made


def settings(memory: Path, **values: Any) -> SessionsSection:
    """With nothing copied before the end."""
    return SessionsSection(memory_folder=str(memory), **{"disk_after_s": 3600, **values})


async def test_what_is_noted_is_written(home: Home, memory: Path) -> None:
    """From when it runs; whether the engine was there from the start or came with a reload."""
    stores = Stores(home)
    stores.open("early", settings(memory))
    async with stores:
        stores.open("late", settings(memory))
        await _write_something(stores.shelf("early"))
        await _write_something(stores.shelf("late"))

    assert {"early", "late"} == {Path(name).parts[0] for name in files_in(home.sessions)}


async def _write_something(shelf: Shelf) -> None:
    session = shelf.store.create(talk_of("one"))
    shelf.scribe.note(session, ["said"])
    await eventually(lambda: shelf.store.read_messages(session))


async def test_the_end_leaves_nothing_in_memory_only(home: Home, memory: Path, tmp_path: Path) -> None:
    """What was saved is on disk then, noted or not, and the next gateway has it."""
    stores = Stores(home)
    store = stores.open(ENGINE, settings(memory)).store
    store.load()
    async with stores:
        stores.shelf(ENGINE)
        session = store.create(talk_of("one"))
        save(store, session)
    following = Stores(home).open(ENGINE, settings(memory)).store
    following.load()
    found = following.sessions[session.id]
    following.close()

    assert following.is_persistent
    assert record_of(tmp_path, session).exists()
    assert following.is_on_disk(found)
    assert found.memory


async def test_the_same_engine_has_the_same_store(home: Home, memory: Path) -> None:
    """A reload with other settings goes on with what is there."""
    stores = Stores(home)
    first = stores.open(ENGINE, settings(memory))
    second = stores.open(ENGINE, settings(memory, min_tokens=7))
    async with stores:
        third = stores.shelf(ENGINE)

    assert first is second is third
    assert 7 == first.store.settings.min_tokens


async def test_settings_that_cannot_be_kept(home: Home, tmp_path: Path) -> None:
    """They are refused, and better ones are taken."""
    stores = Stores(home)
    nowhere = settings(tmp_path / "none")
    with pytest.raises(ConfigError):
        stores.open(ENGINE, nowhere.model_copy(update={"encrypt": True}))
    async with stores:
        shelf = stores.open(ENGINE, nowhere)

    assert not shelf.store.settings.encrypt


async def test_a_store_that_broke_does_not_stop_the_others(home: Home, memory: Path) -> None:
    """At the end each is written, whatever became of the one before."""
    stores = Stores(home)
    broken, good = (stores.open(name, settings(memory)).store for name in ("a", "b"))
    async with stores:
        for store in (broken, good):
            store.load()
            save(store, store.create(talk_of("one")))
        folder = home.sessions / "a"
        folder.rename(home.root / "moved")
        folder.write_bytes(b"")
    session = next(iter(good.sessions.values()))

    assert good.is_on_disk(session)
    assert files_in(home.sessions / "b")


async def test_an_end_by_force_writes_all_the_same(home: Home, memory: Path) -> None:
    """An error on the way out is no reason to lose sessions."""
    stores = Stores(home)
    store = stores.open(ENGINE, settings(memory)).store
    store.load()
    save(store, store.create(talk_of("one")))

    async def serve() -> None:
        async with stores:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await serve()

    assert 2 == len(files_in(sessions_folder(home.root)))
