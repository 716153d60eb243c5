"""Sessions as the API shows them: for its document only, since lists of them are written without pydantic's help."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_SHOWN = ConfigDict(extra="forbid")


class SessionAnswer(BaseModel):
    """What is kept of one conversation."""

    model_config = _SHOWN

    id: str
    name: str | None
    """The client's own."""
    engine: str
    principal: str
    """Whose key it was."""
    user: str | None
    """Which of the people behind that key."""
    place: Literal["slot", "memory", "disk", "none"]
    """Where its KV is."""
    slot: str | None
    """`worker/slot`."""
    tokens: int
    memory_bytes: int
    """Of its snapshot there, before compression."""
    disk_bytes: int
    created_at: float
    """Unix seconds."""
    used_at: float
    idle_s: float
    turns: int
    hits: dict[str, int]
    """Turns by where the KV came from."""
    hollow: int
    """Restores that saved nothing."""
    pinned: bool
    kept: bool
    """Its history is kept here."""
    dirty: bool
    """The slot has more than the snapshot."""


class SessionWithMessages(SessionAnswer):
    messages: list[Any] | None
    """What was said, where that is known."""


class ImportedSession(SessionAnswer):
    snapshot_kept: bool
    problem: str | None
    """Why its snapshot was left out."""


class SlotsFolder(BaseModel):
    """Where slot files are written."""

    model_config = _SHOWN

    path: str
    is_memory: bool
    reason: str | None


class EngineSessions(BaseModel):
    """The sessions of one engine as a whole."""

    model_config = _SHOWN

    engine: str
    ability: str
    """What its sessions can do: any-prefix, extension, none, untested."""
    reason: str | None
    family: str | None
    sessions: int
    memory_bytes: int
    memory_budget_bytes: int
    disk_bytes: int
    disk_budget_bytes: int
    slots_folder: SlotsFolder
    is_persistent: bool
    refused_snapshots: int


class SessionList(BaseModel):
    model_config = _SHOWN

    engines: list[EngineSessions]
    sessions: list[SessionAnswer]
    total: int


class Forgotten(BaseModel):
    model_config = _SHOWN

    forgotten: list[str]
    """Their ids."""
