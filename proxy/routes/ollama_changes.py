"""Ollama's routes that make, copy and remove models."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.ollama_create import Recipe, read_recipe
from hugind.proxy.dialects.ollama_models import progress_line
from hugind.proxy.disconnect import DisconnectWatch
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.model_making import Made, ModelMaker
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.callers import actor_of, principal_of
from hugind.proxy.routes.ollama_asking import SUCCESS, name_in, progress, read_object, saying_not_found
from hugind.proxy.routes.records import Records
from hugind.supervisor.aliases import AliasError, check_alias_name
from hugind.supervisor.model_names import LATEST

_NOT_SERVED = progress_line("made; 'hugind serve' serves it, or a config that names it")


def changes_router(gateway: Gateway, reloader: Reloader | None, records: Records) -> APIRouter:
    """Each is answered when it is done."""
    router = APIRouter()
    maker = ModelMaker(gateway, reloader)

    @router.post("/api/create")
    async def create(request: Request) -> Response:
        """Make an alias of a model, or a model of files that were sent before."""
        body = await read_object(request)
        name = _new_name(name_in(body))
        try:
            recipe = read_recipe(body, name)
        except DialectError as error:
            raise ApiError(400, error.message, param=error.param) from None
        with saying_not_found(recipe.source or name):
            made = await maker.make(recipe, principal_of(request))
        await records.note(actor_of(request), "model.create", made.name, {"from": recipe.source, "files": recipe.files})
        return progress(body, _lines(recipe, made))

    @router.post("/api/copy")
    async def copy(request: Request) -> Response:
        """Another name for a model, or an alias like another."""
        body = await read_object(request)
        source, name = name_in(body, "source"), _new_name(name_in(body, "destination"))
        with saying_not_found(source):
            made = await maker.copy(source, name, principal_of(request))
        await records.note(actor_of(request), "model.copy", made, {"from": source})
        return Response(status_code=200)

    @router.delete("/api/delete")
    async def delete(request: Request) -> Response:
        """Remove an alias, or a model with its files. Those who use it just now are waited for."""
        name = name_in(await read_object(request))
        async with DisconnectWatch(request.scope["exchange"]):
            removed = await maker.remove(name, principal_of(request))
        await records.note(actor_of(request), "model.delete", removed)
        return Response(status_code=200)

    return router


def _new_name(given: str) -> str:
    try:
        check_alias_name(given)
    except AliasError as error:
        raise ApiError(400, f"invalid model name: {error.message}", param="model") from None
    return given.removesuffix(LATEST)


def _lines(recipe: Recipe, made: Made) -> list[bytes]:
    """How it was done, in the steps that clients know."""
    steps = [f"using existing layer sha256:{made.digest}"]
    steps += [
        f"creating {what} layer" for what in ("system", "parameters", "messages", "license") if getattr(recipe, what)
    ]
    lines = [*map(progress_line, steps), progress_line("writing manifest")]
    return [*lines, SUCCESS] if made.is_served else [*lines, _NOT_SERVED, SUCCESS]
