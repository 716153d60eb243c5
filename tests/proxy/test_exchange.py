"""One request: a bounded body in, and the headers of every answer."""

from __future__ import annotations

import orjson
import pytest

from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.exchange import OVERSIZE_DRAIN
from tests.proxy.exchanges import DISCONNECT, FakeClient, body_message

LIMIT = 100


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
)
async def test_a_body_that_is_no_object_is_refused(body: bytes, says: str) -> None:
    """What is not a JSON object gets 400 and a sentence that says why."""
    with pytest.raises(ApiError, match=says) as refused:
        await FakeClient(body_message(body)).exchange.read_json(LIMIT)

    assert refused.value.status == 400


async def test_deep_nesting_is_refused() -> None:
    """A thousand brackets are an error of the client, not a crash."""
    with pytest.raises(ApiError, match="not valid JSON"):
        await FakeClient(body_message(b'{"a":' * 2000)).exchange.read_json(1_000_000)


async def test_pieces_are_joined() -> None:
    """A body in several pieces is one body."""
    client = FakeClient(body_message(b'{"a"', more=True), body_message(b": 1", more=True), body_message(b"}"))

    assert await client.exchange.read_json(LIMIT) == {"a": 1}


@pytest.mark.parametrize("pieces", [1, 2, 5])
async def test_a_large_body_is_read_to_its_end_and_refused(pieces: int) -> None:
    """Up to a bound the rest of a body that is too large is read, so that the client hears the answer."""
    last = pieces - 1
    client = FakeClient(*(body_message(b"x" * (LIMIT + 1), more=i < last) for i in range(pieces)))
    with pytest.raises(ApiError) as refused:
        await client.exchange.read_json(LIMIT)

    assert refused.value.status == 413
    assert client.says.empty()


async def test_an_endless_body_is_cut() -> None:
    """A body that never ends is read only so far."""
    client = FakeClient(*(body_message(b"x" * LIMIT, more=True) for _ in range(OVERSIZE_DRAIN * 2)))
    with pytest.raises(ApiError) as refused:
        await client.exchange.read_json(LIMIT)

    assert refused.value.status == 413
    assert not client.says.empty()


async def test_a_huge_announcement_is_refused_unread() -> None:
    """A content length far beyond the limit is refused before anything is read."""
    client = FakeClient(headers=[(b"content-length", str(LIMIT * OVERSIZE_DRAIN + 1).encode())])
    with pytest.raises(ApiError) as refused:
        await client.exchange.read_json(LIMIT)

    assert refused.value.status == 413


@pytest.mark.parametrize("said", [(), (body_message(b'{"a"', more=True),)])
async def test_a_client_may_leave_before_its_body_is_whole(said: tuple[dict[str, object], ...]) -> None:
    """Half a request is not served."""
    with pytest.raises(ClientGone):
        await FakeClient(*said, DISCONNECT).exchange.read_json(LIMIT)


async def test_a_header_given_twice_is_refused() -> None:
    """Which of two credentials counts would be a guess."""
    exchange = FakeClient(headers=[(b"authorization", b"a"), (b"authorization", b"b")]).exchange
    with pytest.raises(ApiError) as refused:
        exchange.header(b"authorization")

    assert refused.value.status == 400
    assert exchange.header(b"x-api-key") is None


async def test_every_answer_says_who_it_is_and_what_it_cost() -> None:
    """An id, the time in the queue and our own overhead, whatever the answer is."""
    client = FakeClient()
    client.exchange.queue_s = 0.5
    await client.exchange.respond(418, {"a": 1}, [(b"retry-after", b"5")])
    headers = dict(client.got[0]["headers"])

    assert client.got[0]["status"] == 418
    assert orjson.loads(client.body) == {"a": 1}
    assert str(len(client.body)).encode() == headers[b"content-length"]
    assert client.exchange.request_id.encode() == headers[b"x-request-id"]
    assert headers[b"x-hugind-queue-ms"] == b"500.000"
    assert headers[b"retry-after"] == b"5"
    assert float(headers[b"x-hugind-overhead-ms"])
    assert client.exchange.is_complete


async def test_a_session_is_told_once_it_is_known() -> None:
    """Where it was, which it is, and what it took to bring it back; before that, nothing."""
    before, after = FakeClient(), FakeClient()
    after.exchange.session, after.exchange.restore_s = ("warm", "ses_1"), 0.25
    for client in (before, after):
        await client.exchange.respond(200, {})
    headers = dict(after.got[0]["headers"])

    assert not any(name.startswith(b"x-hugind-session") for name, _ in before.got[0]["headers"])
    assert (b"warm", b"ses_1") == (headers[b"x-hugind-session"], headers[b"x-hugind-session-id"])
    assert headers[b"x-hugind-restore-ms"] == b"250.000"


async def test_waiting_is_not_our_overhead() -> None:
    """Neither for a slot, nor for a session to be brought back, nor for the engine."""
    client = FakeClient()
    client.exchange.queue_s, client.exchange.restore_s, client.exchange.upstream_s = 100, 10, 1
    await client.exchange.respond(200, {})

    assert float(dict(client.got[0]["headers"])[b"x-hugind-overhead-ms"]) < -110_000


async def test_a_wait_counts_while_it_lasts() -> None:
    """An answer that begins before it is over tells of it as well as one that begins after it; it counts once."""
    client = FakeClient()
    exchange = client.exchange
    exchange.begin_wait()
    await exchange.start(200, [])
    told_ms = float(dict(client.got[0]["headers"])[b"x-hugind-queue-ms"])
    exchange.end_wait()
    waited_s = exchange.queue_s
    exchange.end_wait()

    assert 0 < told_ms / 1000 < waited_s + 0.001
    assert waited_s == exchange.queue_s


async def test_an_engine_is_heard_when_it_answers() -> None:
    """That says that the request was read."""
    exchange = FakeClient().exchange
    exchange.sent_upstream()
    before = exchange.was_heard
    exchange.heard_upstream()

    assert (False, True) == (before, exchange.was_heard)


async def test_request_ids_differ() -> None:
    """No two requests share an id."""
    assert len({FakeClient().exchange.request_id for _ in range(3)}) == 3
