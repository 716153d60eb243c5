"""The schema of `settings.yml`, and the one place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home, write_private
from hugind.supervisor.yamlfile import load_model, parse_model


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AccessSettings(_Section):
    """How users show who they are."""

    path_keys: bool = Field(
        False, description="Take keys from the path, /k/KEY/v1/..., for clients that can send no header."
    )
    stale_s: float = Field(
        900, ge=0, description="While the database is away, keys that were known are good for so many seconds."
    )


class LimitSettings(_Section):
    """What a user may ask for who has no limits of their own. 0: no limit."""

    requests: int = Field(60, ge=0, description="Requests in any `window_s` seconds.")
    window_s: float = Field(60, gt=0, le=86400, description="See `requests`.")
    tokens_per_minute: int = Field(0, ge=0, description="Tokens in any minute, of prompts and answers.")
    tokens_per_day: int = Field(0, ge=0, description="Tokens in any 24 hours.")
    concurrent: int = Field(0, ge=0, description="Turns at the same time, waiting ones included.")
    queued: int = Field(0, ge=0, description="Of these, so many may wait for a slot of one engine.")
    store: Literal["memory", "database"] = Field(
        "memory", description="Where it is counted: `database` is exact where several gateways share one."
    )


class UsageSettings(_Section):
    """What is kept of requests."""

    record_content: bool = Field(False, description="Keep what was asked and answered, too.")
    retention_days: int = Field(0, ge=0, description="Rows are removed after so many days; 0: never. Sums stay.")


class ResponseSettings(_Section):
    """What is kept of the Responses API: answers that clients go on from, and conversations."""

    retention_days: int = Field(
        30,
        ge=0,
        description="Responses are removed after so many days, conversations when unused for so long; 0: never.",
    )


class GroupSettings(_Section):
    """Configs that may not all be loaded at the same time."""

    members: tuple[str, ...] = Field((), description="Configs by name.")
    at_most: int = Field(1, ge=1, description="So many of the members may be loaded at the same time.")
    alone: bool = Field(False, description="While a member is loaded, nothing else may be.")


class FleetSettings(_Section):
    """Which models are loaded, where there is not room for all."""

    max_resident_models: int = Field(0, ge=0, description="So many may be loaded at the same time; 0: what fits.")
    model_ttl_s: float | None = Field(
        None,
        ge=-1,
        description="Idle seconds after which a model is unloaded; -1: never. None: `hugind serve` says 300, "
        "`hugind server start` never.",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="Memory that models may take; none: nine tenths of what was free at the start."
    )
    vram_gb: float | None = Field(None, gt=0, description="The same on GPUs.")
    preload: tuple[str, ...] = Field((), description="Loaded at the start, as far as they fit, in this order.")
    pinned: tuple[str, ...] = Field((), description="Once loaded they stay.")
    groups: dict[str, GroupSettings] = Field({}, description="Which may not be loaded together, by a name of yours.")
    watch: bool | None = Field(
        None,
        description="Reload by itself when configs, these settings or the library change. None: `hugind serve` does, "
        "`hugind server start` does not.",
    )


class LibrarySettings(_Section):
    """How `hugind serve` runs a model of the library that has no config of its own."""

    ctx_size: int = Field(8192, ge=64, description="Context of one slot; less where the model was made for less.")
    max_slots: int = Field(2, ge=1, le=256, description="Slots of its worker.")


class Settings(_Section):
    """Defaults of this machine, in `<home>/settings.yml`. Frozen; unknown keys are refused."""

    lib: str | None = Field(None, description="The llama-server to use, a folder that holds one, or a libllama.")
    hf_token: SecretStr | None = Field(None, description="Token for gated repositories of the Hugging Face Hub.")
    host: str | None = Field(None, description="Address of the gateway where neither flag nor config says.")
    port: int | None = Field(
        None, ge=0, le=65535, description="Port of the gateway where neither flag nor config says."
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL for users and usage, postgresql://user:password@host/name; none: <home>/hugind.db.",
    )
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    usage: UsageSettings = UsageSettings()
    responses: ResponseSettings = ResponseSettings()
    fleet: FleetSettings = FleetSettings()
    library: LibrarySettings = LibrarySettings()
    origins: tuple[str, ...] = Field(
        (),
        description="Web pages that may ask, as `https://chat.example.org`; `*` stands for any part. See docs/api.md.",
    )


@dataclass(frozen=True)
class Environment:
    """What the environment says, read once at the start of a command."""

    home: Home
    api_key: SecretStr | None
    host: str | None
    port: int | None
    needs_key: bool = False
    """LLAMA_PROXY_ENABLED: nobody is served without a key, not even on this machine."""
    rate_limit: int | None = None
    """Requests of a user in `rate_window_s`; 0: no limit. Beats the settings."""
    rate_window_s: float | None = None
    database_url: SecretStr | None = None
    ollama_host: str | None = None
    """OLLAMA_HOST as it was given: an address to listen on, or the URL of a server to talk to."""
    ollama_port: int | None = None
    """OLLAMA_LOCAL_PORT: where `hugind serve` listens, and commands ask."""
    origins: tuple[str, ...] = ()
    """OLLAMA_ORIGINS, beside those of the settings."""
    keep_alive: str | None = None
    """OLLAMA_KEEP_ALIVE as it was given: how long idle models stay loaded."""
    max_loaded: int | None = None
    """OLLAMA_MAX_LOADED_MODELS; 0: as many as fit."""
    hf_token: SecretStr | None = None
    """HF_TOKEN; beats the settings."""
    client_key: SecretStr | None = None
    """HUGIND_API_KEY: as whom commands ask a server."""
    ollama_key: SecretStr | None = None
    """OLLAMA_API_KEY: the same, where nothing else says."""


DEFAULT_PROXY_PORT = 8001


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """What `HUGIND_HOME`, `HUGIND_API_KEY`, `DATABASE_URL`, `POSTGRES_AUTH_*`, `LLAMA_*`, `OLLAMA_*`, `HF_TOKEN` say.

    With `LLAMA_PROXY_ENABLED` the gateway listens on `LLAMA_PROXY_HOST` (else `LLAMA_SERVER_HOST`) and
    `LLAMA_PROXY_PORT` (8001). Empty counts as not set.

    Raises:
        ConfigError: a variable cannot be used.
    """
    given = _Given(os.environ if variables is None else variables)
    is_proxy = given.switch("LLAMA_PROXY_ENABLED")
    host, port = given.text("LLAMA_SERVER_HOST"), given.number("LLAMA_SERVER_PORT", "a port number", 65535)
    if is_proxy:
        host = given.text("LLAMA_PROXY_HOST") or host
        port = given.number("LLAMA_PROXY_PORT", "a port number", 65535)
        port = DEFAULT_PROXY_PORT if port is None else port
    window_s = given.number("LLAMA_PROXY_RATE_WINDOW_SECONDS", "a number of seconds", 86400)
    if window_s == 0:
        raise ConfigError("LLAMA_PROXY_RATE_WINDOW_SECONDS must be at least 1")
    database_url = given.text("DATABASE_URL") or _postgres_url(given)
    return Environment(
        home=Home(Path(given.text("HUGIND_HOME") or "~/.hugind").expanduser().absolute()),
        api_key=given.secret("LLAMA_API_KEY"),
        host=host,
        port=port,
        needs_key=is_proxy,
        rate_limit=given.number("LLAMA_PROXY_RATE_LIMIT", "a number of requests", 10**9),
        rate_window_s=window_s,
        database_url=SecretStr(database_url) if database_url else None,
        ollama_host=given.text("OLLAMA_HOST"),
        ollama_port=given.number("OLLAMA_LOCAL_PORT", "a port number", 65535),
        origins=tuple(part.strip() for part in (given.text("OLLAMA_ORIGINS") or "").split(",") if part.strip()),
        keep_alive=given.text("OLLAMA_KEEP_ALIVE"),
        max_loaded=given.number("OLLAMA_MAX_LOADED_MODELS", "a number of models", 10**6),
        hf_token=given.secret("HF_TOKEN"),
        client_key=given.secret("HUGIND_API_KEY"),
        ollama_key=given.secret("OLLAMA_API_KEY"),
    )


@dataclass(frozen=True)
class _Given:
    """Environment variables, read carefully."""

    variables: Mapping[str, str]

    def text(self, name: str) -> str | None:
        return self.variables.get(name, "").strip() or None

    def secret(self, name: str) -> SecretStr | None:
        text = self.text(name)
        return SecretStr(text) if text else None

    def number(self, name: str, what: str, most: int) -> int | None:
        text = self.text(name)
        if text is not None and not (text.isdecimal() and int(text) <= most):
            raise ConfigError(f"{name} must be {what}, not {text!r}")
        return None if text is None else int(text)

    def switch(self, name: str) -> bool:
        text = (self.text(name) or "0").lower()
        if text not in ("0", "1", "true", "false", "yes", "no", "on", "off"):
            raise ConfigError(f"{name} must be 1 or 0, not {text!r}")
        return text in ("1", "true", "yes", "on")


def _postgres_url(given: _Given) -> str | None:
    """From `POSTGRES_AUTH_HOST`, `_PORT`, `_DB`, `_USER`, `_PASSWORD` and `_SSLMODE`, as libpq's URIs are written."""
    parts = {
        name: given.text(f"POSTGRES_AUTH_{name}") for name in ("HOST", "PORT", "DB", "USER", "PASSWORD", "SSLMODE")
    }
    if not any(parts.values()):
        return None
    host, name, user = parts["HOST"], parts["DB"], parts["USER"]
    if not host or not name or not user:
        raise ConfigError("POSTGRES_AUTH_HOST, POSTGRES_AUTH_DB and POSTGRES_AUTH_USER are needed together")
    port = given.number("POSTGRES_AUTH_PORT", "a port number", 65535) or 5432
    who = quote(user, safe="") + (f":{quote(parts['PASSWORD'], safe='')}" if parts["PASSWORD"] else "")
    query = {"sslmode": parts["SSLMODE"]} if parts["SSLMODE"] else {}
    if host.startswith("/"):  # a folder with a UNIX socket
        address, query = "", {"host": host, "port": str(port), **query}
    else:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"postgresql://{who}@{address}/{quote(name, safe='')}?{urlencode(query)}".rstrip("?")


_WORKER_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "VIRTUAL_ENV", "PYTHONPATH"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
)
_WORKER_PREFIXES = ("CUDA_", "NVIDIA_", "GGML_", "HIP_", "ROCR_", "HSA_", "VK_", "OMP_", "MTL_", "HUGIND_EMBEDDED_")


def worker_environment(extra: Mapping[str, str], api_key: str) -> dict[str, str]:
    """What a worker may see of ours, with `extra` from its config and the key of this spawn.

    Not `LLAMA_*`: llama-server reads those as flags, and one of them is the gateway's own key.
    """
    kept = {k: v for k, v in os.environ.items() if k in _WORKER_VARIABLES or k.startswith(_WORKER_PREFIXES)}
    return {**kept, "GGML_NO_BACKTRACE": "1", **extra, "LLAMA_API_KEY": api_key}


def load_settings(home: Home) -> Settings:
    """The settings of `home`; all unset where there is no file. Blocks on the disk."""
    return load_model(home.settings, Settings) if home.settings.exists() else Settings()


def save_settings(home: Home, changes: Mapping[str, str | int | None]) -> Settings:
    """Merge `changes` into `settings.yml` (mode 0600, renamed into place). Blocks on the disk.

    Raises:
        ConfigError: the file as it is cannot be read, or a value does not fit.
    """
    merged = {**load_settings(home).model_dump(exclude_none=True, exclude_defaults=True), **changes}
    plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in merged.items() if v is not None}
    text = yaml.safe_dump(plain, sort_keys=True)
    settings = parse_model(text, Settings, home.settings)
    home.create()
    write_private(home.settings, text)
    return settings
