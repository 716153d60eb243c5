"""What a request is let in for, what it pays, and the one row that it leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.admission import CHUNK_TOKENS, FIRST_TOKENS_PER_BYTE, TokenGauge
from tests.eventually import eventually
from tests.proxy.people import add_user, bearer, rows
from tests.proxy.serving import Served, chat, connect, endless, http_request, serving, standin_config

CHAT = "/v1/chat/completions"


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(0.01, 1.5))), st.integers(1, 100_000))
def test_an_estimate_is_no_less_than_the_last_of_its_kind(seen: list[tuple[int, float]], size: int) -> None:
    """What was just counted is covered, and nothing is more than fits."""
    gauge = TokenGauge()
    for size_bytes, per_byte in seen:
        gauge.note(size_bytes, int(size_bytes * per_byte))
    if seen:
        last, per_byte = seen[-1]

        assert gauge.estimate(last, 10**9) >= int(last * per_byte)
    assert gauge.estimate(size, 4096) <= 4096


def test_the_first_estimate_is_on_the_safe_side() -> None:
    gauge = TokenGauge()
    gauge.note(0, 5)
    gauge.note(5, 0)

    assert gauge.estimate(1000, 10_000) == int(1000 * FIRST_TOKENS_PER_BYTE) + 1


async def test_a_finished_turn_is_one_row(served: Served, secret: str) -> None:
    """With what the engine counted."""
    answer = await served.client.post(CHAT, json=chat(max_tokens=3), headers=bearer(secret))
    usage = answer.json()["usage"]
    (row,) = await rows(served)

    assert row["request_id"] == answer.headers["x-request-id"]
    assert (row["username"], row["path"], row["dialect"], row["model"]) == ("alice", CHAT, "openai", "chat")
    assert (row["status_code"], row["stream"], row["error_code"]) == (200, False, None)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], 3)
    assert row["finish_reason"] == "length"
    assert row["response_bytes"] == len(answer.content)
    assert row["client_ip"] == "127.0.0.1"
    assert 0 < row["ttft_ms"] <= row["duration_ms"]


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [True, False])
async def test_every_dialect_leaves_the_same(served: Served, secret: str, path: str, stream: bool) -> None:
    body: dict[str, Any] = {**chat("hello there", max_tokens=4, stream=stream), "max_output_tokens": 4}
    if path == "/v1/completions":
        body["prompt"] = "hello there"
    if path == "/v1/responses":
        body["input"] = "hello there"
    answer = await served.client.post(path, json=body, headers=bearer(secret))
    (row,) = await rows(served)

    assert answer.status_code == 200
    assert (row["path"], row["stream"], row["status_code"], row["completion_tokens"]) == (path, stream, 200, 4)
    assert row["dialect"] == ("anthropic" if path == "/v1/messages" else "openai")
    assert row["prompt_tokens"] > 0
    assert row["finish_reason"] in ("length", "incomplete", "completed", "limit")


async def test_several_answers_are_one_row(served: Served, secret: str) -> None:
    answer = await served.client.post(CHAT, json=chat(max_tokens=3, n=3), headers=bearer(secret))
    (row,) = await rows(served)

    assert len(answer.json()["choices"]) == 3
    assert row["completion_tokens"] == 9


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"max_completion_tokens": 1, "max_tokens": 3000}, 200),
        ({"max_tokens": 1, "max_completion_tokens": 3000}, 429),
        ({"max_completion_tokens": 1, "n_predict": 3000}, 429),
        ({"max_tokens": 1, "n_predict": -1}, 429),
    ],
)
async def test_the_limit_that_counts_is_the_engines(served: Served, said: dict[str, int], status: int) -> None:
    """Who says how much in two ways is let in for as much as the engine will give."""
    secret = await add_user(served.gateway.books.accounts, "bob", {"tokens_per_minute": 200})
    asked = {**chat(standin={"reply": "a"}), **said}
    answer = await served.client.post(CHAT, json=asked, headers=bearer(secret))

    assert status == answer.status_code


async def test_a_turn_whose_client_leaves_pays_for_what_was_produced(served: Served, secret: str) -> None:
    async with connect(served.port) as client:
        await client.send(http_request(endless(token_ms=5), key=secret))
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(5):
            await client.reader.readuntil(b"\n\n")
        client.leave()
    await served.until_free(2)
    (row,) = await rows(served)

    assert (row["status_code"], row["finish_reason"]) == (499, None)
    assert 5 <= row["completion_tokens"] < 4000
    assert row["prompt_tokens"] > 0


async def test_a_turn_that_never_got_a_slot_pays_nothing(served: Served, secret: str) -> None:
    async with connect(served.port) as one, connect(served.port) as two, connect(served.port) as three:
        for client in (one, two):
            await client.send(http_request(endless(), key=secret))
        await eventually(lambda: served.leases().free == 0)
        await three.send(http_request(chat(), key=secret))
        await eventually(lambda: served.leases().waiting == 1)
        three.leave()
        await eventually(lambda: served.leases().waiting == 0)
    await served.until_free(2)
    found = await rows(served)
    waited = [row for row in found if not row["stream"]]

    assert [499] * 3 == [row["status_code"] for row in found]
    assert [(0, 0)] == [(row["prompt_tokens"], row["completion_tokens"]) for row in waited]


async def test_a_turn_cut_by_the_death_of_its_worker_is_one_row(served: Served, secret: str) -> None:
    async with connect(served.port) as client:
        await client.send(http_request(endless(token_ms=5), key=secret))
        await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readuntil(b"\n\n")
        os.kill(served.spawn().process.pid, signal.SIGKILL)
        await client.rest()
    await eventually(lambda: served.engine().state == "ready")
    (row,) = await rows(served)

    assert (row["status_code"], row["error_code"]) == (502, "engine_died")


async def test_what_is_refused_leaves_nothing(served: Served, secret: str) -> None:
    for body in ({"model": "none"}, {"messages": 1, "model": 5}):
        assert (await served.client.post(CHAT, json=body, headers=bearer(secret))).status_code >= 400
    assert (await served.client.post(CHAT, content=b"{", headers=bearer(secret))).status_code == 400
    assert (await served.client.post(CHAT, json=chat(), headers=bearer("wrong"))).status_code == 401

    assert await rows(served) == []


async def test_what_the_engine_refuses_is_a_row(served: Served, secret: str) -> None:
    answer = await served.client.post(CHAT, json={"model": "chat"}, headers=bearer(secret))
    (row,) = await rows(served)

    assert row["status_code"] == answer.status_code >= 400
    assert row["completion_tokens"] == 0


async def test_an_answer_without_an_end_ends_with_the_tokens(served: Served) -> None:
    """A turn that does not say how much it wants gets a chunk at a time, while there are any."""
    budget = 2500
    secret = await add_user(served.gateway.books.accounts, "bob", {"tokens_per_day": budget})
    body = chat(stream=True, standin={"token_ms": 0.5, "reply": "word" * 1000})
    answer = await served.client.post(CHAT, json=body, headers=bearer(secret))
    again = await served.client.post(CHAT, json=body, headers=bearer(secret))
    (row,) = await rows(served)

    assert "quota_exceeded" in answer.text
    assert (row["status_code"], row["error_code"]) == (429, "quota_exceeded")
    assert row["completion_tokens"] + row["prompt_tokens"] <= budget + CHUNK_TOKENS
    assert (again.status_code, again.headers["x-should-retry"]) == (429, "false")


async def test_nothing_said_is_kept_unless_wanted(tmp_path: Path, served: Served, secret: str) -> None:
    await served.client.post(CHAT, json=chat("my secret thought", max_tokens=3), headers=bearer(secret))
    await rows(served)

    assert b"secret thought" not in b"".join(file.read_bytes() for file in tmp_path.glob("hugind.db*"))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine of two slots."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, drain_s=1) as gateway:
        yield gateway


@pytest.fixture
async def secret(served: Served) -> str:
    """A key of the user `alice`, who has no limits."""
    return await add_user(served.gateway.books.accounts, "alice")
