"""The slots of a worker as a test wants them: a real stand-in behind a client, or a client that lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hugind.cli.bench.standin_replies import to_text
from hugind.cli.bench.standin_slotfile import write_slot_file
from hugind.supervisor.llama.client import Saved, SlotActionRefused, SlotState, WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint
from tests.fakes.standin import StandinProcess

SLOTS = 2
TEXT = "A text that is longer than some others, so that there are tokens to save. "


def client_of(standin: StandinProcess) -> WorkerClient:
    """As a worker's own. Close it."""
    return WorkerClient(UnixEndpoint(standin.socket), "")


def slot_file(tokens: int = 20, *, slots: int = SLOTS) -> bytes:
    """What a stand-in with so many slots writes for its first one."""
    return write_slot_file(to_text(range(1, tokens + 1)), stream=0, n_stream=slots)


class FakeSlots:
    """A client of a worker with one slot, that does and says what the test wants. Everything may be changed."""

    def __init__(self, folder: Path, tokens: int = 20) -> None:
        self.folder = folder
        self.state: SlotState | None = SlotState(0, is_processing=False, tokens=tokens)
        self.data = slot_file(tokens)
        """What a save writes."""
        self.saved = Saved(tokens, len(self.data))
        """What it says about it."""
        self.restored = tokens
        self.fails: Exception | None = None
        """Raised by a save once the file is written, and by a restore."""
        self.asked: list[tuple[str, str]] = []
        """Actions, and the names of their files."""
        self.seen = b""
        """What was in the file of the last restore."""

    @property
    def client(self) -> WorkerClient:
        return cast(WorkerClient, self)

    async def slots(self, timeout_s: float) -> list[SlotState]:
        return [SlotState(1, is_processing=True, tokens=7), *([self.state] if self.state else [])]

    async def save(self, slot: int, file: str) -> Saved:
        self.asked.append(("save", file))
        (self.folder / file).write_bytes(self.data)
        if self.fails:
            raise self.fails
        return self.saved

    async def restore(self, slot: int, file: str) -> int:
        self.asked.append(("restore", file))
        self.seen = (self.folder / file).read_bytes()
        if self.fails:
            raise self.fails
        return self.restored

    async def erase(self, slot: int) -> None:
        self.asked.append(("erase", ""))

    async def ask(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        raise SlotActionRefused(f"{path} answered 404: File Not Found")
