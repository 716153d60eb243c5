"""What can be wrong with the database.

DatabaseError               it cannot be used as it is; a person must do something
└── DatabaseAway            it cannot be reached just now; it may come back
"""

from __future__ import annotations

from hugind.supervisor.errors import HugindError


class DatabaseError(HugindError):
    """It cannot be used: not initialised, too old, too new, not what its address says."""


class DatabaseAway(DatabaseError):  # noqa: N818 - named for what happened
    """It cannot be reached, or not in time."""
