"""What a person wants started: the options of `hugind serve` and `hugind server start`, and their words again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback a key is required.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
Binary = Annotated[
    str | None,
    typer.Option(
        "--binary", "--lib", help="A llama-server, a folder that holds one, a libllama beside one, or 'embedded'."
    ),
]
MaxResident = Annotated[
    int | None,
    typer.Option("--max-resident-models", metavar="N", min=0, help="So many loaded at the same time; 0: what fits."),
]
ModelTtl = Annotated[
    str | None,
    typer.Option("--model-ttl", metavar="S", help="Idle seconds, or 15m, until a model is unloaded; -1: never."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")]
Check = Annotated[bool, typer.Option("--check", help="Only say whether it could start.")]
AsChild = Annotated[bool, typer.Option("--as-child", hidden=True)]

NEVER_S = -1.0
CONFIG_SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True)
class Wanted:
    """What is to be started. None: not said."""

    names: tuple[str, ...] = ()
    """Configs, files, models of the library."""
    autoload: bool = False
    is_on_demand: bool = False
    """`hugind serve`."""
    host: str | None = None
    port: int | None = None
    binary: str | None = None
    max_resident: int | None = None
    model_ttl_s: float | None = None
    """Negative: never unloaded."""

    def arguments(self) -> list[str]:
        """The arguments of `hugind` that start the same again, from whatever folder."""
        given = (
            ("--host", self.host),
            ("--port", self.port),
            ("--binary", None if self.binary is None else _from_anywhere(self.binary)),
            ("--max-resident-models", self.max_resident),
            ("--model-ttl", None if self.model_ttl_s is None else f"{self.model_ttl_s:.15g}"),
        )
        flags = [part for flag, value in given if value is not None for part in (flag, str(value))]
        if self.is_on_demand:
            return ["serve", *flags]
        names = [_from_anywhere(name) if is_config_file(name) else name for name in self.names]
        return ["server", "start", *names, *(["--autoload"] if self.autoload else []), *flags]


def is_config_file(name: str) -> bool:
    """Whether a config is named by its file: `user/repo` is a model unless there is such a file."""
    return name.endswith(CONFIG_SUFFIXES) or ("/" in name and Path(name).expanduser().is_file())


def read_ttl(text: str | None) -> float | None:
    """Seconds of --model-ttl, negative for never; None where it was not given.

    Raises:
        typer.BadParameter: it is neither a number nor a duration.
    """
    if text is None:
        return None
    from hugind.supervisor.keep_alive import FOREVER, parse_environment

    try:
        seconds = parse_environment(text)
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is neither a number of seconds nor a duration such as 15m or 1h30m"
        ) from None
    return NEVER_S if seconds == FOREVER else seconds


def _from_anywhere(word: str) -> str:
    """A path made absolute; a word such as `embedded` as it is."""
    is_path = "/" in word or word.endswith(CONFIG_SUFFIXES)
    return str(Path(word).expanduser().absolute()) if is_path else word
