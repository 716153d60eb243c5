"""`ps` and `stop`: their words. Against a real gateway: tests/cli/test_serve.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hugind.cli import resident

NOW = datetime(2026, 5, 8, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "vram", "words"),
    [(100, 0, "100% CPU"), (100, 100, "100% GPU"), (100, 52, "48%/52% CPU/GPU"), (0, 0, "100% CPU")],
)
def test_processor(size: int, vram: int, words: str) -> None:
    """As Ollama's table has it."""
    assert resident.processor(size, vram) == words


def loaded(**fields: Any) -> dict[str, Any]:
    """A model as /api/ps tells it."""
    return {"name": "m:latest", "refs": 0, "expires_at": "2026-05-08T12:04:10Z", **fields}


def test_until() -> None:
    """How long it stays; somebody needs it; somebody said forever, as Ollama tells it; it is about to go."""
    assert resident.until(loaded(), NOW) == "in 4 min"
    assert resident.until(loaded(refs=2), NOW) == "in use"
    assert resident.until(loaded(expires_at="2318-05-08T12:00:00.123456789+00:00"), NOW) == "never"
    assert resident.until(loaded(expires_at=None), NOW) == "never"
    assert resident.until(loaded(expires_at=(NOW - timedelta(seconds=1)).isoformat()), NOW) == "now"


def test_plain_line() -> None:
    """To be searched: name, refs, expiry; a server that tells no refs is not hugind."""
    assert resident.plain_line(loaded()) == "m:latest: refs=0 expires=2026-05-08T12:04:10Z"
    assert resident.plain_line(loaded(refs=1)) == "m:latest: refs=1 expires=in-use"
    assert resident.plain_line(loaded(expires_at="2318-01-01T00:00:00Z")) == "m:latest: refs=0 expires=never"
    assert resident.plain_line({"name": "m\x1b", "expires_at": None}) == "m\ufffd: refs=- expires=never"
