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


def test_the_proxy_has_its_own_port() -> None:
    given = read_environment(
        {"LLAMA_PROXY_ENABLED": "1", "LLAMA_SERVER_HOST": "127.0.0.1", "LLAMA_SERVER_PORT": "8000"}
    )
    assert (given.needs_key, given.host, given.port) == (True, "127.0.0.1", 8001)
    given = read_environment({"LLAMA_PROXY_ENABLED": "1", "LLAMA_PROXY_HOST": "::1", "LLAMA_PROXY_PORT": "9000"})
    assert (given.host, given.port) == ("::1", 9000)
    given = read_environment({"LLAMA_PROXY_ENABLED": "0", "LLAMA_PROXY_PORT": "9000", "LLAMA_SERVER_PORT": "8000"})
    assert (given.needs_key, given.port) == (False, 8000)


def test_the_rate_limit_of_the_environment() -> None:
    given = read_environment({"LLAMA_PROXY_RATE_LIMIT": "5", "LLAMA_PROXY_RATE_WINDOW_SECONDS": "10"})
    assert (given.rate_limit, given.rate_window_s) == (5, 10)


@pytest.mark.parametrize(
    "variables",
    [
        {"LLAMA_PROXY_ENABLED": "maybe"},
        {"LLAMA_PROXY_RATE_LIMIT": "-1"},
        {"LLAMA_PROXY_RATE_WINDOW_SECONDS": "0"},
        {"LLAMA_PROXY_ENABLED": "1", "LLAMA_PROXY_PORT": "70000"},
        {"POSTGRES_AUTH_HOST": "db"},
        {"POSTGRES_AUTH_HOST": "db", "POSTGRES_AUTH_DB": "x", "POSTGRES_AUTH_USER": "u", "POSTGRES_AUTH_PORT": "no"},
    ],
)
def test_variables_that_cannot_be_used(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=list(variables)[-1][:13]):
        read_environment(variables)


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"HOST": "db", "DB": "hugind", "USER": "u"}, "postgresql://u@db:5432/hugind"),
        (
            {"HOST": "::1", "PORT": "5433", "DB": "h", "USER": "u@x", "PASSWORD": "p:/@ ?", "SSLMODE": "require"},
            "postgresql://u%40x:p%3A%2F%40%20%3F@[::1]:5433/h?sslmode=require",
        ),
        ({"HOST": "/run/pg", "DB": "h", "USER": "u"}, "postgresql://u@/h?host=%2Frun%2Fpg&port=5432"),
    ],
)
def test_the_database_of_the_environment(variables: dict[str, str], url: str) -> None:
    given = read_environment({f"POSTGRES_AUTH_{name}": value for name, value in variables.items()})
    assert given.database_url is not None
    assert given.database_url.get_secret_value() == url


def test_one_address_beats_its_parts() -> None:
    given = read_environment({"DATABASE_URL": "postgresql://a/b", "POSTGRES_AUTH_HOST": "db"})
    assert given.database_url is not None
    assert given.database_url.get_secret_value() == "postgresql://a/b"


def test_what_ollama_and_the_hub_read() -> None:
    given = read_environment(
        {
            "OLLAMA_HOST": " 0.0.0.0 ",
            "OLLAMA_LOCAL_PORT": "11500",
            "OLLAMA_ORIGINS": "https://a.example, app://*,",
            "OLLAMA_KEEP_ALIVE": "15m",
            "OLLAMA_MAX_LOADED_MODELS": "0",
            "OLLAMA_API_KEY": "theirs",
            "HUGIND_API_KEY": "mine",
            "HF_TOKEN": "hf_x",
        }
    )

    assert (given.ollama_host, given.ollama_port) == ("0.0.0.0", 11500)  # noqa: S104 - read, not listened on
    assert (given.origins, given.keep_alive, given.max_loaded) == (("https://a.example", "app://*"), "15m", 0)
    secrets = (given.ollama_key, given.client_key, given.hf_token)
    assert [secret and secret.get_secret_value() for secret in secrets] == ["theirs", "mine", "hf_x"]
    for secret in ("theirs", "mine", "hf_x"):
        assert secret not in repr(given)


def test_unset_where_nothing_is_said() -> None:
    given = read_environment({"OLLAMA_HOST": "", "OLLAMA_ORIGINS": " "})

    assert (given.ollama_host, given.origins, given.max_loaded, given.client_key) == (None, (), None, None)
    with pytest.raises(ConfigError, match="OLLAMA_LOCAL_PORT"):
        read_environment({"OLLAMA_LOCAL_PORT": "http"})
