"""Whatever is wrong with a file is told by file, line and key."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr

from hugind.supervisor.errors import ConfigError
from hugind.supervisor.yamlfile import load_model, parse_model

_FILE = Path("f.yml")


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 1
    mode: int | str | None = None
    secret: SecretStr | None = None
    names: tuple[str, ...] = ()
    table: dict[str, int] = {}


class _Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first: _Inner
    second: _Inner | None = None


def _parse(text: str) -> _Outer:
    return parse_model(text, _Outer, _FILE)


def _error(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _parse(text)
    return caught.value


def test_good() -> None:
    """A file that fits becomes the model."""
    read = _parse("first:\n  size: 3\n  names: [a, b]\n")

    assert read == _Outer(first=_Inner(size=3, names=("a", "b")))


def test_anchors() -> None:
    """Anchors and aliases work."""
    read = _parse("first: &x\n  size: 3\nsecond: *x\n")

    assert read.second == read.first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first: {}\nsecnd: {}\n", "f.yml:2: secnd: unknown key"),
        ("first:\n  sise: 1\n", "f.yml:2: first.sise: unknown key"),
        ("second: {}\n", "f.yml:1: first: is required"),
        ("", "f.yml:1: first: is required"),
        ("first:\n\n  size: many\n", "f.yml:3: first.size: input should be a valid integer, unable to parse string as "
         "an integer, not 'many'"),
        ("first:\n  names:\n    - a\n    - 2\n", "f.yml:4: first.names.1: input should be a valid string, not 2"),
        ("first:\n  table:\n    a: 1\n    b: x\n", "f.yml:4: first.table.b: input should be a valid integer, unable "
         "to parse string as an integer, not 'x'"),
        ("first:\n  mode: [1]\n", "f.yml:2: first.mode: input should be a valid integer or input should be a valid "
         "string"),
        ("first: 3\n", "f.yml:1: first: must hold keys, one to a line below it"),
        ("first:\n", "f.yml:1: first: must hold keys, one to a line below it"),
        ("first:\n  size: 1\n  size: 2\n", "f.yml:3: first.size: is given twice, first in line 2"),
        ("first: {}\nfirst: {}\n", "f.yml:2: first: is given twice, first in line 1"),
        ("- first\n", "f.yml:1: must be a mapping of sections"),
        ("1: {}\n", "f.yml:1: keys must be plain words"),
        ("? [a]\n: b\n", "f.yml:1: keys must be plain words"),
        ("first: [\n", "f.yml:2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("first:\n\tsize: 1\n", "f.yml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("first: *nobody\n", "f.yml:1: not valid YAML: found undefined alias 'nobody'"),
        ("first: {}\n---\nfirst: {}\n", "f.yml:2: not valid YAML: but found another document"),
        ("first: !!python/name:os.system x\n", "f.yml:1: not valid YAML: could not determine a constructor for the "
         "tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("first:\n  mode: 2024-99-99\n", "f.yml:2: cannot be read: month must be in 1..12; put it in quotes"),
        ("first: &x\n  table: *x\n", "f.yml: nested too deeply, or inside itself"),
    ],
)  # fmt: skip
def test_message(text: str, message: str) -> None:
    """Each kind of mistake has a sentence with its place."""
    assert str(_error(text)) == message


def test_control_characters() -> None:
    """Bytes that YAML does not allow are refused in words."""
    assert "not valid YAML" in str(_error("first: \x00"))


def test_parts() -> None:
    """What the sentence is made of can be had apart."""
    error = _error("first:\n  sise: 1\n")

    assert (error.problem, error.path, error.line, error.key) == ("unknown key", _FILE, 2, "first.sise")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("first:\n  sise: 1\n", "did you mean 'size'?"),
        ("first: {}\nsecnd: {}\n", "did you mean 'second'?"),
        ("second:\n  nmaes: []\nfirst: {}\n", "did you mean 'names'?"),
        ("first: {}\nzzz: 1\n", "valid keys here: first, second"),
        ("first:\n  zzz: 1\n", "valid keys here: mode, names, secret, size, table"),
        ("first:\n  size: x\n", None),
    ],
)
def test_hint(text: str, hint: str | None) -> None:
    """An unknown key comes with the nearest valid one, or with all."""
    assert _error(text).hint == hint


def test_several_mistakes() -> None:
    """The first one in the file is told, and how many more there are."""
    error = _error("second:\n  size: x\nfirst:\n  size: y\n  mode: [1]\n")

    assert (error.line, error.key) == (2, "second.size")
    assert error.problem.endswith("(and 2 more)")


def test_misspelt_required_key() -> None:
    """Where a key is missing and an unknown one stands there, the one that stands there is told."""
    error = _error("frist: {}\n")

    assert (error.key, error.hint) == ("frist", "did you mean 'first'?")


def test_secrets_are_not_shown() -> None:
    """A secret of the wrong kind is not repeated in the message."""
    error = _error("first:\n  secret: 12345\n")

    assert error.key == "first.secret"
    assert "12345" not in str(error)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_model(tmp_path / "no.yml", _Outer)

    assert caught.value.path == tmp_path / "no.yml"


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is no text, or no file, is named."""
    path = tmp_path / "f.yml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(path, _Outer)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(tmp_path, _Outer)


@given(st.text(alphabet="ab:-&*!{}[]\n #'\"0123456789", max_size=60))
def test_any_text(text: str) -> None:
    """Whatever the file holds, it is read or refused in words."""
    with contextlib.suppress(ConfigError):
        _parse(text)
