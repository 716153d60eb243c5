"""The schema of `settings.yml`, and the one place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home, write_private
from hugind.supervisor.yamlfile import load_model, parse_model


class Settings(BaseModel):
    """Defaults of this machine, in `<home>/settings.yml`. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lib: str | None = Field(None, description="The llama-server to use, a folder that holds one, or a libllama.")
    hf_token: SecretStr | None = Field(None, description="Token for gated repositories of the Hugging Face Hub.")
    host: str | None = Field(None, description="Address of the gateway where neither flag nor config says.")
    port: int | None = Field(
        None, ge=0, le=65535, description="Port of the gateway where neither flag nor config says."
    )


@dataclass(frozen=True)
class Environment:
    """What the environment says, read once at the start of a command."""

    home: Home
    api_key: SecretStr | None
    host: str | None
    port: int | None


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """`HUGIND_HOME`, `LLAMA_API_KEY`, `LLAMA_SERVER_HOST`, `LLAMA_SERVER_PORT`. Empty counts as not set.

    Raises:
        ConfigError: a variable cannot be used.
    """
    given = os.environ if variables is None else variables
    key = given.get("LLAMA_API_KEY", "").strip()
    port = given.get("LLAMA_SERVER_PORT", "").strip()
    if port and not (port.isdecimal() and int(port) <= 65535):
        raise ConfigError(f"LLAMA_SERVER_PORT must be a port number, not {port!r}")
    root = Path(given.get("HUGIND_HOME", "").strip() or "~/.hugind").expanduser().absolute()
    return Environment(
        home=Home(root),
        api_key=SecretStr(key) if key else None,
        host=given.get("LLAMA_SERVER_HOST", "").strip() or None,
        port=int(port) if port else None,
    )


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
    merged = {**load_settings(home).model_dump(exclude_none=True), **changes}
    plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in merged.items() if v is not None}
    text = yaml.safe_dump(plain, sort_keys=True)
    settings = parse_model(text, Settings, home.settings)
    home.create()
    write_private(home.settings, text)
    return settings
