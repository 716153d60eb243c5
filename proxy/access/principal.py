"""Somebody who may use the gateway: what for, and how much of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, get_args

Scope = Literal["inference", "sessions", "admin", "metrics", "models"]
"""What a key is for: asking models, the caller's own conversations, running the gateway, reading its metrics, and
fetching, making and removing models."""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
USER_SCOPES: frozenset[Scope] = frozenset({"inference", "sessions"})
"""What a key opens that was given no other scopes."""


@dataclass(frozen=True)
class Allowance:
    """How much somebody may ask for. None: as much as they like."""

    requests: int | None = None
    """In any `window_s` seconds."""
    window_s: float = 60.0
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent: int | None = None
    """Turns admitted and not yet ended, waiting ones included."""
    queued: int | None = None
    """Of these, so many may wait for a slot of one engine."""


UNLIMITED = Allowance()


@dataclass(frozen=True)
class Principal:
    """Who a key stands for. A new one is made whenever the key or its user changes."""

    name: str
    """A user's name, or one of ours that no user can have: see `RESERVED_NAMES`."""
    engines: frozenset[str] | None = None
    """The engines that it may use; None: all."""
    scopes: frozenset[Scope] = USER_SCOPES
    key_id: str | None = None
    """The public id of a key out of the database."""
    priority: int = 0
    """Higher is served first."""
    limits: Allowance = UNLIMITED
    """The user's, over all of their keys."""
    key_limits: Allowance = UNLIMITED
    """This key's."""
    delegates: bool = False
    """May say on whose behalf it asks (`X-Hugind-User`, `X-OpenWebUI-User-Id`)."""
    expires_at: float | None = None
    """Unix seconds."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Where requests may come from; none: anywhere."""

    @property
    def is_admin(self) -> bool:
        """May run the gateway."""
        return "admin" in self.scopes

    def has(self, scope: Scope) -> bool:
        """Whether it may do what `scope` is about; who runs the gateway looks after its models, too."""
        return scope in self.scopes or (scope == "models" and self.is_admin)

    def may_use(self, engine: str) -> bool:
        """Whether the engine exists as far as this principal is concerned."""
        return self.engines is None or engine in self.engines


ANONYMOUS = Principal("anonymous", scopes=USER_SCOPES | {"models", "metrics"})
"""Everybody, where no key is needed: that is this machine's own people."""

CONTROL_NAME = "control"
"""The commands of this home's owner, by the token in the run folder."""

ENVIRONMENT_NAME = "environment"
"""Who has LLAMA_API_KEY."""

RESERVED_NAMES = frozenset({ANONYMOUS.name, CONTROL_NAME, ENVIRONMENT_NAME})
"""Besides these, `config:NAME` is who has the key of a config; users have no colon in their names."""
