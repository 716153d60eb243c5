"""The schema of a config, its example, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hugind.supervisor.config import (
    MAX_TOTAL_CONTEXT,
    RESERVED_FLAGS,
    Config,
    find_config,
    json_schema,
    load_config,
    missing_files,
)
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home
from hugind.supervisor.yamlfile import parse_model
from tests.engines import ROOT

EXAMPLE = ROOT / "configs" / "example.yml"
SCHEMA = ROOT / "configs" / "config.schema.json"
MODEL = "model:\n  model_path: m.gguf\n"


def _read(text: str) -> Config:
    return parse_model(MODEL + text, Config, Path("f.yml"))


def _refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _read(text)
    return caught.value


# ---- what may stand in it


def test_smallest() -> None:
    """A model is all that a config needs."""
    config = _read("")

    assert config.model.model_path == "m.gguf"
    assert (config.context.ctx_size, config.server.max_slots, config.server.concurrency) == (4096, 2, 1)


def test_keys_of_the_mission() -> None:
    """The keys that people's configs already have keep their names."""
    config = parse_model(
        """
        model: {model_path: a.gguf, mmproj_path: b.gguf}
        device: {gpu_layers: 99, mlock: true, no_mmap: true}
        context: {ctx_size: 8192, batch_size: 512, flash_attn: true}
        sampling: {temp: 0.7, top_k: 40, top_p: 0.9, min_p: 0.05}
        chat: {}
        server: {host: 0.0.0.0, port: 8080, api_key: k, concurrency: 2, max_slots: 4}
        """,
        Config,
        Path("f.yml"),
    )

    assert config.device.gpu_layers == 99
    assert config.server.api_key is not None
    assert "k" not in repr(config.server.api_key)


def test_frozen() -> None:
    """A config does not change once it is read."""
    config = _read("")
    with pytest.raises(ValidationError, match="frozen"):
        config.server.port = 1  # type: ignore[misc]  # the point
    with pytest.raises(ValidationError, match="frozen"):
        config.server = config.server  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("context:\n  ctx_size: 1\n", 4, "context.ctx_size"),
        ("server:\n  max_slots: 0\n", 4, "server.max_slots"),
        ("server:\n  port: 65536\n", 4, "server.port"),
        ("server:\n\n  api_key: 1234\n", 5, "server.api_key"),
        ("device:\n  gpu_layers: many\n", 4, "device.gpu_layers"),
        ("context:\n  flash_attn: perhaps\n", 4, "context.flash_attn"),
        ("context:\n  cache_type_k: q3\n", 4, "context.cache_type_k"),
        ("sampling:\n  top_p: 2\n", 4, "sampling.top_p"),
        ("engine:\n  listen: udp\n", 4, "engine.listen"),
        ("engine:\n  env:\n    A: [1]\n", 5, "engine.env.A"),
        ("sessions:\n  keep: true\n", 4, "sessions.keep"),
        ("engine:\n  extra_args:\n    - --verbose\n    - --port\n", 4, "engine.extra_args"),
    ],
)
def test_refused(text: str, line: int, key: str) -> None:
    """A value that does not fit is told with its line and its key."""
    error = _refused(text)

    assert (error.line, error.key) == (line, key)


@pytest.mark.parametrize("key", ["gpu_layers", "threads"])
def test_no_switch_for_a_number(key: str) -> None:
    """`true` does not count as one layer or one thread."""
    assert _refused(f"device:\n  {key}: true\n").problem.startswith("must not be true or false")


def test_switches() -> None:
    """What is a switch may be true or false."""
    config = _read("device: {mlock: yes, no_mmap: off}\ncontext: {flash_attn: false}\n")

    assert (config.device.mlock, config.device.no_mmap, config.context.flash_attn) == (True, False, False)


def test_quantised_v_cache() -> None:
    """A combination that llama.cpp would refuse is refused when the file is read."""
    assert "needs flash_attn: true" in _refused("context: {flash_attn: false, cache_type_v: q8_0}\n").problem
    assert _read("context: {flash_attn: true, cache_type_v: q8_0}\n")


def test_context_of_all_slots() -> None:
    """More context than llama-server can count is refused when the file is read."""
    assert f"{MAX_TOTAL_CONTEXT:,}" in _refused("context: {ctx_size: 16777216}\nserver: {max_slots: 128}\n").problem
    assert _read("context: {ctx_size: 16777215}\nserver: {max_slots: 128}\n")


@pytest.mark.parametrize("flag", sorted(RESERVED_FLAGS))
def test_reserved_flags(flag: str) -> None:
    """A flag that hugind sets itself cannot be passed beside it; the reason says what to use."""
    for arg in (flag, f"{flag}=x"):
        error = _refused(f"engine:\n  extra_args: ['{arg}']\n")

        assert error.problem.startswith(f"{flag} is set by hugind itself ({RESERVED_FLAGS[flag]})")


def test_other_flags() -> None:
    """Any other flag is passed on."""
    assert _read("engine:\n  extra_args: [--cache-reuse, '256']\n").engine.extra_args == ("--cache-reuse", "256")


# ---- finding it, and its files


def test_find_by_name(home: Home) -> None:
    """A name finds the file in the home."""
    home.config("tiny").write_text(MODEL)

    assert find_config("tiny", home) == ("tiny", home.config("tiny"))
    assert load_config(home.config("tiny")).model.model_path == "m.gguf"


@pytest.mark.parametrize("name", ["x.yml", "x.yaml"])
def test_find_by_path(home: Home, tmp_path: Path, name: str) -> None:
    """A path finds that file; its stem is the name."""
    (tmp_path / name).write_text(MODEL)

    assert find_config(str(tmp_path / name), home) == ("x", tmp_path / name)


def test_not_found(home: Home) -> None:
    """A config that is not there is refused with those that are."""
    home.config("tiny").touch()
    with pytest.raises(ConfigError, match="there is no config 'tidy'") as caught:
        find_config("tidy", home)

    assert str(caught.value.hint).endswith("tiny")


@pytest.mark.parametrize("name", ["-x", "a b", "."])
def test_bad_name(home: Home, name: str) -> None:
    """What cannot be a name is refused as such."""
    with pytest.raises(ConfigError, match="is not a config name"):
        find_config(name, home)


def test_bad_name_of_a_file(home: Home, tmp_path: Path) -> None:
    """A file whose name would not do as a model id is refused."""
    path = tmp_path / "a b.yml"
    path.write_text(MODEL)
    with pytest.raises(ConfigError, match="is not a config name"):
        find_config(str(path), home)


def test_path_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables and `~` are expanded; what is relative starts at the home."""
    monkeypatch.setenv("MODELS", "/models")
    monkeypatch.setenv("HOME", "/root-of-me")
    config = _read("")

    assert config.path_of("$MODELS/a.gguf", home) == Path("/models/a.gguf")
    assert config.path_of("~/a.gguf", home) == Path("/root-of-me/a.gguf")
    assert config.path_of("org/a.gguf", home) == home.root / "org" / "a.gguf"
    assert config.path_of("~no-such-user/a.gguf", home) == home.root / "~no-such-user" / "a.gguf"


def test_missing_files(home: Home) -> None:
    """Every file that a config names and that is not there is told by key."""
    (home.root / "m.gguf").touch()
    text = "model: {model_path: m.gguf, mmproj_path: p, draft_path: d, lora_paths: [m.gguf, l]}\n"
    config = parse_model(text + "chat: {template_file: t}\n", Config, Path("f.yml"))

    assert missing_files(config, home) == [
        ("model.mmproj_path", home.root / "p"),
        ("model.draft_path", home.root / "d"),
        ("chat.template_file", home.root / "t"),
        ("model.lora_paths.1", home.root / "l"),
    ]


# ---- the schema and the example, tested against each other


def test_committed_schema() -> None:
    """The schema file is what `hugind config schema` prints."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema(), (
        "run: hugind config schema > configs/config.schema.json"
    )


def test_every_key_is_described() -> None:
    """Every key of the schema says what it means."""
    undescribed = [key for key, field in _schema_keys().items() if not field.get("description")]

    assert undescribed == []


def test_example_is_good() -> None:
    """The example config can be used as it is."""
    config = load_config(EXAMPLE)

    assert config.model.model_path


def test_example_points_to_the_schema() -> None:
    """Editors find the schema from the example."""
    first = EXAMPLE.read_text(encoding="utf-8").splitlines()[0]

    assert first == f"# yaml-language-server: $schema=./{SCHEMA.name}"


def test_example_names_every_key() -> None:
    """The example holds every key of the schema, and no other."""
    assert _example_keys().keys() == _schema_keys().keys()


def test_example_tells_every_default() -> None:
    """Every key of the example has its default as the value; the one without a default says so."""
    defaults = {key: field.get("default", "required") for key, field in _schema_keys().items()}
    given = {key: "required" if "# required" in line else value for key, (value, line) in _example_keys().items()}

    assert given == defaults


def test_example_tells_every_meaning() -> None:
    """Every key of the example has a comment."""
    bare = [key for key, (_, line) in _example_keys().items() if "  # " not in line]

    assert bare == []


def _schema_keys() -> dict[str, dict[str, Any]]:
    schema = json_schema()
    keys = {}
    for name, reference in schema["properties"].items():
        section = schema["$defs"][reference["$ref"].rsplit("/", 1)[1]]
        for key, field in section.get("properties", {}).items():
            keys[f"{name}.{key}"] = field
    return keys


def _example_keys() -> dict[str, tuple[Any, str]]:
    """The value of each key, and its line."""
    text = EXAMPLE.read_text(encoding="utf-8")
    lines = {found[1]: found[0] for found in re.finditer(r"^  (\w+):.*$", text, re.MULTILINE)}
    sections = yaml.safe_load(text)
    return {
        f"{name}.{key}": (value, lines[key]) for name, section in sections.items() for key, value in section.items()
    }


@pytest.mark.parametrize("flag", ["--cache_ram", "--slot_prompt_similarity=0.5", "--ctx_size", "-ctk", "--pooling"])
def test_a_reserved_flag_in_any_spelling(flag: str) -> None:
    """llama.cpp takes `_` for `-`; neither gets past us."""
    with pytest.raises(ValidationError, match="is set by hugind itself"):
        Config.model_validate({"model": {"model_path": "m.gguf"}, "engine": {"extra_args": [flag, "1"]}})
