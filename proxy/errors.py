"""What a client can cause or see. Rendered by the dialect of the route, never in a route.

ApiError                    a status, a message and what a program needs to react
├── ClientGone              nobody is left to answer
└── StreamBroken            the engine ended in the middle of an answer
"""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A refusal or a failure with an HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        """A word for programs, such as `model_not_found`."""
        self.kind = kind
        """The dialect's `type`, where the engine or the route knows better than the status."""
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
        """Further headers that the status asks for, such as `allow`."""


class ClientGone(ApiError):  # noqa: N818 - named for what happened
    """The client closed its connection. 499 is for the log only."""

    def __init__(self) -> None:
        super().__init__(499, "the client went away", code="client_gone")


class StreamBroken(ApiError):  # noqa: N818 - named for what happened
    """The worker ended, or was ended, before its answer was complete."""

    def __init__(self, why: str) -> None:
        super().__init__(502, f"the engine ended in the middle of the answer: {why}", code="engine_died")
