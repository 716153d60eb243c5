"""What is told to people."""

from __future__ import annotations

from datetime import datetime

import pytest

from hugind.cli import wording


def test_moments_are_local() -> None:
    """By the clock of whoever reads; none is none."""
    local = datetime(2026, 3, 1, 12, 30, 5).astimezone()

    assert wording.moment(local.isoformat()) == "2026-03-01 12:30:05"
    assert wording.moment(None) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59, "59 s"), (150, "2 min"), (7300, "2 h"), (200000, "2 d")],
)
def test_spans(seconds: float, words: str) -> None:
    """In the largest unit of which there are two."""
    assert wording.span(seconds) == words


@pytest.mark.parametrize(
    ("refs", "left_s", "words"), [(0, 250, "in 4 min"), (2, 250, "in use"), (0, None, "never"), (0, -1, "now")]
)
def test_expiry(refs: int, left_s: float | None, words: str) -> None:
    """Nobody knows when something goes that is in use."""
    assert wording.expiry(refs, left_s) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (274_302_450, "274 MB"), (4.1e9, "4.1 GB"), (2.5e12, "2.5 TB")],
)
def test_sizes(count: float, words: str) -> None:
    """In the unit that leaves one to three digits."""
    assert wording.size(count) == words


def test_excerpts() -> None:
    """One line, cut where it is long, with nothing that a terminal would obey."""
    assert wording.excerpt(None) is None
    assert wording.excerpt("a\n b\x1b") == "a b\ufffd"
    assert wording.excerpt("x" * 100, most=10) == "xxxxxxx..."


def test_limits() -> None:
    """Those that are set, with what is unlimited; nothing set has a word of its own."""
    assert wording.limits({}, none="default") == "default"
    assert wording.limits({"requests": 1000, "window_s": 90.0, "queued": 0}, none="-") == (
        "1,000 requests in 90 s, 0 waiting"
    )
    assert wording.limits({"requests": None, "tokens_per_day": None}, none="-") == (
        "unlimited requests, unlimited tokens/day"
    )
    assert wording.limits({"window_s": 5}, none="-") == "default requests in 5 s"


def test_names_and_people() -> None:
    """None of them moves the cursor."""
    assert wording.names(["a", "b\x1b"], everything="all") == "a, b\ufffd"
    assert wording.names(None, everything="all") == "all"
    assert wording.names([], everything="anywhere") == "anywhere"
    assert wording.person("front", "ann\x07") == "front/ann\ufffd"
    assert wording.person("alice", None) == "alice"
