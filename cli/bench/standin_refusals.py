"""What llama-server answers to a request that it does not take."""

from __future__ import annotations

from typing import Any

import orjson

from hugind.cli.bench.standin_replies import error_body


class Refusal(Exception):  # noqa: N818 - an answer, not a mishap
    """A request that llama-server answers with an error."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, kind, message, **more)


def invalid(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)


def unsupported(what: str) -> Refusal:
    return Refusal(501, "not_supported_error", f"This server does not support {what}")


def parse_body(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"[json.exception.parse_error.101] parse error at line 1: {error}") from None
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object")
    return body
