"""Names of people's own for models, with settings that requests may override: `<home>/aliases.json`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.paths import Home, write_private

ALIAS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
"""As Ollama names models: [host/][namespace/]model[:tag]. Never a path."""
MAX_NAME = 128
LOCK_S = 10


class Alias(BaseModel):
    """A model under another name. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    """The name of a config, or of a model of the library; never of another alias."""
    system: str | None = None
    """Put before conversations that bring no system message."""
    parameters: dict[str, Any] = Field(default={})
    """By Ollama's names (`num_predict`, `repeat_penalty`, `stop` ...): for requests that do not say."""
    messages: tuple[dict[str, Any], ...] = ()
    """Put before the messages of every conversation, behind the system message."""
    quantization: Literal["8bit", "4bit"] | None = None
    """What was asked for when the file was chosen."""
    license: str | None = None
    created_at: float = 0.0
    """Unix seconds."""


class AliasError(HugindError):
    """An alias that cannot be made, or is not there."""


class Aliases:
    """The aliases of a home, read again whenever the file has changed. Blocks on the disk, for a small file."""

    def __init__(self, home: Home) -> None:
        self._path = home.aliases
        self._seen: tuple[int, int] | None = None
        self._known: dict[str, Alias] = {}

    def all(self) -> dict[str, Alias]:
        """Every alias by its name, in the order of names.

        Raises:
            ConfigError: the file was spoiled by hand.
        """
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._known = None, {}
            return {}
        seen = stat.st_mtime_ns, stat.st_size
        if seen != self._seen:
            self._known, self._seen = self._read(), seen
        return dict(self._known)

    def get(self, name: str) -> Alias | None:
        """The alias of this very name.

        Raises:
            ConfigError: as `all`.
        """
        return self.all().get(name)

    def put(self, name: str, alias: Alias) -> None:
        """Make an alias, or another one in its place.

        Raises:
            AliasError: nothing can be called so.
            ConfigError: as `all`.
        """
        check_alias_name(name)
        kept = alias if alias.created_at else alias.model_copy(update={"created_at": time.time()})
        self._change(lambda known: known.update({name: kept}))

    def remove(self, name: str) -> None:
        """Forget an alias.

        Raises:
            AliasError: there is none of this name.
            ConfigError: as `all`.
        """
        if name not in self.all():
            raise AliasError(f"there is no alias '{name}'", hint="hugind alias list")
        self._change(lambda known: known.pop(name, None))

    def _change(self, change: Callable[[dict[str, Alias]], object]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_suffix(".lock"), timeout=LOCK_S):
            self._seen = None
            known = self.all()
            change(known)
            plain = {name: known[name].model_dump(exclude_defaults=True) for name in sorted(known)}
            write_private(self._path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
            self._seen = None

    def _read(self) -> dict[str, Alias]:
        try:
            return {
                str(name): Alias.model_validate(given) for name, given in json.loads(self._path.read_text()).items()
            }
        except (ValueError, AttributeError, ValidationError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            key = ".".join(map(str, first["loc"])) if first else None
            raise ConfigError(
                first["msg"] if first else str(error), path=self._path, key=key, hint="correct it, or remove the file"
            ) from None


def check_alias_name(name: str) -> None:
    """Whether something can be called so.

    Raises:
        AliasError: no.
    """
    if len(name) > MAX_NAME or not ALIAS_NAME.fullmatch(name):
        raise AliasError(
            f"{name!r} is no name for a model: letters, digits, '.', '_', '-', with '/' and one ':' between"
        )
