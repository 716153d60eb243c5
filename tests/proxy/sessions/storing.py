"""A store in a test, and snapshots for it that no engine has written."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import xxhash

from hugind.proxy.sessions.record import Owner, Session, Snapshot
from hugind.proxy.sessions.store import Store
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.paths import FILE_MODE, Home

ENGINE = "chat"
ALICE, BOB = Owner("alice"), Owner("bob", "bobby")
KB = 1000

needs_memory = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a tmpfs")


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory, gone when the block ends."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def open_store(home: Path, memory: Path | None, **settings: Any) -> Store:
    """A store that was loaded; without `memory`, one whose slot files lie on disk. The caller closes it."""
    folder = str(memory or home / "no tmpfs")
    opened = Home(home)
    opened.create()
    store = Store(ENGINE, opened, SessionsSection(memory_folder=folder, **settings))
    store.load()
    return store


def talk_of(*said: str, owner: Owner = ALICE, name: str | None = None, is_kept: bool = False) -> Talk:
    """A chat of user messages."""
    scope = Scope(owner, ENGINE, "model")
    messages = [{"role": "user", "content": text} for text in said]
    chain = () if is_kept else chat_chain(scope, messages)
    return Talk(scope, chain, name=name, messages=messages, is_kept=is_kept)


def save(store: Store, session: Session, size: int = 100 * KB, *, target: Path | None = None, text: str = "") -> Path:
    """As the keeper does it once the engine has written a file; `target`: straight to disk. Returns the file."""
    head = secrets.token_bytes(16) + text.encode()
    data = head + bytes(size - len(head))
    file = target or store.slots.path / f"{secrets.token_hex(16)}.kv"
    file.write_bytes(data)
    file.chmod(FILE_MODE)
    snapshot = Snapshot(file.name, 100, size, xxhash.xxh3_128_hexdigest(data), 2, "fingerprint", time.time())
    store.saved(session, snapshot, is_memory=target is None)
    session.turns += 1
    return file


def sessions_folder(home: Path) -> Path:
    """Where the store of the one engine keeps its sessions."""
    return Home(home).sessions / ENGINE


def owner_folder(home: Path, session: Session) -> Path:
    """Where a session is written down."""
    return sessions_folder(home) / session.owner.digest


def record_of(home: Path, session: Session) -> Path:
    """The file that a session is written down in."""
    return owner_folder(home, session) / f"{session.id}.json"


def files_in(folder: Path) -> set[str]:
    """The names of all files below a folder, the lock aside."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}
