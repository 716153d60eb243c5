"""Server-sent events as values: bytes in, events out, and the way back.

The field rules are the HTML standard's (https://html.spec.whatwg.org/multipage/server-sent-events.html); `id:` and
`retry:` are dropped because nothing behind this gateway reconnects.
"""

from __future__ import annotations

from typing import NamedTuple

DONE = b"[DONE]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One dispatched event: its joined `data:` lines, and its `event:` name if it had one."""

    data: bytes
    event: str | None = None

    @property
    def is_done(self) -> bool:
        """Is this the `[DONE]` that ends a chat or completion stream? The engine's other streams just end."""
        return self.data == DONE


class EventParser:
    """Parses one stream; lives as long as that stream, and needs no closing.

    An event counts only when its closing blank line has arrived, so a stream that was cut off yields no half event.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._started = False
        self._swallow_newline = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order; often none."""
        if not chunk:
            return []
        if self._swallow_newline and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._swallow_newline = False
        if b"\r" in chunk:
            # A carriage return ends its line at once; a newline that follows in the next chunk is its other half.
            self._swallow_newline = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._buffer += chunk
        if not self._started and not self._strip_mark():
            return []
        return self._take_events()

    def _strip_mark(self) -> bool:
        """Drop a byte order mark; False while too few bytes have come to tell."""
        head = bytes(self._buffer[:3])
        if len(head) < 3 and _BYTE_ORDER_MARK.startswith(head):
            return False
        if head == _BYTE_ORDER_MARK:
            del self._buffer[:3]
        self._started = True
        return True

    def _take_events(self) -> list[Event]:
        # Looking again only at what is new keeps one large event in many small chunks linear.
        end = self._buffer.rfind(b"\n\n", self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - 1)
            return []
        blocks = bytes(self._buffer[:end]).split(b"\n\n")
        del self._buffer[: end + 2]
        self._searched = 0
        return [event for block in blocks if (event := _parse_block(block)) is not None]


def format_event(data: bytes, event: str | None = None) -> bytes:
    """One event as bytes, blank line included. Line breaks in `data` become several `data:` lines."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return head + b"data: " + data + b"\n\n"


def format_comment(text: str = "") -> bytes:
    """A comment: keeps a quiet connection open and means nothing to any client."""
    return b":" + text.encode() + b"\n\n"


def _parse_block(block: bytes) -> Event | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return Event(block[6:])
    data: list[bytes] = []
    name: bytes = b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    if not data:
        return None
    return Event(b"\n".join(data), name.decode("utf-8", "replace") or None)
