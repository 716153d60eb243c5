"""The file of aliases: what is in it, who may change it at once, what is said of a spoiled one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from pydantic import ValidationError

from hugind.supervisor.aliases import Alias, AliasError, Aliases, check_alias_name
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home

WRITER = """
import sys
from pathlib import Path
from hugind.supervisor.aliases import Alias, Aliases
from hugind.supervisor.paths import Home
aliases = Aliases(Home(Path(sys.argv[1])))
for number in range(20):
    aliases.put(f"{sys.argv[2]}{number}", Alias(model="m"))
"""


def test_put_and_get(tmp_path: Path) -> None:
    """What was put is there, for this process and the next, readable by its owner only."""
    home = Home(tmp_path)
    aliases = Aliases(home)
    aliases.put("mario", Alias(model="demo", system="It's me.", parameters={"temp": 0.5, "stop": "END"}))
    found = Aliases(home).all()
    kept = found["mario"]

    assert ["mario"] == list(found)
    assert ("demo", "It's me.", {"temperature": 0.5, "stop": ["END"]}) == (kept.model, kept.system, kept.parameters)
    assert kept.created_at > 0
    assert kept == aliases.get("mario")
    assert 0o600 == home.aliases.stat().st_mode & 0o777
    assert 0o600 == home.aliases.with_suffix(".lock").stat().st_mode & 0o777


def test_half_a_character(tmp_path: Path) -> None:
    """JSON can say it, and no file of text can hold it."""
    aliases = Aliases(Home(tmp_path))
    aliases.put("mario", Alias(model="demo"))
    with pytest.raises(AliasError, match="half a character"):
        aliases.put("luigi", Alias(model="demo", parameters={"stop": ["\ud800"]}))

    assert ["mario"] == list(aliases.all())


def test_messages_are_roles_and_texts() -> None:
    """Whatever else a client had in them is of its own dialect."""
    alias = Alias(model="demo", messages=({"role": "user", "content": "hi", "images": ["abc"]},))

    assert ({"role": "user", "content": "hi"},) == alias.messages


def test_remove(tmp_path: Path) -> None:
    """It is gone; one that is not there cannot be removed."""
    aliases = Aliases(Home(tmp_path))
    aliases.put("mario", Alias(model="demo"))
    aliases.remove("mario")

    assert {} == aliases.all()
    with pytest.raises(AliasError, match="there is no alias 'mario'"):
        aliases.remove("mario")


def test_changes_of_others_are_seen(tmp_path: Path) -> None:
    """Another process changes the file; a file that is gone means no aliases."""
    home = Home(tmp_path)
    ours, theirs = Aliases(home), Aliases(home)
    theirs.put("a", Alias(model="one"))
    before = ours.all()["a"].model
    theirs.put("a", Alias(model="two"))
    after = ours.all()["a"].model
    home.aliases.unlink()

    assert ("one", "two") == (before, after)
    assert {} == ours.all()


def test_two_processes_write(tmp_path: Path) -> None:
    """Neither loses what the other wrote."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), who]) for who in ("a", "b")]
    codes = [writer.wait() for writer in writers]

    assert [0, 0] == codes
    assert sorted(f"{who}{number}" for who in "ab" for number in range(20)) == sorted(Aliases(Home(tmp_path)).all())


def test_a_lock_that_is_never_given_back(tmp_path: Path) -> None:
    """It is waited for, but not for ever."""
    home = Home(tmp_path)
    with FileLock(home.aliases.with_suffix(".lock")), pytest.raises(AliasError, match="does not let go"):
        Aliases(home, lock_s=0).put("mario", Alias(model="demo"))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{\n"mario": }', "aliases.json:2: ", "Expecting value"),
        ("[]", "aliases.json: ", "no JSON object"),
        ('{"mario": {}}', "mario.model: ", "Field required"),
        ('{"mario": {"model": "demo", "modle": 1}}', "mario.modle: ", "Extra inputs"),
        ('{"mario": {"model": "demo", "parameters": {"heat": 1}}}', "mario.parameters: ", "unknown parameter 'heat'"),
        ('{"mario": {"model": "demo", "messages": [{"role": "dog"}]}}', "mario.messages: ", "a message needs a role"),
        ('{"../mario": {"model": "demo"}}', "../mario: ", "is no name for a model"),
        ("\udcff", "aliases.json: ", "codec"),
    ],
)
def test_a_spoiled_file_says_where(tmp_path: Path, text: str, where: str, what: str) -> None:
    """The file, and the key or the line; nothing is written over it."""
    home = Home(tmp_path)
    home.aliases.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as spoiled:
        Aliases(home).all()
    with pytest.raises(ConfigError):
        Aliases(home).put("other", Alias(model="demo"))

    assert str(home.aliases) in str(spoiled.value)
    assert where in str(spoiled.value)
    assert home.aliases.read_bytes() == text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("name", ["m", "m:7b", "me/m", "host.example/me/m:q4_K_M", "A.b_c-d"])
def test_names(name: str) -> None:
    """As Ollama has them."""
    check_alias_name(name)


@pytest.mark.parametrize("name", ["", "/m", "../m", "a/../b", "a/b/c/d", "m:", "m:a:b", "m\n", "ü", "a b", "x" * 129])
def test_names_that_are_none(name: str) -> None:
    """Nothing that could be a path, or be taken for two names."""
    with pytest.raises(AliasError):
        check_alias_name(name)


def test_derive() -> None:
    """What is said anew counts; the rest is inherited, and the model stays."""
    base = Alias(
        model="demo",
        system="old",
        parameters={"temperature": 0.1, "top_k": 3},
        messages=({"role": "user", "content": "a"},),
        quantization="8bit",
        created_at=5.0,
    )
    derived = base.derive(parameters={"temperature": 0.9}, messages=[], license="free")

    assert "old" == derived.system
    assert {"temperature": 0.9, "top_k": 3} == derived.parameters
    assert base.messages == derived.messages
    assert ("demo", "8bit", "free", 0.0) == (derived.model, derived.quantization, derived.license, derived.created_at)
    assert "new" == base.derive(system="new").system
    with pytest.raises(ValueError, match="unknown parameter"):
        base.derive(parameters={"heat": 1})
    with pytest.raises(ValidationError, match="a message needs a role"):
        base.derive(messages=[{"role": "user", "content": ["parts"]}])


def test_the_file_is_for_people(tmp_path: Path) -> None:
    """Plain JSON, sorted, without what was not said."""
    home = Home(tmp_path)
    aliases = Aliases(home)
    aliases.put("b", Alias(model="demo", created_at=1.0))
    aliases.put("a", Alias(model="demo", system="Grüß dich", created_at=2.0))

    assert {
        "a": {"model": "demo", "system": "Grüß dich", "created_at": 2.0},
        "b": {"model": "demo", "created_at": 1.0},
    } == json.loads(home.aliases.read_text(encoding="utf-8"))
    assert "Grüß" in home.aliases.read_text(encoding="utf-8")
