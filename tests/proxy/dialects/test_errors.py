"""What translation can refuse, and what an engine can say when it breaks off."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError, EngineStreamError, raise_if_error


def test_dialect_error_names_the_field() -> None:
    """The field and the reason travel apart, for dialects that render both."""
    error = DialectError("no", "messages.0")

    assert (error.message, error.param, str(error)) == ("no", "messages.0", "no")


@pytest.mark.parametrize(
    ("payload", "status"),
    [({"code": 400}, 400), ({"code": 503}, 503), ({"code": "rate"}, 502), ({"code": 7}, 502), ({}, 502)],
)
def test_status_is_the_engines_own_or_502(payload: dict[str, Any], status: int) -> None:
    """An engine's error keeps its HTTP status; one without is a bad gateway."""
    assert status == EngineStreamError(payload).status


def test_cut_off_is_a_bad_gateway() -> None:
    """A worker that died mid-answer says nothing, so this is said for it."""
    error = EngineStreamError.cut_off()

    assert (error.status, error.type) == (502, "server_error")
    assert "before it was complete" in error.message


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"code": 500, "message": "boom", "type": "server_error"}}, "boom"),
        ({"error": {}}, "The engine sent an error without a message."),
        ({"error": "boom"}, "boom"),
    ],
)
def test_an_error_payload_raises(event: dict[str, Any], message: str) -> None:
    """Whatever shape the error has, it has a message."""
    with pytest.raises(EngineStreamError) as caught:
        raise_if_error(event)

    assert message == caught.value.message


def test_an_answer_payload_passes() -> None:
    """Some carry `error: null` until there is one."""
    raise_if_error({"choices": [], "error": None})
