"""What clients are told of the models that they may use: out of configs, aliases and the headers of GGUF files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hugind.proxy.abilities import abilities_of, file_of
from hugind.proxy.access.principal import Principal
from hugind.proxy.dialects.ollama_models import Card, Loaded, Settings, digest_of, header_info, projector_info
from hugind.proxy.gateway import Gateway, Target
from hugind.proxy.sessions.prompts import read_system_prompt
from hugind.supervisor.aliases import Alias
from hugind.supervisor.engine import Engine
from hugind.supervisor.models.capabilities import parameter_size, quantization_level
from hugind.supervisor.models.gguf import GgufError
from hugind.supervisor.models.library import Described, described

logger = logging.getLogger(__name__)

_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
"""Of a config, by Ollama's names."""


@dataclass(frozen=True)
class Dossier:
    """All that there is to say of one model or alias."""

    card: Card
    settings: Settings
    model_info: Mapping[str, Any]
    projector_info: Mapping[str, Any] | None
    parameters: int
    """Numbers in its tensors."""


async def visible_cards(gateway: Gateway, principal: Principal) -> list[Card]:
    """A card of each model and alias that the caller may use."""
    engines = {engine.name: engine for engine in gateway.visible_engines(principal)}
    aliases = {name: alias for name, alias in gateway.aliases.all().items() if alias.model in engines}
    return await asyncio.to_thread(_cards, engines, aliases)


async def loaded_cards(gateway: Gateway, principal: Principal) -> list[tuple[Card, Loaded]]:
    """A card of each model in memory that the caller may use, and how it stands there."""
    loaded = []
    for engine in gateway.visible_engines(principal):
        residency, leases = gateway.fleet.residency(engine), gateway.leases(engine)
        if residency.is_loaded:
            stand = Loaded(
                size_bytes=residency.ram_bytes + residency.vram_bytes,
                vram_bytes=residency.vram_bytes,
                expires_at=residency.expires_at,
                state=engine.state,
                refs=residency.refs,
                is_pinned=residency.is_pinned,
                slots=len(engine.workers) * engine.config.server.max_slots,
                free_slots=leases.free,
                waiting=leases.waiting,
            )
            loaded.append((engine, stand))
    cards = await asyncio.to_thread(_cards, {engine.name: engine for engine, _ in loaded}, {})
    return [(card, stand) for card, (_, stand) in zip(cards, loaded, strict=True)]


async def dossier(target: Target, name: str, *, is_verbose: bool = False) -> Dossier:
    """Everything about one of them. `name`: what it is called, where it is an alias."""
    return await asyncio.to_thread(_dossier, target, name, is_verbose)


def _cards(engines: Mapping[str, Engine], aliases: Mapping[str, Alias]) -> list[Card]:
    cards = {name: _card(engine, file_of(engine)) for name, engine in engines.items()}
    for name, alias in aliases.items():
        cards.setdefault(name, _alias_card(name, alias, cards[alias.model]))
    return list(cards.values())


def _dossier(target: Target, name: str, is_verbose: bool) -> Dossier:
    engine, alias = target.engine, target.alias
    about, projector = file_of(engine), _describe(_projector_file(engine))
    card = _card(engine, about)
    return Dossier(
        card=card if alias is None else _alias_card(name, alias, card),
        settings=_settings(engine, alias, about, card.context_length),
        model_info=_info(about, is_verbose) if about else {},
        projector_info=projector_info(_info(projector, is_verbose), projector.parameters) if projector else None,
        parameters=about.parameters if about else 0,
    )


def _card(engine: Engine, about: Described | None) -> Card:
    """Of an engine; with what its config says alone, where its file cannot be read."""
    config = engine.config
    projector = _projector_file(engine)
    if about is None:
        parts = [engine.name, config.model.model_path]
        capabilities = ("completion",) if config.model.task == "chat" else ()
        return Card(engine.name, 0, digest_of(parts), 0.0, capabilities=capabilities)
    header, ctx_size = about.header, config.context.ctx_size
    embedding = header.values.get(f"{header.architecture}.embedding_length")
    loras = config.model.lora_paths
    return Card(
        name=engine.name,
        size_bytes=about.size_bytes,
        digest=digest_of([about.digest, config.model.mmproj_path, loras]) if projector or loras else about.digest,
        modified_at=header.mtime_ns / 1e9,
        families=(header.architecture, "clip") if projector else (header.architecture,),
        parameter_size=parameter_size(header, about.parameters),
        quantization_level=quantization_level(header),
        context_length=min(ctx_size, header.context_length or ctx_size),
        embedding_length=embedding if isinstance(embedding, int) else 0,
        capabilities=abilities_of(engine) or (),
    )


def _alias_card(name: str, alias: Alias, model: Card) -> Card:
    said = alias.model_dump(exclude={"created_at"})
    return replace(
        model,
        name=name,
        digest=digest_of([model.digest, said]),
        modified_at=alias.created_at or model.modified_at,
        parent=model.name,
    )


def _settings(engine: Engine, alias: Alias | None, about: Described | None, context_length: int) -> Settings:
    """What its config says, and over that what its alias does. The context is what is served, whoever says else."""
    config = engine.config
    sampling = config.sampling.model_dump(exclude_none=True)
    parameters: dict[str, Any] = {_SAMPLING[name]: value for name, value in sampling.items()}
    if alias is not None:
        parameters |= alias.parameters
    license_told = about.header.values.get("general.license") if about else None
    return Settings(
        parameters={**parameters, "num_ctx": context_length},
        system=(alias.system if alias else None) or _system_prompt(engine),
        messages=alias.messages if alias else (),
        template=_template(engine, about),
        license=(alias.license if alias else None) or (license_told if isinstance(license_told, str) else ""),
    )


def _system_prompt(engine: Engine) -> str | None:
    try:
        return read_system_prompt(engine.config, engine.home)
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s: its system prompt cannot be read: %s", engine.name, error)
        return None


def _template(engine: Engine, about: Described | None) -> str:
    """The text of it; of one that llama.cpp ships, its name."""
    chat = engine.config.chat
    if chat.template_file is not None:
        try:
            return engine.config.path_of(chat.template_file, engine.home).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("%s: its template cannot be read: %s", engine.name, error)
            return ""
    return chat.template or (about.header.chat_template if about else None) or ""


def _info(about: Described, is_verbose: bool) -> dict[str, Any]:
    return header_info(about.header.values, about.header.lengths, is_verbose=is_verbose)


def _describe(path: Path | None) -> Described | None:
    """What a file says of itself; None where it cannot be read, which its engine will complain of."""
    if path is None:
        return None
    try:
        return described(path)
    except GgufError as error:
        logger.debug("%s", error.message)
        return None


def _projector_file(engine: Engine) -> Path | None:
    path = engine.config.model.mmproj_path
    return engine.config.path_of(path, engine.home) if path else None
