"""Make and remove aliases of what is served, within what the caller may see."""

from __future__ import annotations

import logging

from hugind.proxy.access.principal import Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.supervisor.aliases import Alias, AliasError
from hugind.supervisor.engine import Engine
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.model_names import LATEST, match_name
from hugind.supervisor.models.library import Library, LibraryModel
from hugind.supervisor.models.quantized import Quantization, choose_quantized

logger = logging.getLogger(__name__)


def base_alias(
    gateway: Gateway, principal: Principal, model: object, quantization: Quantization | None = None
) -> Alias:
    """What an alias of `model` begins with: as that one is, if it is an alias itself. Blocks on the disk.

    Raises:
        ApiError: as `Gateway.target_for`; 404 where no file of the model is stored as `quantization` wants it.
    """
    target = gateway.target_for(model, principal)
    alias = target.alias or Alias(model=target.engine.name)
    if quantization is None:
        return alias
    wanted = _quantized(gateway, target.engine, quantization)
    engine = next((one for one in gateway.visible_engines(principal) if one.model_file == wanted.path), None)
    if engine is None:
        raise ApiError(404, f"'{wanted.name}' is not served here", code="model_not_found", param="quantization")
    return alias.model_copy(update={"model": engine.name, "quantization": quantization})


def drop_alias(gateway: Gateway, name: str) -> None:
    """Forget an alias of this very name. Blocks on the disk.

    Raises:
        ApiError: 404 where somebody else was faster, 500 as `put_alias`.
    """
    try:
        gateway.aliases.remove(name)
    except AliasError as error:
        raise ApiError(404, error.message, code="alias_not_found") from None
    except ConfigError as error:
        raise _unreadable(error) from error


def put_alias(gateway: Gateway, principal: Principal, name: str, alias: Alias) -> str:
    """Make an alias, or another in its place; returns its name, as it is kept. Blocks on the disk.

    Raises:
        ApiError: 400 for what is no name, 409 for one that is taken, 500 where the file of aliases was spoiled by hand.
    """
    kept = free_name(gateway, principal, name)
    try:
        gateway.aliases.put(kept, alias)
    except AliasError as error:
        raise ApiError(400, error.message, code="invalid_alias", param="name") from None
    except ConfigError as error:
        raise _unreadable(error) from error
    return kept


def free_name(gateway: Gateway, principal: Principal, name: str) -> str:
    """The name that an alias would be kept under: its own, or as one is written that is the caller's to replace.

    Blocks on the disk.

    Raises:
        ApiError: 409, it is taken.
    """
    name = name.removesuffix(LATEST)
    if match_name(name, names_of_models(gateway)) is not None:
        raise ApiError(
            409, f"there is a model '{name}' already: an alias of this name would never be reached", code="name_taken"
        )
    known = gateway.aliases.all()
    same = match_name(name, known)
    if same is not None and not principal.may_use(known[same].model):
        raise ApiError(409, f"the name '{name}' is taken", code="name_taken")
    return same or name


def find_alias(gateway: Gateway, principal: Principal, name: str) -> str | None:
    """The name of the alias that `name` means, as far as the caller may know."""
    known = {own: alias for own, alias in gateway.aliases.all().items() if principal.may_use(alias.model)}
    return match_name(name, known)


def names_of_models(gateway: Gateway) -> set[str]:
    """What requests find before aliases, now or when it is served."""
    served = [name for engine in gateway.fleet.engines.values() for name in (engine.name, *engine.other_names)]
    there = [name for model in Library(gateway.home).models() for name in (model.name, *model.other_names)]
    return {*served, *there, *gateway.home.config_names()}


def _quantized(gateway: Gateway, engine: Engine, quantization: Quantization) -> LibraryModel:
    try:
        return choose_quantized(Library(gateway.home).models(), engine.model_file, quantization)
    except AliasError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise ApiError(404, error.message + hint, code="model_not_found", param="quantization") from None


def _unreadable(error: ConfigError) -> ApiError:
    logger.error("aliases: %s", error)
    return ApiError(500, "the file of aliases cannot be read: see the gateway's log")
