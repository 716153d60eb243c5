"""What can go wrong below the gateway.

HugindError                 a failure that a person can act on: message and hint
├── ConfigError             a config or settings file is wrong: file, line and key
├── BinaryError             no usable llama-server
├── EngineStartError        a worker refused to start: bad model, bad flag, no memory, busy port
├── WorkerUnreachable       no connection to a worker, or no sensible answer to a control request
└── StreamCut               a worker's answer ended before it was complete
"""

from __future__ import annotations

from pathlib import Path


class HugindError(Exception):
    """A failure with a sentence for a person and, where there is one, the command to try next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(HugindError):
    """A YAML file that cannot be used. `str()` is `file:line: key: what is wrong`."""

    def __init__(
        self,
        problem: str,
        *,
        path: Path | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{key}: {problem}" if key else f"{where}{problem}", hint=hint)
        self.problem = problem
        self.path = path
        self.line = line
        self.key = key


class BinaryError(HugindError):
    """There is no llama-server where one was promised, or it does not run."""


class EngineStartError(HugindError):
    """A worker ended before it was ready. The message holds the engine's own last words."""


class WorkerUnreachable(HugindError):  # noqa: N818 - a state of the worker, read as such where it is caught
    """A control request got no answer, or one that makes no sense."""


class StreamCut(HugindError):  # noqa: N818 - what happened, read as such where it is caught
    """The connection to a worker ended in the middle of an answer: it died, or we ended it."""
