"""One turn: pinned to a slot of ours, tried again only where nothing was sent, settled on every path."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from hugind.supervisor.llama.command import UnixEndpoint
from tests.eventually import eventually, eventually_sync
from tests.proxy.serving import (
    ADMIN_KEY,
    KEY,
    Served,
    chat,
    connect,
    endless,
    http_request,
    serving,
    standin_config,
)

TWO_WORKERS = {"server": {"max_slots": 1, "concurrency": 2}}


@pytest.mark.parametrize("wanted", [1, 7, "1", None, [1]])
async def test_the_client_does_not_choose_the_slot(tmp_path: Path, wanted: object) -> None:
    """`id_slot` is ours, whatever the client sends."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served, connect(served.port) as client:
        await client.send(http_request({**endless(), "id_slot": wanted}))
        await eventually(lambda: served.leases().free == 1)

        await eventually(lambda: served.worker().status().in_flight == 1)
        while not (busy := await served.busy_slots()):
            pass
        assert [0] == busy


async def test_a_turn_goes_to_another_worker_when_the_first_cannot_be_reached(tmp_path: Path) -> None:
    """Nothing was sent, so nobody notices."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, **TWO_WORKERS)}) as served:
        _disconnect(served, index=0)
        answers = [await served.client.post("/v1/chat/completions", json=chat()) for _ in "ab"]

        assert [200, 200] == [answer.status_code for answer in answers]


async def test_a_worker_that_cannot_be_reached_is_an_error_in_the_end(tmp_path: Path) -> None:
    """One more try, then 503 with a time to come back."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        _disconnect(served, index=0)
        for path, body in (("/v1/chat/completions", chat()), ("/tokenize", {"content": "a"})):
            answer = await served.client.post(path, json=body)

            assert (503, "worker_unreachable") == (answer.status_code, answer.json()["error"]["code"])
            assert "retry-after" in answer.headers


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", chat()), ("/tokenize", {"content": "a"})])
async def test_a_worker_that_was_just_killed_costs_no_request(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """A request that finds a worker dead waits for its next life."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        for _ in range(3):
            await eventually(lambda: served.leases().free == 2)
            _kill_unnoticed(served.spawn().process.pid)
            answer = await served.client.post(path, json=body)

            assert 200 == answer.status_code


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_death_after_sending_is_not_tried_again(tmp_path: Path, is_stream: bool) -> None:
    """The worker may have begun to answer: the client hears of it, and only one worker has died."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, **TWO_WORKERS)}) as served:
        body = chat(stream=is_stream, standin={"die_after_tokens": 0})
        answer = await served.client.post("/v1/chat/completions", json=body)
        await served.until_free(2)

        assert (502, "engine_died") == (answer.status_code, answer.json()["error"]["code"])
        assert 1 == sum(worker.restarts for worker in served.engine().workers)


async def test_a_death_in_mid_stream_ends_in_an_error_event(tmp_path: Path) -> None:
    """The stream is well-formed to its end: events, then an error, and no `[DONE]`."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post(
            "/v1/chat/completions", json=chat(stream=True, max_tokens=9, standin={"token_ms": 1, "die_after_tokens": 3})
        )
        events = answer.text.strip().split("\n\n")

        assert 200 == answer.status_code
        assert '"code":"engine_died"' in events[-1]
        assert all(event.startswith("data: {") for event in events)
        assert len(events) > 3


async def test_what_the_engine_refuses_frees_the_slot_at_once(tmp_path: Path) -> None:
    """A refusal is an answer: nothing has to be settled."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post("/v1/chat/completions", json={"model": "chat"})

        assert 400 == answer.status_code
        assert "messages" in answer.json()["error"]["message"]
        assert 2 == served.leases().free


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_nesting_that_can_be_read_but_not_written_is_refused(tmp_path: Path, path: str) -> None:
    """orjson reads 1024 levels and writes 254."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post(path, json={**chat(), "x": deep})
        await served.until_free(2)

        assert 400 == answer.status_code
        assert "nested too deeply" in answer.json()["error"]["message"]


async def test_many_small_requests_at_once(tmp_path: Path) -> None:
    """Requests that need no slot are not lost in a burst, though llama-server's backlog is short."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        asked = [served.client.post("/tokenize", json={"content": "a"}) for _ in range(64)]

        assert {200} == {answer.status_code for answer in await asyncio.gather(*asked)}


async def test_a_turn_is_settled_with_what_the_engine_says(tmp_path: Path) -> None:
    """Its figures are read from streams and whole answers alike: how much is in the slot is known without asking."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        keeper = served.gateway.keeper(served.engine())
        for is_stream in (True, False):
            answer = await served.client.post("/v1/chat/completions", json=chat(f"{is_stream}", stream=is_stream))
            await served.until_free(2)
            place, seat = keeper.held()[answer.headers["x-hugind-session-id"]]
            (state,) = [state for state in await place.worker.client.slots(5) if state.id == place.slot]

            assert state.tokens - 1 <= seat.tokens <= state.tokens + 1


async def test_a_turn_that_died_is_a_turn(tmp_path: Path) -> None:
    """The engine took it; the session lives, though what was in its slot is gone."""
    header = {"X-Hugind-Session": "main"}
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        sessions = served.gateway.keeper(served.engine()).store.sessions
        first = await served.client.post("/v1/chat/completions", json=chat(), headers=header)
        session = sessions[first.headers["x-hugind-session-id"]]
        body = chat(stream=True, standin={"die_after_tokens": 2, "token_ms": 1})
        died = await served.client.post("/v1/chat/completions", json=body, headers=header)
        await served.until_free(2)
        known = session.turns, served.gateway.keeper(served.engine()).held()

    assert first.headers["x-hugind-session-id"] == died.headers["x-hugind-session-id"]
    assert (2, {}) == known


async def test_a_session_is_not_told_of_what_needs_none(tmp_path: Path) -> None:
    """Counting tokens is no turn."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        answer = await served.client.post("/tokenize", json={"content": "a"})

        assert "x-hugind-session" not in answer.headers
        assert {} == served.gateway.keeper(served.engine()).store.sessions


async def test_waiting_for_a_turn_counts_as_waiting(tmp_path: Path) -> None:
    """Both for an earlier request of the session and for a slot; neither is our overhead."""
    header = {"X-Hugind-Session": "main"}
    body = chat(max_tokens=10, standin={"token_ms": 10})
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        post = partial(served.client.post, "/v1/chat/completions", json=body, headers=header)
        answers = await asyncio.gather(post(), post())
        waits = sorted(float(answer.headers["x-hugind-queue-ms"]) for answer in answers)
        overheads = [float(answer.headers["x-hugind-overhead-ms"]) for answer in answers]

    assert waits[0] < 90 <= waits[1]
    assert max(overheads) < 90


@pytest.mark.parametrize(
    ("body", "is_served"),
    [
        (chat(max_tokens=9), True),
        (chat(max_tokens=9, stream=True), True),
        (chat(max_tokens=9, stream=True, n=2), True),
        (chat(max_tokens=9, stream=True, standin={"token_ms": 1, "die_after_tokens": 3}), True),
        ({"model": "chat"}, False),
    ],
)
async def test_a_turn_is_counted_for_who_asked(tmp_path: Path, body: dict[str, Any], is_served: bool) -> None:
    """What it got, finished or not: next is who got nothing yet. What the engine refused costs nothing."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        await served.client.post("/v1/chat/completions", json=body)
        await served.until_free(1)

        assert (["control", "tester"] if is_served else ["tester", "control"]) == await _order(served)


async def test_a_turn_that_was_left_is_counted(tmp_path: Path) -> None:
    """By what came of it until then."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        async with connect(served.port) as client:
            await client.send(http_request(chat(stream=True, max_tokens=4000, standin={"token_ms": 1})))
            assert b"data: " in await client.reader.readuntil(b"data: ")
        await served.until_free(1)

        assert ["control", "tester"] == await _order(served)


async def test_who_waits_is_named(tmp_path: Path) -> None:
    """For a slot, and for an earlier request of the same session."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, server={"max_slots": 1})}) as served:
        leases = served.leases()
        lease = await leases.acquire()
        post = partial(served.client.post, "/v1/chat/completions", headers={"X-Hugind-Session": "main"})
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(post(json=chat(max_tokens=2))) for _ in "ab"]
            await eventually(lambda: len(leases.waiting_list()) == 2)
            rows = leases.waiting_list()
            leases.release(lease)
        ids = {answer.result().headers["x-request-id"] for answer in answers}

    assert [("slot", 1), ("session", None)] == [(row["for"], row["position"]) for row in rows]
    assert ids == {row["request_id"] for row in rows}
    assert {"tester"} == {row["user"] for row in rows}
    assert 1 == len({row["session"] for row in rows})


async def _order(served: Served) -> list[str]:
    """Whose request would be served first: of the one with a key for asking and, after it, the one who runs it all."""
    leases = served.leases()
    lease = await leases.acquire()
    async with asyncio.TaskGroup() as group:
        for number, key in enumerate((KEY, ADMIN_KEY), start=1):
            headers = {"Authorization": f"Bearer {key}"}
            body = chat(f"a word of {key}", max_tokens=1)
            group.create_task(served.client.post("/v1/chat/completions", json=body, headers=headers))
            await eventually(lambda number=number: leases.waiting == number)  # type: ignore[misc]
        order = [row["user"] for row in leases.waiting_list()]
        leases.release(lease)
    return order


def _disconnect(served: Served, index: int) -> None:
    """Make a worker unreachable without its supervision noticing."""
    endpoint = served.spawn(index=index).endpoint
    assert isinstance(endpoint, UnixEndpoint)
    endpoint.path.unlink()


def _kill_unnoticed(pid: int) -> None:
    """The process is dead, and its supervision has had no chance to see it."""
    process = psutil.Process(pid)
    process.kill()
    eventually_sync(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
