"""Server-sent events: any split, any line ending, and the way back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.sse import DONE, Event, EventParser, format_comment, format_event

_LINES = st.sampled_from(
    [
        b"data: {}",
        b"data:x",
        b"data: [DONE]",
        b"data",
        b"data:  two",
        b"event: ping",
        b"event:",
        b": note",
        b":",
        b"id: 1",
    ]
    + [b""] * 5
)
_ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])
_STREAMS = st.lists(st.tuples(_LINES, _ENDINGS)).map(lambda lines: b"".join(line + ending for line, ending in lines))
_WITHOUT_RETURNS = st.binary().filter(lambda data: b"\r" not in data)


def _parse(*chunks: bytes) -> list[Event]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@given(_STREAMS, st.lists(st.integers(min_value=0, max_value=200)))
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """Where the network cuts a stream makes no difference."""
    bounds = [0, *sorted(cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(bounds)]
    chunks = [*chunks, stream[sum(map(len, chunks)) :]]

    assert _parse(stream) == _parse(*chunks)
    assert _parse(stream) == _parse(*(stream[at : at + 1] for at in range(len(stream))))


@given(st.lists(_LINES))
def test_line_endings_mean_the_same(lines: list[bytes]) -> None:
    """\\n, \\r\\n and \\r end a line alike."""
    unix, windows, classic = (b"".join(line + ending for line in lines) for ending in (b"\n", b"\r\n", b"\r"))

    assert _parse(unix) == _parse(windows) == _parse(classic)


@given(_WITHOUT_RETURNS, st.sampled_from([None, "ping", "content_block_delta"]))
def test_formatted_events_parse_back(data: bytes, name: str | None) -> None:
    """format_event and EventParser are inverse; a carriage return alone comes back as a newline."""
    assert [Event(data, name)] == _parse(format_event(data, name))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a\n\n", [Event(b" a")]),
        (b"data\n\n", [Event(b"")]),
        (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
        (b"event: ping\ndata: {}\n\n", [Event(b"{}", "ping")]),
        (b"event: ping\n\ndata: a\n\n", [Event(b"a")]),
        (b":\n\n: ping\n\n", []),
        (b": note\ndata: a\n\n", [Event(b"a")]),
        (b"id: 1\nretry: 5\ndata: a\n\n", [Event(b"a")]),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
        (b"data: a\n\ndata: half", [Event(b"a")]),
        (b"data: a\n\ndata: half\n", [Event(b"a")]),
    ],
)
def test_parses_what_the_standard_says(stream: bytes, expected: list[Event]) -> None:
    """Fields, comments and blank lines; an event without its closing blank line does not count."""
    assert expected == _parse(stream)


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    """No byte beyond the blank line is waited for, not even after a carriage return."""
    assert [Event(b"a")] == EventParser().feed(b"data: a\r\r")


def test_done_is_recognised() -> None:
    """[DONE] ends a chat stream; nothing else does."""
    assert [event.is_done for event in _parse(format_event(DONE), format_event(b"{}"))] == [True, False]


def test_line_breaks_in_data_become_data_lines() -> None:
    """A carriage return in data cannot end its event early."""
    assert format_event(b"a\nb\r\nc\rd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"


def test_comments_are_no_events() -> None:
    """A keep-alive comment parses to nothing."""
    assert _parse(format_comment(), format_comment(" still here")) == []


def test_a_large_event_in_small_chunks_is_whole() -> None:
    """A Responses stream ends with one event that holds the whole answer."""
    data = b"x" * 300_000
    stream = format_event(data)

    assert [Event(data)] == _parse(*(stream[at : at + 100] for at in range(0, len(stream), 100)))
