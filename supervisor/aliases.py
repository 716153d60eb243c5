"""Names of people's own for models, with settings that requests may override: `<home>/aliases.json`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hugind.supervisor.alias_parameters import check_parameters
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.paths import FILE_MODE, Home, write_private

ALIAS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
"""As Ollama names models: [host/][namespace/]model[:tag]. Never a path."""
MAX_NAME = 128
LOCK_S = 10
ROLES = ("system", "user", "assistant", "tool")


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
    """Put before the messages of every conversation, behind the system message. Of each, its role and its text."""
    quantization: Literal["8bit", "4bit"] | None = None
    """What was asked for when the file was chosen."""
    license: str | None = None
    created_at: float = 0.0
    """Unix seconds."""

    @field_validator("parameters")
    @classmethod
    def _known_parameters(cls, given: dict[str, Any]) -> dict[str, Any]:
        return check_parameters(given)

    @field_validator("messages")
    @classmethod
    def _readable_messages(cls, given: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for message in given:
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise ValueError(f"a message needs a role ({', '.join(ROLES)}) and a text as its content")
        return tuple({"role": message["role"], "content": message["content"]} for message in given)

    def derive(
        self,
        *,
        system: str | None = None,
        parameters: dict[str, Any] | None = None,
        messages: Sequence[dict[str, Any]] | None = None,
        license: str | None = None,  # noqa: A002 - the name of the field
    ) -> Alias:
        """Another alias of the same model: what is said takes the place of what this one says, parameters one by one.

        Raises:
            ValueError: a parameter or a message cannot be used.
        """
        said = {
            "system": system or self.system,
            "parameters": {**self.parameters, **check_parameters(parameters or {})},
            "messages": tuple(messages or self.messages),
            "license": license or self.license,
        }
        kept = {"model": self.model, "quantization": self.quantization}
        return Alias.model_validate(kept | said)


class AliasError(HugindError):
    """An alias that cannot be made, or is not there."""


class Aliases:
    """The aliases of a home, read again whenever the file has changed. Blocks on the disk, for a small file."""

    def __init__(self, home: Home, lock_s: float = LOCK_S) -> None:
        """`lock_s`: how long another process that changes them is waited for."""
        self._path = home.aliases
        self._lock_s = lock_s
        self._seen: tuple[int, int, int] | None = None
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
        seen = stat.st_mtime_ns, stat.st_size, stat.st_ino
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
            AliasError: nothing can be called so, it holds half a character (a surrogate without the other), or
                another process does not let go of the file.
            ConfigError: as `all`.
        """
        check_alias_name(name)
        kept = alias if alias.created_at else alias.model_copy(update={"created_at": time.time()})
        self._change(lambda known: known.update({name: kept}))

    def remove(self, name: str) -> None:
        """Forget an alias.

        Raises:
            AliasError: there is none of this name, or as `put`.
            ConfigError: as `all`.
        """

        def forget(known: dict[str, Alias]) -> None:
            if known.pop(name, None) is None:
                raise AliasError(f"there is no alias '{name}'", hint="hugind alias list")

        self._change(forget)

    def _change(self, change: Callable[[dict[str, Alias]], None]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._path.with_suffix(".lock"), timeout=self._lock_s, mode=FILE_MODE):
                known = self._read() if self._path.exists() else {}
                change(known)
                plain = {name: known[name].model_dump(exclude_defaults=True) for name in sorted(known)}
                write_private(self._path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
        except UnicodeEncodeError:
            raise AliasError("half a character cannot be kept") from None
        except Timeout:
            raise AliasError(f"another process does not let go of {self._path}") from None

    def _read(self) -> dict[str, Alias]:
        try:
            given = json.loads(self._path.read_bytes())
        except ValueError as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else None
            raise self._spoiled(str(error), line=line) from None
        if not isinstance(given, dict):
            raise self._spoiled("it is no JSON object")
        return {name: self._parse(name, alias) for name, alias in given.items()}

    def _parse(self, name: str, given: Any) -> Alias:
        try:
            check_alias_name(name)
            return Alias.model_validate(given)
        except AliasError as error:
            raise self._spoiled(error.message, key=name) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (name, *first["loc"])))
            raise self._spoiled(first["msg"].removeprefix("Value error, "), key=where) from None

    def _spoiled(self, what: str, *, line: int | None = None, key: str | None = None) -> ConfigError:
        return ConfigError(what, path=self._path, line=line, key=key, hint="correct it, or remove the file")


def check_alias_name(name: str) -> None:
    """Whether something can be called so.

    Raises:
        AliasError: no.
    """
    if len(name) > MAX_NAME or not ALIAS_NAME.fullmatch(name):
        raise AliasError(
            f"{name!r} is no name for a model: letters, digits, '.', '_', '-', with '/' and one ':' between"
        )
