"""Read a YAML file into a pydantic model; what is wrong is told by file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hugind.supervisor.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]


def load_model(path: Path, model: type[Model]) -> Model:
    """The file's content as a validated `model`. Blocks on the disk.

    Raises:
        ConfigError: the file is missing, is not YAML, repeats a key, or does not fit the model.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=path) from error
    return parse_model(text, model, path)


def parse_model(text: str, model: type[Model], path: Path) -> Model:
    """As `load_model`, with the text given. `path` only names the file in errors."""
    lines: dict[KeyPath, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if node is None else _build(node, (), lines, path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(f"not valid YAML: {error.problem}", path=path, line=line) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", path=path) from error
    if not isinstance(data, dict):
        raise ConfigError("must be a mapping of sections", path=path, line=1)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False), model, lines, path) from None


def _build(node: yaml.Node, where: KeyPath, lines: dict[KeyPath, int], path: Path) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*where, i), _note(lines, (*where, i), item), path) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    result: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise ConfigError("keys must be plain words", path=path, line=key_node.start_mark.line + 1)
        below = (*where, key)
        line = key_node.start_mark.line + 1
        if key in result:
            raise ConfigError(f"is given twice, first in line {lines[below]}", path=path, line=line, key=_dotted(below))
        lines[below] = line
        result[key] = _build(value_node, below, lines, path)
    return result


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _note(lines: dict[KeyPath, int], where: KeyPath, node: yaml.Node) -> dict[KeyPath, int]:
    lines[where] = node.start_mark.line + 1
    return lines


def _explain(errors: list[ErrorDetails], model: type[BaseModel], lines: dict[KeyPath, int], path: Path) -> ConfigError:
    """The first error in the order of the file, and how many more there are."""
    errors.sort(key=lambda error: _line_of(tuple(error["loc"]), lines) or 0)
    first = errors[0]
    where = tuple(first["loc"])
    problem, hint = _problem(first, where, model)
    if len(errors) > 1:
        problem += f" (and {len(errors) - 1} more)"
    return ConfigError(problem, path=path, line=_line_of(where, lines), key=_dotted(where) or None, hint=hint)


def _problem(error: ErrorDetails, where: KeyPath, model: type[BaseModel]) -> tuple[str, str | None]:
    if error["type"] == "extra_forbidden":
        valid = _valid_keys(model, where[:-1])
        near = difflib.get_close_matches(str(where[-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys here: {', '.join(sorted(valid))}"
        return "unknown key", hint
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return "is required", None
    if error["type"] in ("model_type", "model_attributes_type"):
        return "must hold keys, one to a line below it", None
    given = error.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return message[0].lower() + message[1:] + shown, None


def _valid_keys(model: type[BaseModel], where: KeyPath) -> list[str]:
    current: type[BaseModel] = model
    for part in where:
        field = current.model_fields.get(str(part))
        inner = _inner_model(field.annotation) if field else None
        if inner is None:
            return []
        current = inner
    return list(current.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _line_of(where: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """The line of the key, or of the nearest section around it."""
    while where:
        if where in lines:
            return lines[where]
        where = where[:-1]
    return 1


def _dotted(where: KeyPath) -> str:
    return ".".join(str(part) for part in where)
