"""The aliases of a gateway that serves: a file that was spoiled by hand must not take away what people use."""

from __future__ import annotations

import logging

from hugind.supervisor.aliases import Alias, Aliases
from hugind.supervisor.errors import ConfigError
from hugind.supervisor.paths import Home

logger = logging.getLogger(__name__)


class ServedAliases(Aliases):
    """As `Aliases`; while their file cannot be read, they are as they were before, and the log says why."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self._last: dict[str, Alias] = {}
        self._complaint: str | None = None

    def all(self) -> dict[str, Alias]:
        """Every alias by its name, in the order of names."""
        try:
            self._last = super().all()
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("aliases stay as they were: %s", error)  # noqa: TRY400 - a sentence says it
        else:
            self._complaint = None
        return dict(self._last)
