"""`hugind config`."""

from __future__ import annotations

import json
import stat

from tests.cli.hugind_command import HugindCommand
from tests.engines import DEMO_MODEL

GOOD = f"model:\n  model_path: {DEMO_MODEL}\n"


def test_check_names_file_line_key_and_the_nearest(hugind: HugindCommand) -> None:
    """A misspelt key is told by file, line and key, with the one that was meant."""
    path = hugind.write_config("bad", GOOD + "context:\n  ctx_sise: 1\n")
    done = hugind("config", "check", "bad")

    assert done.returncode == 1
    assert done.stderr == f"error: {path}:4: context.ctx_sise: unknown key\nhint:  did you mean 'ctx_size'?\n"


def test_check_as_json(hugind: HugindCommand) -> None:
    """Programs get the same as an object, and the same exit code."""
    hugind.write_config("bad", GOOD + "context:\n  ctx_size: 1\n")
    done = hugind("config", "check", "bad", "--json")
    about = json.loads(done.stdout)

    assert done.returncode == 1
    assert (about["ok"], about["line"], about["key"]) == (False, 4, "context.ctx_size")


def test_check_looks_for_the_files(hugind: HugindCommand) -> None:
    """A config whose model is not there is not good."""
    hugind.write_config("lost", "model:\n  model_path: nowhere.gguf\n")
    done = hugind("config", "check", "lost")

    assert done.returncode == 1
    assert "model.model_path: there is no file" in done.stderr
    assert str(hugind.home / "nowhere.gguf") in done.stderr


def test_check_takes_a_file(hugind: HugindCommand) -> None:
    """A config can be checked before it is put into the home."""
    path = hugind.home.parent / "elsewhere.yml"
    path.write_text(GOOD)

    assert hugind("config", "check", str(path)).returncode == 0


def test_schema_is_json_schema(hugind: HugindCommand) -> None:
    """`config schema` prints a JSON Schema with every section."""
    schema = json.loads(hugind("config", "schema").stdout)

    assert {"model", "device", "context", "sampling", "chat", "server", "sessions", "limits", "engine"} == set(
        schema["properties"]
    )


def test_list_show_remove(hugind: HugindCommand) -> None:
    """Configs can be listed, shown and removed; a broken one is listed with its problem."""
    path = hugind.write_config("one", GOOD)
    hugind.write_config("two", "model: 1\n")
    listed = hugind.json("config", "list")
    shown = hugind("config", "show", "one").stdout
    whole = hugind.json("config", "show", "one")
    refused = hugind("config", "remove", "one")
    removed = hugind("config", "remove", "one", "--yes")

    assert [(row["config"], row["problem"] is None) for row in listed] == [("one", True), ("two", False)]
    assert shown == GOOD
    assert whole["context"]["ctx_size"] == 4096
    assert refused.returncode == 1, "without a terminal and --yes nothing is deleted"
    assert removed.returncode == 0
    assert not path.exists()


def test_show_masks_the_key(hugind: HugindCommand) -> None:
    """An API key is not printed with --json."""
    hugind.write_config("one", GOOD + "server:\n  api_key: verysecret\n")

    assert "verysecret" not in hugind("config", "show", "one", "--json").stdout


def test_remove_takes_no_file(hugind: HugindCommand) -> None:
    """`remove` deletes configs of the home, never a file that was named."""
    path = hugind.write_config("one", GOOD)
    done = hugind("config", "remove", str(path), "--yes")

    assert done.returncode == 1
    assert path.exists()


def test_defaults_are_kept_private(hugind: HugindCommand) -> None:
    """A token is stored 0600 and shown masked; a library that holds no llama-server is refused."""
    hugind("config", "defaults", "--hf-token", "hf_secret")
    settings = hugind.home / "settings.yml"
    shown = hugind("config", "defaults").stdout
    library = hugind.home / "libllama.so"
    library.write_bytes(b"")
    refused = hugind("config", "defaults", "--lib", str(library))

    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert "hf_secret" in settings.read_text()
    assert "hf_secret" not in shown
    assert refused.returncode == 1
    assert "there is no llama-server beside it" in refused.stderr
