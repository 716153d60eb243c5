"""Where aliases are kept: the file of this home, or a server's admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from pydantic import ValidationError

from hugind.cli.remote import Server
from hugind.cli.shelf import Entry, entries, find_entry
from hugind.supervisor.aliases import Alias, AliasError, Aliases
from hugind.supervisor.model_names import LATEST, match_name
from hugind.supervisor.models.library import Library
from hugind.supervisor.models.quantized import Quantization, choose_quantized
from hugind.supervisor.paths import Home


class AliasBook(Protocol):
    """Aliases as programs see them: their fields, and `name`."""

    def all(self) -> list[dict[str, Any]]:
        """Every alias, by name."""

    def get(self, name: str) -> dict[str, Any]:
        """One of them.

        Raises:
            HugindError: there is none of this name.
        """

    def create(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        """Make one, or another in its place; `said`: the fields of `Alias`, where `model` may be an alias, too.

        Raises:
            HugindError: it cannot be made so.
        """

    def remove(self, name: str) -> None:
        """Forget one.

        Raises:
            HugindError: there is none of this name.
        """


class HomeAliases:
    """Those of a home. A gateway that runs there notices what is changed."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._aliases = Aliases(home)

    def all(self) -> list[dict[str, Any]]:
        return [_plain(name, alias) for name, alias in self._aliases.all().items()]

    def get(self, name: str) -> dict[str, Any]:
        found = self._find(name)
        return _plain(found, self._aliases.all()[found])

    def create(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        engines = [entry for entry in entries(self._home) if entry.kind != "alias"]
        name = name.removesuffix(LATEST)
        if match_name(name, [word for entry in engines for word in (entry.name, *entry.other_names)]) is not None:
            raise AliasError(f"there is a model '{name}' already", hint="choose another name")
        name = match_name(name, self._aliases.all()) or name
        self._aliases.put(name, self._derive(said))
        return _plain(name, self._aliases.all()[name])

    def remove(self, name: str) -> None:
        self._aliases.remove(self._find(name))

    def _find(self, name: str) -> str:
        found = match_name(name, self._aliases.all())
        if found is None:
            raise AliasError(f"there is no alias '{name}'", hint="hugind alias list")
        return found

    def _derive(self, said: dict[str, Any]) -> Alias:
        entry = find_entry(self._home, said["model"])
        base = self._base(entry)
        if quantization := said.get("quantization"):
            base = base.model_copy(
                update={"model": self._quantized(base.model, quantization), "quantization": quantization}
            )
        try:
            return base.derive(
                system=said.get("system"), parameters=said.get("parameters"), messages=said.get("messages")
            )
        except ValidationError as error:
            raise AliasError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        except ValueError as error:
            raise AliasError(str(error)) from None

    def _base(self, entry: Entry) -> Alias:
        known = self._aliases.get(entry.name) if entry.kind == "alias" else None
        return known or Alias(model=entry.name)

    def _quantized(self, model: str, wanted: Quantization) -> str:
        """The model whose file lies beside that of `model`, and is stored so."""
        file = find_entry(self._home, model).of
        chosen = choose_quantized(Library(self._home).models(), Path(file) if file else model, wanted)
        for entry in entries(self._home):
            if entry.kind != "alias" and entry.of is not None and Path(entry.of).resolve() == chosen.path.resolve():
                return entry.name
        raise AliasError(f"{chosen.path} is served by none: a config has its name", hint="make a config for it")


class ServerAliases:
    """Those of a server, for keys with the scope `admin`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def all(self) -> list[dict[str, Any]]:
        aliases: list[dict[str, Any]] = self._server.get("/admin/v1/aliases")["aliases"]
        return aliases

    def get(self, name: str) -> dict[str, Any]:
        alias: dict[str, Any] = self._server.get(_path(name))
        return alias

    def create(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        alias: dict[str, Any] = self._server.post("/admin/v1/aliases", {"name": name, **said})
        return alias

    def remove(self, name: str) -> None:
        self._server.delete(_path(name))


def _path(name: str) -> str:
    return f"/admin/v1/aliases/{quote(name, safe='/')}"


def _plain(name: str, alias: Alias) -> dict[str, Any]:
    return {"name": name, **alias.model_dump(mode="json")}
