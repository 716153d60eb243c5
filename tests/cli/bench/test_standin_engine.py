"""The stand-in's slots: pinning, waiting, leaving, remembering."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.fakes.standin import StandinProcess, StartStandin, wait_until

URL = "/v1/chat/completions"


def chat(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def endless(**more: Any) -> dict[str, Any]:
    return chat(max_tokens=1000, standin={"token_ms": 20}, **more)


def test_id_slot_wraps(start_standin: StartStandin) -> None:
    """A slot id is taken modulo the number of slots, never refused."""
    standin = start_standin("--parallel", "3")
    named = [
        standin.client.post("/completion", json={"prompt": "a", "id_slot": id_slot}).json()["id_slot"]
        for id_slot in (0, 2, 3, 7)
    ]

    assert named == [0, 2, 0, 1]


def test_least_recently_used_slot(start_standin: StartStandin) -> None:
    """Without a slot id the slot that rested longest is taken."""
    standin = start_standin("--parallel", "2")
    named = [standin.client.post("/completion", json={"prompt": "a"}).json()["id_slot"] for _ in range(4)]

    assert named == [0, 1, 0, 1]


async def test_busy_slot_defers_in_order(start_standin: StartStandin) -> None:
    """Requests for a busy slot wait, each for its turn; another slot serves meanwhile."""
    standin = start_standin("--parallel", "2", "--metrics")
    finished: list[str] = []

    async def ask(client: httpx.AsyncClient, name: str, **more: Any) -> None:
        answer = await client.post(URL, json=chat(**more))
        assert answer.status_code == 200
        finished.append(name)

    async with standin.async_client() as client, asyncio.TaskGroup() as group:
        group.create_task(ask(client, "first", id_slot=0, standin={"prefill_ms": 700}))
        await asyncio.to_thread(wait_until, lambda: standin.busy_slots() == [0], "the first computes")
        group.create_task(ask(client, "second", id_slot=0))
        await asyncio.to_thread(wait_until, lambda: standin.metric("requests_deferred") == 1, "the second waits")
        group.create_task(ask(client, "third", id_slot=0))
        await asyncio.to_thread(wait_until, lambda: standin.metric("requests_deferred") == 2, "the third waits")
        await ask(client, "other slot", id_slot=1)

    assert finished == ["other slot", "first", "second", "third"]


def test_stream_left_frees_its_slot(start_standin: StartStandin) -> None:
    """A client that leaves its stream frees the slot long before the tokens are out."""
    standin = start_standin()
    with standin.client.stream("POST", URL, json=endless(stream=True)) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)

        assert standin.busy_slots() == [0]

    wait_until(lambda: not standin.busy_slots(), "the slot is free")


def test_prefill_left_frees_its_slot_at_a_batch(start_standin: StartStandin) -> None:
    """A client that leaves during a prompt frees the slot at the next batch; no header came before."""
    standin = start_standin("--batch-ms", "50")
    with pytest.raises(httpx.ReadTimeout):
        standin.client.post(URL, json=chat(stream=True, standin={"prefill_ms": 60_000}), timeout=0.2)

    wait_until(lambda: not standin.busy_slots(), "the slot is free")


def test_waiting_request_left_is_dropped(start_standin: StartStandin) -> None:
    """A client that leaves while it waits is not served."""
    standin = start_standin("--metrics")
    with standin.client.stream("POST", URL, json=endless(stream=True)) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            standin.client.post(URL, json=chat(), timeout=0.2)
        wait_until(lambda: standin.metric("requests_deferred") == 0, "nobody waits")
    wait_until(lambda: not standin.busy_slots(), "the slot is free")


def test_unstreamed_request_left_alone_is_cancelled(start_standin: StartStandin) -> None:
    """Left while the server is otherwise idle, a request that does not stream is cancelled."""
    standin = start_standin("--parallel", "2")
    leave_unstreamed(standin, tokens=1000)

    wait_until(lambda: not standin.busy_slots(), "the slot is free")


def test_unstreamed_request_left_beside_a_stream_runs_on(start_standin: StartStandin) -> None:
    """Left while another slot streams, a request that does not stream runs to its end: so does llama-server."""
    standin = start_standin("--parallel", "2", "--metrics")
    with standin.client.stream("POST", URL, json=endless(stream=True, id_slot=0)) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)
        leave_unstreamed(standin, tokens=30)
        wait_until(lambda: standin.busy_slots() == [0], "it is done")

        assert standin.slots()[1]["next_token"][0]["n_decoded"] == 30
        assert standin.metric("tokens_predicted_total") == 30


def leave_unstreamed(standin: StandinProcess, tokens: int) -> None:
    """Ask on slot 1 for an answer that does not stream, and leave once it is being computed."""
    body = chat(max_tokens=tokens, id_slot=1, standin={"token_ms": 20})
    with pytest.raises(httpx.ReadTimeout):
        standin.client.post(URL, json=body, timeout=0.2)
