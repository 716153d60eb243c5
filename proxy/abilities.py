"""What can a model do, as it is served? By its file, its config's template, and the engine's own trial."""

from __future__ import annotations

from dataclasses import replace

from hugind.supervisor.engine import Engine
from hugind.supervisor.models.capabilities import capabilities_of
from hugind.supervisor.models.gguf import GgufError, GgufHeader
from hugind.supervisor.models.library import Described, described


def file_of(engine: Engine) -> Described | None:
    """What an engine's model says of itself; None: it cannot be read, and the engine will say why. Blocks."""
    try:
        return described(engine.model_file)
    except GgufError:
        return None


def abilities_of(engine: Engine) -> tuple[str, ...] | None:
    """In Ollama's words: completion, tools, vision ...; None: not known. Blocks on the disk.

    Once it is loaded, whether it calls tools is by the engine's own trial of its template.
    """
    file, config = file_of(engine), engine.config
    if file is None:
        return None
    header = _as_configured(engine, file.header)
    found = capabilities_of(header, has_mmproj=config.model.mmproj_path is not None, task=config.model.task)
    takes = template_takes(engine)
    if takes is None or config.model.task != "chat" or ("tools" in found) == ("supports_tools" in takes):
        return found
    return tuple(word for word in found if word != "tools") if "tools" in found else (*found, "tools")


def template_takes(engine: Engine) -> frozenset[str] | None:
    """What the template of a loaded engine can render, as the engine tried; None while that is not known."""
    told = (worker.spawn.template_takes for worker in engine.workers if worker.spawn is not None)
    return next((takes for takes in told if takes is not None), None)


def _as_configured(engine: Engine, header: GgufHeader) -> GgufHeader:
    chat = engine.config.chat
    template = chat.template
    if chat.template_file is not None:
        try:
            template = engine.config.path_of(chat.template_file, engine.home).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return header  # the engine will say what is wrong with it
    return (
        header if template is None else replace(header, values={**header.values, "tokenizer.chat_template": template})
    )
