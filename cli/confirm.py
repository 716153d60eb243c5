"""Ask before something that cannot be undone."""

from __future__ import annotations

import sys

from hugind.cli import output
from hugind.supervisor.errors import HugindError


def confirm(question: str, *, is_sure: bool, otherwise: str) -> None:
    """Return when a person agrees, or is sure already. Without a terminal nobody can.

    Raises:
        HugindError: nobody agreed; `otherwise` says what was left as it is.
    """
    if not is_sure and not (sys.stdin.isatty() and output.ask(question)):
        raise HugindError(otherwise, hint="--yes does it without asking")
