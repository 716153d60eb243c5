"""The users of the fairness bench: what they ask for, and what is counted. The engine is a few lines here."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import orjson
import pytest

from hugind.cli.bench.fairness_figures import Served
from hugind.cli.bench.fairness_load import Ask, Person, measure_crowd, measure_shares
from hugind.cli.bench.target import LoadError
from tests.cli.bench.scripted_server import scripted_server

USAGE = {"prompt_tokens": 9, "completion_tokens": 3}


class Machine:
    """Serves one turn after another, in the order of arrival. A turn takes as many steps as it has tokens."""

    def __init__(self) -> None:
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.asked: list[str] = []
        self._one_at_a_time = asyncio.Lock()

    def user(self, name: str, tokens: int = 1) -> Ask:
        async def ask() -> Served:
            self.asked.append(name)
            self.in_flight[name] += 1
            self.most_in_flight[name] = max(self.most_in_flight[name], self.in_flight[name])
            asked_s = time.perf_counter()
            try:
                async with self._one_at_a_time:
                    granted_s = time.perf_counter()
                    for _ in range(tokens):
                        await asyncio.sleep(0)
            finally:
                self.in_flight[name] -= 1
            return Served(asked_s, time.perf_counter(), (granted_s - asked_s) * 1e3, tokens)

        return ask


def answer(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


async def test_person_reads_what_the_bench_counts() -> None:
    """The gateway's word on the wait, the tokens of prompt and answer, and a time that holds both."""
    whole = answer("200 OK", orjson.dumps({"usage": USAGE}), b"x-hugind-queue-ms: 0.250")
    async with scripted_server(whole) as target:
        url = "http://{}:{}".format(*target.address)
        async with Person("light-1", url, engine="fair", key="k", seed=1) as person:
            turn = await person.ask(8, 3)

    assert (0.25, 12) == (turn.wait_ms, turn.tokens)
    assert turn.own_ms > 0


async def test_refused_turn_is_an_error() -> None:
    """Whoever is turned away has not waited: no sample."""
    refusal = answer("429 Too Many Requests", b"slow down")
    async with scripted_server(refusal) as target:
        url = "http://{}:{}".format(*target.address)
        async with Person("heavy", url, engine="fair", key="k", seed=1) as person:
            with pytest.raises(LoadError, match="heavy: status 429: slow down"):
                await person.ask(8, 3)


async def test_crowd() -> None:
    """The heavy user always has as many in flight, each light one never more than one, until each has had enough."""
    machine = Machine()
    light = [machine.user("light-1"), machine.user("light-2")]
    crowd = await measure_crowd(machine.user("heavy"), light, in_flight=7, turns=3, pause_s=lambda: 0.001, limit_s=60)

    assert {"heavy": 7, "light-1": 1, "light-2": 1} == machine.most_in_flight
    assert 0 == machine.in_flight.total()
    assert 6 <= len(crowd.light)
    assert len(crowd.light) <= machine.asked.count("light-1") + machine.asked.count("light-2")
    assert ["heavy"] * 7 == machine.asked[:7]
    assert len(crowd.heavy) < machine.asked.count("heavy") - 7  # what was asked before the light ones came is not of it


async def test_crowd_waits_for_the_slowest() -> None:
    """A light user who is served less often has its turns, too."""
    machine = Machine()
    pauses = iter([0.0, 0.05])
    crowd = await measure_crowd(
        machine.user("heavy"),
        [machine.user("early"), machine.user("late")],
        in_flight=1,
        turns=2,
        pause_s=lambda: next(pauses, 0.0),
        limit_s=60,
    )

    assert machine.asked.count("late") >= 2
    assert len(crowd.light) > 4


async def test_endless_crowd_is_ended() -> None:
    """A user who is never served does not keep the bench for ever."""

    async def never() -> Served:
        await asyncio.Event().wait()
        raise AssertionError

    machine = Machine()
    with pytest.raises(LoadError, match="not done within 0 s"):
        await measure_crowd(machine.user("heavy"), [never], in_flight=2, turns=1, pause_s=lambda: 0, limit_s=0.05)

    assert 0 == machine.in_flight.total()


async def test_one_error_ends_all() -> None:
    """The error of one turn is the error of the whole, and nobody goes on asking."""

    async def refused() -> Served:
        raise LoadError("light-1: status 503")

    machine = Machine()
    with pytest.raises(LoadError, match="light-1: status 503"):
        await measure_crowd(machine.user("heavy"), [refused], in_flight=3, turns=1, pause_s=lambda: 0, limit_s=60)
    with pytest.raises(LoadError, match="light-1: status 503"):
        await measure_shares({"a": machine.user("a"), "b": refused}, in_flight=2, warm_up_s=0.01, window_s=60)

    assert 0 == machine.in_flight.total()


async def test_shares_are_of_the_window() -> None:
    """Everybody has as many in flight; only tokens of turns that ended within the window count."""
    machine = Machine()
    shares = await measure_shares(
        {"short": machine.user("short", 2), "long": machine.user("long", 6)},
        in_flight=4,
        warm_up_s=0.05,
        window_s=0.1,
    )

    assert {"short": 4, "long": 4} == machine.most_in_flight
    assert 0 == machine.in_flight.total()
    assert shares.tokens["short"] % 2 == shares.tokens["long"] % 6 == 0
    assert shares.tokens["short"] < 2 * machine.asked.count("short")
    assert abs(shares.tokens["short"] / 2 - shares.tokens["long"] / 6) <= 4  # in the order of arrival: as many turns
    assert shares.seconds >= 0.1
