"""Make, copy and remove models and aliases as Ollama's clients ask for it, one change at a time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hugind.proxy.access.principal import Principal
from hugind.proxy.alias_desk import base_alias, drop_alias, find_alias, free_name, names_of_models, put_alias
from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama_create import Recipe, base_name, check_template
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.model_cards import dossier
from hugind.proxy.reload import Reloader
from hugind.supervisor import tasks
from hugind.supervisor.aliases import Alias
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import HugindError
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.blobs import BlobError, Blobs
from hugind.supervisor.models.gguf import GgufError, read_header
from hugind.supervisor.models.library import Library, parts_of_file
from hugind.supervisor.models.local import LocalModelError, LocalModels
from hugind.supervisor.paths import write_private
from hugind.supervisor.settings import load_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """What was made."""

    name: str
    digest: str
    is_served: bool
    """Requests can ask for it at once."""


class ModelMaker:
    """Lives as long as the gateway's routes. Without a reloader, models are served after the next start."""

    def __init__(self, gateway: Gateway, reloader: Reloader | None) -> None:
        self._gateway = gateway
        self._reloader = reloader
        self._home = gateway.home
        self._local = LocalModels(gateway.home)
        self._one_at_a_time = asyncio.Lock()

    async def make(self, recipe: Recipe, principal: Principal) -> Made:
        """Make what a recipe says.

        Raises:
            ApiError: it cannot be made so; nothing was changed then.
        """
        if not recipe.files and not recipe.adapters:
            return await self._make_alias(recipe, principal)
        async with self._one_at_a_time:
            return await self._make_model(recipe, principal)

    async def copy(self, source: str, name: str, principal: Principal) -> str:
        """Another name for a model, or another alias like one; returns it as it is kept.

        Raises:
            ApiError: there is no such model, or the name cannot be had.
        """
        alias = await asyncio.to_thread(base_alias, self._gateway, principal, source)
        fresh = alias.model_copy(update={"created_at": 0.0})
        return await asyncio.to_thread(put_alias, self._gateway, principal, name, fresh)

    async def remove(self, name: str, principal: Principal) -> str:
        """Remove an alias, or a model of the library with its files; running turns are waited for. Returns its name.

        Raises:
            ApiError: there is no such model, it comes from a config, or something else needs it.
        """
        engine = self._engine(name, principal)
        alias = None if engine else find_alias(self._gateway, principal, name)
        if alias is not None:
            await self._remove_alias(alias)
            return alias
        own = engine.name if engine else await asyncio.to_thread(self._in_library, name, principal)
        if own is None:
            raise ApiError(404, f"model '{name}' not found", code="model_not_found", param="model")
        await self._remove_model(own)
        return own

    # ---- making

    async def _make_alias(self, recipe: Recipe, principal: Principal) -> Made:
        assert recipe.source is not None
        target = self._gateway.target_for(recipe.source, principal)
        about = await dossier(target, recipe.source)
        _check_template(recipe, about.settings.template)
        base = target.alias or Alias(model=target.engine.name)
        name = await asyncio.to_thread(put_alias, self._gateway, principal, recipe.name, _derive(base, recipe))
        return Made(name, about.card.digest, is_served=True)

    async def _make_model(self, recipe: Recipe, principal: Principal) -> Made:
        base = self._gateway.target_for(recipe.source, principal) if recipe.source else None
        settings = _derive((base and base.alias) or Alias(model=recipe.engine_name), recipe)
        is_new = await asyncio.to_thread(self._check_names, recipe, principal)
        try:
            path = await asyncio.to_thread(self._place, recipe, base.engine if base else None)
            await self._reload()
        except BaseException:
            if is_new:
                await tasks.finish(asyncio.to_thread(self._undo, recipe.engine_name), "undo a model")
            raise
        engine = self._engine_of(recipe.engine_name, path)
        if recipe.is_alias:
            alias = settings.model_copy(update={"model": engine.name if engine else recipe.engine_name})
            await asyncio.to_thread(put_alias, self._gateway, principal, recipe.name, alias)
        elif (hidden := find_alias(self._gateway, principal, recipe.name)) is not None:
            await asyncio.to_thread(drop_alias, self._gateway, hidden)
        digest = (*recipe.files, *recipe.adapters)[0].removeprefix("sha256:")
        return Made(recipe.name, digest, is_served=engine is not None)

    def _check_names(self, recipe: Recipe, principal: Principal) -> bool:
        """Whether there is nothing yet under the name of the model; what is there must have been made so. Blocks."""
        name = recipe.engine_name
        if not principal.may_use(name):
            raise ApiError(403, f"this key may not use a model '{name}', and so not make it", code="model_not_allowed")
        if recipe.is_alias:
            free_name(self._gateway, principal, recipe.name)
        is_made = self._local.folder(name).is_dir()
        is_config = match_name(name, self._home.config_names()) is not None
        is_known = is_config or match_name(name, names_of_models(self._gateway)) is not None
        if (is_config and not self._local.has_adapters(name)) or (is_known and not is_made):
            raise ApiError(409, f"there is a model '{name}' already, which was not made here", code="name_taken")
        others = [alias for alias in self._aliases_of(name) if match_name(recipe.name, [alias]) is None]
        if is_made and others:
            raise ApiError(409, f"something else is made of '{name}'", code="name_taken")
        return not is_made

    def _place(self, recipe: Recipe, base: Engine | None) -> Path:
        """Put the files where they belong; returns the path of the model's. Blocks."""
        name, blobs = recipe.engine_name, Blobs(self._home)
        was_adapted = self._is_adapted(name)
        try:
            files, adapters = _find_all(blobs, recipe.files), _find_all(blobs, recipe.adapters)
            elsewhere = [base.model_file] if base else []
            headers = [read_header(file) for file in (elsewhere or files)]
            _check_template(recipe, next((one.chat_template for one in headers if one.chat_template), ""))
            made, loras = self._local.place(name, files, adapters, headers[0].architecture)
            path = made or elsewhere[0]
            if loras:
                text = yaml.safe_dump(self._config(base, path, loras), sort_keys=False)
                write_private(self._home.config(name), text)
            elif was_adapted:
                self._home.config(name).unlink(missing_ok=True)
        except (GgufError, LocalModelError, BlobError) as error:
            raise ApiError(400, error.message.replace(f"{self._home.root}/", "")) from None
        except OSError as error:
            raise ApiError(507, f"the model cannot be written: {error.strerror or error}") from error
        return path

    def _config(self, base: Engine | None, path: Path, loras: list[Path]) -> dict[str, Any]:
        """A config of a model with adapters: else as its base, or as a model of the library."""
        if base is None:
            library = load_settings(self._home).library
            config: dict[str, Any] = {
                "context": {"ctx_size": library.ctx_size},
                "server": {"max_slots": library.max_slots},
            }
        else:
            config = base.config.model_dump(mode="json", exclude_defaults=True)
            for own in ("host", "port", "api_key"):
                config.get("server", {}).pop(own, None)
        model = config.setdefault("model", {})
        model["model_path"] = self._relative(path)
        model["lora_paths"] = [*model.get("lora_paths", ()), *map(self._relative, loras)]
        return config

    # ---- removing

    async def _remove_alias(self, alias: str) -> None:
        """And the model that was made together with it, unless something else needs that."""
        model = self._gateway.aliases.all()[alias].model
        await asyncio.to_thread(drop_alias, self._gateway, alias)
        if model == base_name(alias) and self._local.folder(model).is_dir():
            try:
                await self._remove_model(model)
            except ApiError as error:
                logger.info("'%s' is kept: %s", model, error.message)

    async def _remove_model(self, name: str) -> None:
        async with self._one_at_a_time:
            engine = self._gateway.fleet.engines.get(name)
            await asyncio.to_thread(self._check_removal, name, engine)
            if name in self._gateway.fleet.engines:
                await self._gateway.fleet.unload(name)
            await tasks.finish(self._delete_and_reload(name), "remove a model")

    async def _delete_and_reload(self, name: str) -> None:
        await asyncio.to_thread(self._delete, name)
        await self._reload()

    def _check_removal(self, name: str, engine: Engine | None) -> None:
        """Blocks on the disk."""
        if aliases := self._aliases_of(name):
            words = f"aliases are made of '{name}', remove them first: {', '.join(aliases)}"
            raise ApiError(409, words, code="in_use")
        if self._is_adapted(name):
            return
        library = Library(self._home)
        model = next((model for model in library.models() if model.name == name), None)
        if name in self._home.config_names() or model is None or (engine and engine.model_file != model.path):
            words = f"'{name}' comes from a config, which is for whoever runs the gateway to remove"
            raise ApiError(400, words, code="not_removable")
        files = set(library.files_of(model))
        others = [one for one in self._gateway.fleet.engines.values() if one is not engine]
        if any(files.intersection(_files(other)) for other in others):
            raise ApiError(409, f"another model needs the files of '{name}'", code="in_use")

    def _delete(self, name: str) -> None:
        if self._is_adapted(name):
            self._delete_made(name)
            return
        library = Library(self._home)
        Blobs(self._home).forget(library.files_of(library.get(name)))
        library.remove(name)

    def _delete_made(self, name: str) -> None:
        """All that was made under a name: its files, and its config where it has one for its adapters."""
        Blobs(self._home).forget(self._local.folder(name).rglob("*.gguf"))
        self._undo(name)

    def _undo(self, name: str) -> None:
        """As if it had never been made; what was sent for it is kept."""
        if self._is_adapted(name):
            self._home.config(name).unlink(missing_ok=True)
        self._local.remove(name)

    def _is_adapted(self, name: str) -> bool:
        """It has a config that was made here, with adapters that were sent."""
        return name in self._home.config_names() and self._local.has_adapters(name)

    # ---- both

    async def _reload(self) -> None:
        if self._reloader is None:
            return
        try:
            await self._reloader.reload()
        except HugindError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ApiError(409, f"the gateway cannot be brought in line: {error.message}{hint}") from error

    def _engine(self, name: str, principal: Principal) -> Engine | None:
        try:
            target = self._gateway.target_for(name, principal)
        except ApiError:
            return None
        return None if target.alias else target.engine

    def _engine_of(self, name: str, path: Path) -> Engine | None:
        """What serves the model that was made under a name; the library may have had to give it a longer one."""
        engines = self._gateway.fleet.engines
        by_file = (engine for engine in engines.values() if engine.model_file == path)
        return engines.get(name) or (None if self._is_adapted(name) else next(by_file, None))

    def _in_library(self, name: str, principal: Principal) -> str | None:
        """A model that is there and is not served."""
        names = {one: model.name for model in Library(self._home).models() for one in (*model.other_names, model.name)}
        found = match_name(name, names)
        return names[found] if found is not None and principal.may_use(names[found]) else None

    def _aliases_of(self, model: str) -> list[str]:
        return [name for name, alias in self._gateway.aliases.all().items() if alias.model == model]

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._home.root)) if path.is_relative_to(self._home.root) else str(path)


def _check_template(recipe: Recipe, own: str) -> None:
    try:
        check_template(recipe.template, own)
    except DialectError as error:
        raise ApiError(400, error.message, param=error.param) from None


def _derive(base: Alias, recipe: Recipe) -> Alias:
    try:
        return base.derive(
            system=recipe.system,
            parameters=dict(recipe.parameters or {}),
            messages=[dict(message) for message in recipe.messages],
            license=recipe.license,
        )
    except ValidationError as error:
        raise ApiError(400, error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    except ValueError as error:
        raise ApiError(400, str(error), param="parameters") from None


def _find_all(blobs: Blobs, digests: tuple[str, ...]) -> list[Path]:
    found = []
    for digest in digests:
        path = blobs.find(digest)
        if path is None:
            raise BlobError(f"blob not found: {digest}")
        found.append(path)
    return found


def _files(engine: Engine) -> list[Path]:
    """All that it loads."""
    model = engine.config.model
    named = (model.model_path, model.mmproj_path, model.draft_path, *model.lora_paths)
    paths = [engine.config.path_of(path, engine.home) for path in named if path]
    return [part for path in paths for part in parts_of_file(path)]
