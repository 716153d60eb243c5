"""Which failures of the engine are the client's doing."""

from __future__ import annotations

import pytest

from hugind.proxy.dialects.engine_refusals import true_status


@pytest.mark.parametrize(
    "message",
    [
        "Failed to parse tools: Unsupported tool type",
        "Failed to parse messages: Missing 'role' in message",
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        "input (1201 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
    ],
)
def test_a_request_that_can_never_be_served(message: str) -> None:
    """Is the client's to mend, not to repeat; another status is believed."""
    assert (400, 503) == (true_status(500, message), true_status(503, message))


def test_a_failure_of_its_own() -> None:
    """Stays one."""
    assert (500, 501, 400) == (
        true_status(500, "Compute error."),
        true_status(501, "not supported"),
        true_status(400, "bad"),
    )
