"""The hugind home and every path under it.

Loading this module touches nothing on disk; `Home.create()` makes the folders that must be private.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

CONFIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A config's name is a file name, a model id and a part of log file names: keep it plain."""

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


@dataclass(frozen=True)
class Home:
    """The folder that holds configs, settings, models, logs and what runs. Lives as long as the process."""

    root: Path

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def settings(self) -> Path:
        return self.root / "settings.yml"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """One folder for each running gateway, named by its pid: `gateway.json`, worker records, sockets."""
        return self.root / "run"

    @property
    def slots(self) -> Path:
        """Where workers may write slot files (`--slot-save-path`)."""
        return self.root / "slots"

    @property
    def sessions(self) -> Path:
        """What is kept of conversations, a folder for each engine."""
        return self.root / "sessions"

    @property
    def session_keys(self) -> Path:
        """Keys of encrypted sessions, a file for each owner: apart, so that a backup can leave them out."""
        return self.root / "session_keys"

    @property
    def database(self) -> Path:
        """Users, keys and usage, where no PostgreSQL is named."""
        return self.root / "hugind.db"

    @property
    def usage(self) -> Path:
        """Usage that is not in the database yet, a folder for each gateway."""
        return self.root / "usage"

    @property
    def aliases(self) -> Path:
        """Names of people's own for models, with their settings."""
        return self.root / "aliases.json"

    @property
    def blobs(self) -> Path:
        """Files that clients sent for models yet to be made, by their SHA-256."""
        return self.root / "blobs"

    def config(self, name: str) -> Path:
        """The file of the config `name`.

        Raises:
            ValueError: the name could leave the folder or would not do as a model id.
        """
        if not CONFIG_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a config name: letters, digits, '.', '_' and '-', at most 64")
        return self.configs / f"{name}.yml"

    def worker_log(self, name: str, index: int) -> Path:
        """Where the output of a worker is kept; older parts carry a number behind it."""
        return self.logs / f"{name}-{index}.log"

    def config_names(self) -> list[str]:
        """Names of the configs in the home, sorted."""
        return sorted(p.stem for p in self.configs.glob("*.yml") if CONFIG_NAME.fullmatch(p.stem))

    def create(self) -> None:
        """Make the private folders. Blocks on the disk."""
        for folder in (
            self.root,
            self.configs,
            self.logs,
            self.run,
            self.slots,
            self.sessions,
            self.session_keys,
            self.usage,
            self.blobs,
        ):
            folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        for private in (self.run, self.logs, self.slots, self.sessions, self.session_keys, self.usage, self.blobs):
            private.chmod(DIRECTORY_MODE)


def sync_folder(path: Path) -> None:
    """What was renamed in a folder stays so after a power cut. Blocks on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` with mode 0600: under a temporary name, then renamed. Blocks on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
