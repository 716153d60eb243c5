"""What a client can cause or see, and who catches it as what."""

from __future__ import annotations

from hugind.proxy.errors import ApiError, ClientGone, StreamBroken


def test_a_refusal_carries_what_a_dialect_needs() -> None:
    """Status and words, and what a program reacts to."""
    error = ApiError(503, "busy", code="queue_full", retry_after_s=5, headers={"allow": "POST"})

    assert (503, "busy", "queue_full", 5) == (error.status, error.message, error.code, error.retry_after_s)
    assert {"allow": "POST"} == error.headers
    assert "busy" == str(error)


def test_a_broken_stream_is_the_gateways_fault() -> None:
    """502 with the reason, for programs too."""
    error = StreamBroken("it died")

    assert isinstance(error, ApiError)
    assert (502, "engine_died") == (error.status, error.code)
    assert "it died" in error.message


def test_a_client_that_left_has_a_status_for_the_log() -> None:
    """Nobody is there to see it."""
    assert 499 == ClientGone().status
