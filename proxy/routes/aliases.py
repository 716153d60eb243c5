"""Aliases, for those who run the gateway. They hold at once: requests read them anew when they have changed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hugind.proxy.access.principal import Principal
from hugind.proxy.alias_desk import base_alias, drop_alias, find_alias, put_alias
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.routes.callers import actor_of, principal_of
from hugind.proxy.routes.operators import NO_NUL, operators_router
from hugind.proxy.routes.records import Records
from hugind.supervisor.aliases import ALIAS_NAME, MAX_NAME, Alias
from hugind.supervisor.models.quantized import Quantization

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

Name = Annotated[str, Path(max_length=MAX_NAME, pattern=NO_NUL)]
NewName = Annotated[str, Field(max_length=MAX_NAME, pattern=f"^{ALIAS_NAME.pattern}$")]


class AliasMessage(BaseModel):
    """Put before every conversation."""

    model_config = _STRICT

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class AliasSettings(BaseModel):
    """What an alias shall be. What it does not say it takes over from `model`, where that is an alias, too."""

    model_config = _STRICT

    model: str = Field(max_length=256, description="A model that is served, or another alias.")
    system: str | None = Field(None, description="For conversations that bring no system message.")
    parameters: dict[str, Any] = Field({}, description="By Ollama's names: temperature, num_predict, stop ...")
    messages: list[AliasMessage] = Field([], description="Put before every conversation.")
    quantization: Quantization | None = Field(
        None, description="The file of `model`, or of its repository, with about so many bits to a weight."
    )
    license: str | None = None


class NewAlias(AliasSettings):
    name: NewName


class AliasAnswer(BaseModel):
    """A model under another name, with settings that requests may override."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model: str
    """Never another alias."""
    system: str | None
    parameters: dict[str, Any]
    messages: list[dict[str, str]]
    quantization: Quantization | None
    license: str | None
    created_at: float
    """Unix seconds."""


class AliasList(BaseModel):
    aliases: list[AliasAnswer]


class AliasRemoved(BaseModel):
    removed: str


def aliases_router(gateway: Gateway, records: Records) -> APIRouter:
    """All of them, also those whose model is not served just now."""
    router = operators_router("aliases")

    @router.get("/aliases")
    async def list_aliases(request: Request) -> AliasList:
        """Every alias, by name."""
        principal = principal_of(request)
        known = gateway.aliases.all().items()
        return AliasList(aliases=[_answer(name, alias) for name, alias in known if principal.may_use(alias.model)])

    @router.post("/aliases", status_code=201)
    async def create_alias(wanted: NewAlias, request: Request) -> AliasAnswer:
        """Make an alias, or another one in its place."""
        return await put(wanted.name, wanted, request)

    @router.get("/aliases/{name:path}")
    async def show_alias(name: Name, request: Request) -> AliasAnswer:
        """One of them."""
        return _answer(*_find(gateway, principal_of(request), name))

    @router.put("/aliases/{name:path}")
    async def change_alias(name: Name, wanted: AliasSettings, request: Request) -> AliasAnswer:
        """Make an alias, or another one in its place: what it was is forgotten."""
        return await put(name, wanted, request)

    @router.delete("/aliases/{name:path}")
    async def remove_alias(name: Name, request: Request) -> AliasRemoved:
        """Forget an alias. Its model stays."""
        own, _ = _find(gateway, principal_of(request), name)
        await asyncio.to_thread(drop_alias, gateway, own)
        await records.note(actor_of(request), "alias.remove", own)
        return AliasRemoved(removed=own)

    async def put(name: str, wanted: AliasSettings, request: Request) -> AliasAnswer:
        own = await asyncio.to_thread(_put, gateway, principal_of(request), name, wanted)
        alias = gateway.aliases.all()[own]
        await records.note(actor_of(request), "alias.put", own, {"model": alias.model})
        return _answer(own, alias)

    return router


def _put(gateway: Gateway, principal: Principal, name: str, wanted: AliasSettings) -> str:
    base = base_alias(gateway, principal, wanted.model, wanted.quantization)
    try:
        alias = base.derive(
            system=wanted.system,
            parameters=wanted.parameters,
            messages=[message.model_dump() for message in wanted.messages],
            license=wanted.license,
        )
    except ValidationError as error:
        raise ApiError(400, error.errors()[0]["msg"], code="invalid_alias") from None
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_alias", param="parameters") from None
    return put_alias(gateway, principal, name, alias)


def _find(gateway: Gateway, principal: Principal, name: str) -> tuple[str, Alias]:
    own = find_alias(gateway, principal, name)
    if own is None:
        raise ApiError(404, f"there is no alias '{name}'", code="alias_not_found")
    return own, gateway.aliases.all()[own]


def _answer(name: str, alias: Alias) -> AliasAnswer:
    return AliasAnswer.model_validate({"name": name, **alias.model_dump()})
