"""What can be wrong with a change of users and keys.

AccountError                it was not made
├── NotFound                there is no such user or key
├── Conflict                it does not go with what is there
└── Invalid                 a value that cannot be used
"""

from __future__ import annotations

from hugind.supervisor.errors import HugindError


class AccountError(HugindError):
    """A change that was not made; nothing of it was."""

    def __init__(self, message: str, *, code: str, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """A word for programs, such as `user_not_found`."""
        self.param = param
        """The field that it is about."""


class NotFound(AccountError):  # noqa: N818 - named for what happened
    """No user has this name, or no key this id."""


class Conflict(AccountError):  # noqa: N818 - named for what happened
    """The name is taken, the key is revoked."""


class Invalid(AccountError):  # noqa: N818 - named for what it is
    """A value that cannot be used."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}", code="invalid_value", param=param)
