"""What a client wants made, out of the body of Ollama's `/api/create`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hugind.proxy.dialects.errors import DialectError
from hugind.supervisor.model_names import LATEST

_REFUSED = {
    "quantize": "models are not quantized here: pull or send a file that is",
    "draft_quantize": "models are not quantized here: pull or send a file that is",
    "draft_files": "draft models are for a config to name (model.draft_path)",
    "remote_host": "models of other hosts are not served here",
    "modelfile": "'modelfile' is no longer taken: send its parts, as newer clients do",
    "path": "'path' is no longer taken: send the files, as newer clients do",
}
_NOT_IN_CONFIG_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 58
_BASE = "-base"


@dataclass(frozen=True)
class Recipe:
    """A model or an alias to be made."""

    name: str
    """Without `:latest`."""
    source: str | None = None
    """What it is made from, where no files are sent."""
    files: tuple[str, ...] = ()
    """By their digests."""
    adapters: tuple[str, ...] = ()
    system: str | None = None
    parameters: Mapping[str, Any] | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    license: str | None = None
    template: str | None = None

    @property
    def has_settings(self) -> bool:
        """It is more than a model: an alias of one."""
        return bool(self.system or self.parameters or self.messages or self.license)

    @property
    def engine_name(self) -> str:
        """What the model is called that is made of its files: a config can have this name, and no alias has it."""
        base = base_name(self.name)
        is_plain = base == self.name + _BASE
        return self.name if is_plain and not self.has_settings else base

    @property
    def is_alias(self) -> bool:
        """What clients ask for is an alias, of what is there or of what is made of its files."""
        return not (self.files or self.adapters) or self.engine_name != self.name


def base_name(alias: str) -> str:
    """What the model is called that is made together with an alias of this name."""
    return _NOT_IN_CONFIG_NAMES.sub("-", alias)[:_LONGEST_NAME] + _BASE


def read_recipe(body: Mapping[str, Any], name: str) -> Recipe:
    """What the body asks for. `name`: of the model, which was read already.

    Raises:
        DialectError: it asks for what there is not, or says it wrongly.
    """
    for field, words in _REFUSED.items():
        if body.get(field):
            raise DialectError(words, param=field)
    source, files, adapters = _text(body, "from"), _digests(body, "files"), _digests(body, "adapters")
    if source is None and not files:
        raise DialectError("neither 'from' or 'files' was specified", param="from")
    if source is not None and files:
        raise DialectError("give 'from' or 'files', not both", param="files")
    return Recipe(
        name=name.removesuffix(LATEST),
        source=source,
        files=files,
        adapters=adapters,
        system=_text(body, "system"),
        parameters=_parameters(body),
        messages=_messages(body),
        license=_license(body),
        template=_text(body, "template"),
    )


def check_template(wanted: str | None, own: str) -> None:
    """Only the template that the model has is taken: that of Ollama's models is Go's, which nothing here reads.

    Raises:
        DialectError: it is another.
    """
    if wanted is not None and wanted.strip() and wanted.strip() != own.strip():
        raise DialectError(
            "a template of its own is not supported: the model's is used, or that of a config (chat.template_file)",
            param="template",
        )


def _text(body: Mapping[str, Any], field: str) -> str | None:
    given = body.get(field)
    if given is not None and not isinstance(given, str):
        raise DialectError(f"{field} must be a text", param=field)
    return given or None


def _digests(body: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Of the files in the order of their names, which stay the client's: none becomes a path."""
    given = body.get(field) or {}
    if not isinstance(given, dict) or not all(isinstance(digest, str) for digest in given.values()):
        raise DialectError(f"{field} must be an object of names and digests", param=field)
    return tuple(given[name] for name in sorted(given))


def _parameters(body: Mapping[str, Any]) -> dict[str, Any] | None:
    given = body.get("parameters")
    if given is not None and not isinstance(given, dict):
        raise DialectError("parameters must be an object", param="parameters")
    return {name: value for name, value in given.items() if value is not None} if given else None


def _messages(body: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    given = body.get("messages") or []
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise DialectError("messages must be a list of objects", param="messages")
    return tuple(given)


def _license(body: Mapping[str, Any]) -> str | None:
    given = body.get("license")
    texts = given if isinstance(given, list) else [given] if given else []
    if not all(isinstance(text, str) for text in texts):
        raise DialectError("license must be a text, or a list of texts", param="license")
    return "\n".join(texts) or None
