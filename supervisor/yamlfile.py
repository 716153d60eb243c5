"""Read a YAML file into a pydantic model; what is wrong is told by file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
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
    except RecursionError:
        raise ConfigError("nested too deeply, or inside itself", path=path) from None
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
        return _scalar(node, path)
    result: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise ConfigError("keys must be plain words", path=path, line=_line(key_node))
        below = (*where, key)
        line = _line(key_node)
        if key in result:
            raise ConfigError(f"is given twice, first in line {lines[below]}", path=path, line=line, key=_dotted(below))
        lines[below] = line
        result[key] = _build(value_node, below, lines, path)
    return result


def _scalar(node: yaml.Node, path: Path) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # a date that is none, a number of too many digits
        raise ConfigError(f"cannot be read: {error}; put it in quotes", path=path, line=_line(node)) from None
    finally:
        loader.dispose()


def _note(lines: dict[KeyPath, int], where: KeyPath, node: yaml.Node) -> dict[KeyPath, int]:
    lines[where] = _line(node)
    return lines


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _explain(errors: list[ErrorDetails], model: type[BaseModel], lines: dict[KeyPath, int], path: Path) -> ConfigError:
    """The first wrong key in the order of the file, and how many more there are."""
    by_key: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key_of(error, model, lines), []).append(error)
    # A key that is missed may stand there misspelt: that is told first.
    where, first = min(by_key.items(), key=lambda item: (item[1][0]["type"] == "missing", _line_of(item[0], lines)))
    problem, hint = _problem(first, where, model)
    if len(by_key) > 1:
        problem += f" (and {len(by_key) - 1} more)"
    return ConfigError(problem, path=path, line=_line_of(where, lines), key=_dotted(where) or None, hint=hint)


def _key_of(error: ErrorDetails, model: type[BaseModel], lines: dict[KeyPath, int]) -> KeyPath:
    """Where in the file. Below a value pydantic goes on: with the kind that it tried of those that would fit."""
    where = tuple(error["loc"])
    while where and where not in lines and where[-1] not in _valid_keys(model, where[:-1]):
        where = where[:-1]
    return where


def _problem(errors: list[ErrorDetails], where: KeyPath, model: type[BaseModel]) -> tuple[str, str | None]:
    """What is wrong with one key. Of a key that takes several kinds of value, each refusal is told."""
    error = errors[0]
    if error["type"] == "extra_forbidden":
        valid = _valid_keys(model, where[:-1])
        near = difflib.get_close_matches(str(where[-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys here: {', '.join(sorted(valid))}"
        return "unknown key", hint
    if error["type"] == "missing":
        return "is required", None
    if error["type"] in ("model_type", "model_attributes_type"):
        return "must hold keys, one to a line below it", None
    messages = [error["msg"].removeprefix("Value error, ") for error in errors]
    message = " or ".join(message[0].lower() + message[1:] for message in messages)
    given = error.get("input")
    if isinstance(given, str | int | float | bool) and not _is_secret(model, where):
        message += f", not {given!r}"
    return message, None


def _is_secret(model: type[BaseModel], where: KeyPath) -> bool:
    section = _model_at(model, where[:-1])
    field = section.model_fields.get(str(where[-1])) if section and where else None
    return field is not None and SecretStr in (field.annotation, *get_args(field.annotation))


def _valid_keys(model: type[BaseModel], where: KeyPath) -> list[str]:
    section = _model_at(model, where)
    return list(section.model_fields) if section else []


def _model_at(model: type[BaseModel], where: KeyPath) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in where:
        field = current.model_fields.get(str(part)) if current else None
        current = _inner_model(field.annotation) if field else None
    return current


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _line_of(where: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of the key, or of the nearest section around it."""
    while where:
        if where in lines:
            return lines[where]
        where = where[:-1]
    return 1


def _dotted(where: KeyPath) -> str:
    return ".".join(str(part) for part in where)
