"""What is known of a session: whose it is, what was said, where its snapshots are; and how that is written down."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from types import NoneType
from typing import Any, Literal, TypeVar

Label = Literal["hot", "warm", "cold", "new"]
"""Where the KV of a turn came from: its slot, a snapshot in memory, one on disk, or nowhere."""

RECORD_VERSION = 1

_RUNTIME = {"runtime": True}
"""Fields that are not written down."""


@dataclass(frozen=True)
class Owner:
    """Who a session belongs to: a principal, and one of its people where the request's `user` names them."""

    principal: str
    user: str | None = None

    @cached_property
    def digest(self) -> str:
        """A name for files that tells nothing and cannot be chosen."""
        said = json.dumps([self.principal, self.user])  # any separator could be part of a name
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def __str__(self) -> str:
        return self.principal if self.user is None else f"{self.principal}/{self.user}"


@dataclass(frozen=True)
class Snapshot:
    """A saved slot file that was checked. Its name is random; nothing in it comes from a request."""

    file: str
    tokens: int
    size_bytes: int
    """Of the slot file as the engine wrote it, before compression or encryption."""
    checksum: str
    """XXH3-128 of the same."""
    n_stream: int | None
    """Streams that its attention caches carry: the slot count of the worker that wrote it. None: has none."""
    fingerprint: str
    saved_at: float


@dataclass(eq=False)
class Session:
    """One conversation with one engine. Lives in a `Store` from its first turn until it is forgotten."""

    owner: Owner
    engine: str
    family: str
    """Digest of the model that it is with; another model does not see it."""
    name: str | None = None
    """The id that the client gave it."""
    chain: tuple[bytes, ...] = ()
    """Digests of what was said, each of everything up to it (`transcript.py`)."""
    id: str = field(default_factory=lambda: f"ses_{secrets.token_hex(12)}")
    memory: Snapshot | None = None
    disk: Snapshot | None = None
    is_kept: bool = False
    """The gateway keeps its history: clients send only what is new."""
    is_pinned: bool = False
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.time)
    turns: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    """Turns by `Label`."""
    hollow: int = 0
    """Restores after which the engine computed everything anew all the same."""

    quiet_since: float = field(default_factory=time.monotonic, metadata=_RUNTIME)
    """When its last turn ended, by the clock that does not jump."""
    turn_lock: asyncio.Lock = field(default_factory=asyncio.Lock, metadata=_RUNTIME, repr=False)
    """Held through a turn: two requests of one session are served in order."""
    kv_lock: asyncio.Lock = field(default_factory=asyncio.Lock, metadata=_RUNTIME, repr=False)
    """Held while a snapshot of it is made, read or removed. Whoever holds it waits for no slot."""
    messages: list[Any] | None = field(default=None, metadata=_RUNTIME, repr=False)
    """What was said, until it is written down; of a kept history always, once it was needed."""
    template: dict[str, Any] = field(default_factory=dict, metadata=_RUNTIME, repr=False)
    """What else of the last request went into its prompt: tools, arguments of the template."""
    source: Session | None = field(default=None, metadata=_RUNTIME, repr=False)
    """The session that it branched off: until it has a snapshot, that one's will do."""

    @property
    def newest(self) -> Snapshot | None:
        """The last snapshot. The disk has a copy of that in memory, or an older one, or there is none in memory."""
        return self.memory or self.disk

    @property
    def is_worth_keeping(self) -> bool:
        """Something would be lost if it were forgotten on leaving its slot."""
        return self.newest is not None or self.is_kept or self.is_pinned

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads back."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata}
        for key in ("owner", "memory", "disk"):
            values[key] = asdict(values[key]) if values[key] else None
        values["chain"] = [digest.hex() for digest in self.chain]
        return {"version": RECORD_VERSION, **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Session:
        """Read what `to_json` gave.

        Raises:
            ValueError: it is not that, or of another version.
        """
        try:
            values = dict(values)
            if values.pop("version") != RECORD_VERSION:
                raise ValueError("of another version")
            values["owner"] = _read(Owner, values["owner"])
            values["chain"] = tuple(bytes.fromhex(digest) for digest in values["chain"])
            if not all(type(count) is int for count in values["hits"].values()):
                raise ValueError("Session.hits are no counts")
            values["hits"] = Counter(values["hits"])
            for tier in ("memory", "disk"):
                values[tier] = None if values[tier] is None else _read(Snapshot, values[tier])
            return _read(cls, values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a session record: {error!r}") from None


Read = TypeVar("Read", Owner, Snapshot, Session)

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "int | None": (int, NoneType),
    "float": (float, int),
    "bool": (bool,),
}
"""What JSON may hold where a field is annotated so. The others are made here."""

_ANNOTATIONS: dict[type, dict[str, str]] = {
    made: {f.name: str(f.type) for f in fields(made) if not f.metadata} for made in (Owner, Snapshot, Session)
}
"""Of all that is written down."""


def _read(made: type[Read], values: dict[str, Any]) -> Read:
    annotations = _ANNOTATIONS[made]
    for name, value in values.items():
        allowed = _TYPES.get(annotations[name])
        if allowed is not None and type(value) not in allowed:
            raise ValueError(f"{made.__name__}.{name} is {value!r}")
    return made(**values)
