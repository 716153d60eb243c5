"""Settings of the machine, and what the environment says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Settings, load_settings, read_environment, save_settings, worker_environment


def test_no_file(home: Home) -> None:
    """Without a file nothing is set."""
    assert load_settings(home) == Settings()


def test_save_merges(home: Home) -> None:
    """A change keeps what else is set; None takes a key away."""
    save_settings(home, {"lib": "/opt/llama", "port": 9000})
    save_settings(home, {"hf_token": "hf_x", "port": None})
    settings = load_settings(home)

    assert settings == Settings(lib="/opt/llama", hf_token=SecretStr("hf_x"))


def test_save_is_private(home: Home) -> None:
    """The file holds a token: mode 0600, and not shown."""
    settings = save_settings(home, {"hf_token": "hf_secret"})

    assert stat.S_IMODE(home.settings.stat().st_mode) == 0o600
    assert "hf_secret" not in repr(settings)
    assert "hf_secret" in home.settings.read_text()


@pytest.mark.parametrize(("key", "value"), [("port", 70000), ("port", "many"), ("lob", "x")])
def test_save_of_what_does_not_fit(home: Home, key: str, value: str | int) -> None:
    """A change that does not fit is refused by key, and the file stays as it was."""
    save_settings(home, {"lib": "/opt/llama"})
    before = home.settings.read_bytes()
    with pytest.raises(ConfigError) as caught:
        save_settings(home, {key: value})

    assert caught.value.key == key
    assert home.settings.read_bytes() == before


def test_save_over_a_broken_file(home: Home) -> None:
    """A file that cannot be read is not overwritten."""
    home.settings.write_text("lib: [")
    with pytest.raises(ConfigError, match=r"settings\.yml:\d+: not valid YAML"):
        save_settings(home, {"port": 1})

    assert home.settings.read_text() == "lib: ["


def test_frozen() -> None:
    """Settings do not change."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # the point


def test_environment() -> None:
    """Each variable is read, with blanks around it taken off."""
    environment = read_environment(
        {
            "HUGIND_HOME": "/srv/hugind",
            "LLAMA_API_KEY": " key ",
            "LLAMA_SERVER_HOST": "0.0.0.0",  # noqa: S104 - a value
            "LLAMA_SERVER_PORT": "8001",
        }
    )

    assert environment.home == Home(Path("/srv/hugind"))
    assert environment.api_key == SecretStr("key")
    assert (environment.host, environment.port) == ("0.0.0.0", 8001)  # noqa: S104 - a value
    assert "key" not in repr(environment.api_key)


def test_empty_environment() -> None:
    """Empty counts as not set."""
    environment = read_environment(dict.fromkeys(("HUGIND_HOME", "LLAMA_API_KEY", "LLAMA_SERVER_PORT"), " "))

    assert environment.home == Home(Path("~/.hugind").expanduser())
    assert (environment.api_key, environment.host, environment.port) == (None, None, None)


@pytest.mark.parametrize("port", ["http", "-1", "65536", "80.5"])
def test_port_that_is_none(port: str) -> None:
    """A port that cannot be one is named."""
    with pytest.raises(ConfigError, match=f"LLAMA_SERVER_PORT must be a port number, not '{port}'"):
        read_environment({"LLAMA_SERVER_PORT": port})


def test_relative_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative home is that of now, wherever the process goes later."""
    monkeypatch.chdir(tmp_path)

    assert read_environment({"HUGIND_HOME": "here"}).home == Home(tmp_path / "here")


def test_worker_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sees what it needs; not our keys, and nothing that llama-server would read as a flag."""
    for name in ("LLAMA_API_KEY", "LLAMA_ARG_MODEL", "LLAMA_SERVER_HOST", "HF_TOKEN", "POSTGRES_AUTH_PASSWORD"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("PATH", "/bin")
    environment = worker_environment({"OMP_NUM_THREADS": "2"}, "of-this-spawn")

    assert environment["LLAMA_API_KEY"] == "of-this-spawn"
    assert "ours" not in environment.values()
    assert environment["PATH"] == "/bin"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GGML_NO_BACKTRACE"] == "1"


def test_worker_key_cannot_be_replaced() -> None:
    """A config's `env` does not take the key of the spawn."""
    assert worker_environment({"LLAMA_API_KEY": "theirs"}, "ours")["LLAMA_API_KEY"] == "ours"
